import shutil
from collections.abc import Callable

import pytest
import torch
from gulliver.fused_mlp import cpu, reference
from hypothesis import given, settings
from hypothesis import strategies as st

MakeArguments = Callable[..., dict[str, torch.Tensor]]


def unsupported_because(kernel: cpu.Kernel) -> str | None:
    try:
        cpu.pack_weights(
            torch.zeros(1, 1, 2, dtype=torch.int8),
            torch.ones(1, 2),
            torch.zeros(1, 1, 1, dtype=torch.int8),
            torch.ones(1, 1),
            kernel,
        )
    except RuntimeError as error:
        return str(error)
    return None


def runs_here(kernel: cpu.Kernel) -> pytest.MarkDecorator:
    reason = unsupported_because(kernel)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


with_each_kernel = pytest.mark.parametrize(
    "kernel", [pytest.param(it, marks=runs_here(it), id=it.instructions) for it in cpu.KERNELS]
)


def cpu_mlp(arguments: dict[str, torch.Tensor], kernel: cpu.Kernel | None = None) -> torch.Tensor:
    weights = {name: arguments[name] for name in ("weight1", "scale1", "weight2", "per_channel_scale2")}
    rows = {name: arguments[name] for name in ("x1", "per_token_scale1", "group_list")}
    return cpu.fused_mlp(packed=cpu.pack_weights(**weights, kernel=kernel), **rows)


@with_each_kernel
class TestAgainstTheReference:
    """The sums are exact and the float32 steps are the reference's own, in its order: the tolerance is zero."""

    # Panels are 32 or 48 columns, blocks 8 rows or 16 and 32, and products come in fours or 64: the sizes lie on,
    # below and above these.
    @settings(max_examples=40, deadline=None)
    @given(
        row_counts=st.lists(st.sampled_from([*range(19), 31, 32, 33, 48, 49, 65]), min_size=1, max_size=5),
        k1=st.sampled_from([1, 3, 4, 5, 63, 64, 65, 123]),
        k2=st.sampled_from([1, 5, 24, 32, 123]),
        n2=st.sampled_from([1, 5, 16, 31, 32, 33, 47, 48, 49, 96, 123]),
        tail=st.integers(0, 3),
        seed=st.integers(0, 2**16),
    )
    def test_it_is_equal_for_any_shape_groups_and_tail(
        self,
        kernel: cpu.Kernel,
        make_arguments: MakeArguments,
        row_counts: list[int],
        k1: int,
        k2: int,
        n2: int,
        tail: int,
        seed: int,
    ) -> None:
        arguments = make_arguments(row_counts, k1, k2, n2, tail, seed)
        assert torch.equal(cpu_mlp(arguments, kernel), reference.fused_mlp(**arguments))

    def test_it_is_equal_for_the_inner_size_of_a_large_model(
        self, kernel: cpu.Kernel, make_arguments: MakeArguments
    ) -> None:
        arguments = make_arguments([9, 4], 7168, 60, 50)
        assert torch.equal(cpu_mlp(arguments, kernel), reference.fused_mlp(**arguments))

    def test_rows_and_weights_in_any_layout_give_the_same_output(
        self, kernel: cpu.Kernel, make_arguments: MakeArguments
    ) -> None:
        arguments = make_arguments([5, 3], 64, 32, 16)
        in_other_layouts = {
            name: tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.ndim > 1 else tensor
            for name, tensor in arguments.items()
        }
        assert torch.equal(cpu_mlp(in_other_layouts, kernel), cpu_mlp(arguments, kernel))

    def test_a_row_of_zeros_gives_zeros(self, kernel: cpu.Kernel, make_arguments: MakeArguments) -> None:
        arguments = make_arguments([3], 64, 32, 16)
        arguments["x1"][1] = 0
        assert (cpu_mlp(arguments, kernel) != 0).any(dim=1).tolist() == [True, False, True]

    def test_a_row_that_overflows_gives_nan(self, kernel: cpu.Kernel, make_arguments: MakeArguments) -> None:
        arguments = make_arguments([3], 64, 32, 16)
        arguments["per_token_scale1"][1] = torch.inf
        assert cpu_mlp(arguments, kernel).isnan().all(dim=1).tolist() == [False, True, False]


@with_each_kernel
class TestExactSums:
    """Scales of one show the int32 sums as float32."""

    @staticmethod
    def sums(x: torch.Tensor, weight: torch.Tensor, kernel: cpu.Kernel) -> torch.Tensor:
        packed = cpu.pack_weights(
            weight[None],
            torch.ones(1, weight.shape[1]),
            torch.zeros(1, 1, weight.shape[1] // 2, dtype=torch.int8),
            torch.ones(1, 1),
            kernel,
        )
        return cpu._grouped_matmul_dequantize(x, packed.first, torch.ones(len(x)), torch.tensor([len(x)]))

    def test_extremes_of_both_signs_do_not_saturate(self, kernel: cpu.Kernel) -> None:
        # -128 * -128 * 131071, the longest sum allowed, is 2^31 - 2^14, and float32 holds it: 131071 has 17 bits.
        extreme = torch.full((1, 131071), -128, dtype=torch.int8)
        assert self.sums(extreme, extreme.T.expand(-1, 2), kernel).tolist() == [[2147467264.0, 2147467264.0]]

    def test_a_one_survives_beside_large_sums_that_cancel(self, kernel: cpu.Kernel) -> None:
        # 3584 * 127 * 127 = 57,806,336 lies above 2^25, where float32 sums would drop the 1.
        x = torch.cat([torch.full((3584,), 127), torch.tensor([1]), torch.full((3584,), -127)]).to(torch.int8)
        weight = torch.full((7169, 2), 127, dtype=torch.int8)
        weight[3584] = 1
        assert self.sums(x[None], weight, kernel).tolist() == [[1.0, 1.0]]


@with_each_kernel
class TestQuantizingRows:
    # Below 2^-119 = 1.5e-36 a row counts as zeros; 17 columns leave one past the 16 lanes of a vector.
    @settings(max_examples=40, deadline=None)
    @given(
        row_max=st.sampled_from([0.0, 1e-45, 1e-36, 2.0**-119, 1.0, 3e38, torch.inf, torch.nan]),
        columns=st.sampled_from([1, 15, 16, 17, 40]),
        at=st.integers(0, 39),
        seed=st.integers(0, 2**16),
    )
    def test_it_is_the_reference_bit_for_bit(
        self, kernel: cpu.Kernel, row_max: float, columns: int, at: int, seed: int
    ) -> None:
        h = torch.rand(3, columns, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        h[1] *= min(abs(row_max), 1.0) if row_max == row_max else 1.0
        h[1, at % columns] = -row_max
        for fast, true in zip(cpu._quantize_rows(h, kernel), reference.quantize_rows(h), strict=True):
            torch.testing.assert_close(fast, true, rtol=0, atol=0, equal_nan=True)

    def test_halves_round_to_even(self, kernel: cpu.Kernel) -> None:
        # Row max 127 makes the multiplier 1, so the row is rounded as it stands.
        q, _ = cpu._quantize_rows(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]]), kernel)
        assert q.tolist() == [[127, 0, 2, 2, 0, -2, -2]]


@with_each_kernel
class TestErrors:
    def test_broken_rows_are_named(self, kernel: cpu.Kernel, make_arguments: MakeArguments) -> None:
        arguments = {**make_arguments([2, 3], 3, 4, 6), "group_list": torch.tensor([2, 6])}
        with pytest.raises(ValueError, match="group_list must end at or before the 5 rows of x1"):
            cpu_mlp(arguments, kernel)

    def test_rows_of_another_inner_size_are_named(self, kernel: cpu.Kernel, make_arguments: MakeArguments) -> None:
        arguments = {**make_arguments([2, 3], 3, 4, 6), "x1": torch.zeros(5, 4, dtype=torch.int8)}
        with pytest.raises(ValueError, match=r"x1 must have shape \(m, K1\) = \(5, 3\), but it is \(5, 4\)"):
            cpu_mlp(arguments, kernel)

    def test_weights_elsewhere_are_named(self, kernel: cpu.Kernel, make_arguments: MakeArguments) -> None:
        arguments = {name: tensor.to("meta") for name, tensor in make_arguments([2], 3, 4, 6).items()}
        with pytest.raises(ValueError, match="weight1 must be on the device cpu, but it is on meta"):
            cpu_mlp(arguments, kernel)


class TestCompiling:
    @pytest.mark.parametrize(
        ("known", "fastest"), [(["AVX512-VNNI", "AMX-INT8"], cpu.AMX), (["AVX512-VNNI"], cpu.VNNI), ([], None)]
    )
    def test_the_first_kernel_that_the_processor_knows_is_the_fastest(
        self, known: list[str], fastest: cpu.Kernel | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def library(kernel: cpu.Kernel) -> None:
            if kernel.instructions not in known:
                raise RuntimeError(f"no {kernel.instructions}")

        monkeypatch.setattr(cpu, "_library", library)
        if fastest is not None:
            assert cpu.fastest_kernel() == fastest
            return
        with pytest.raises(RuntimeError, match=r"^no AMX-INT8; no AVX512-VNNI$"):
            cpu.fastest_kernel()

    def test_a_missing_compiler_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(RuntimeError, match=r"needs a C compiler, one of \('cc', 'gcc', 'clang'\), on the PATH"):
            cpu.compile_library("")

    @pytest.mark.skipif(not any(map(shutil.which, cpu.COMPILERS)), reason="there is no C compiler")
    def test_what_the_compiler_says_is_passed_on(self) -> None:
        with pytest.raises(RuntimeError, match=r"could not compile the fused MLP(.|\n)*error"):
            cpu.compile_library("this is not C")
