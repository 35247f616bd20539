import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from gulliver.fused_mlp import reference
from gulliver.fused_mlp.formats import E4M3, INT8, NumberFormat
from gulliver.fused_mlp.schedules import FEW_ROWS, Schedule, TileSizes
from hypothesis import given, settings
from hypothesis import strategies as st

MakeArguments = Callable[..., dict[str, torch.Tensor]]
NumpyMlp = Callable[..., Any]
FusedMlp = Callable[..., torch.Tensor]

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton (the gpu extra) is not installed")


def test_importing_the_room_does_not_import_triton() -> None:
    rooms = "import gulliver.fused_mlp, gulliver.fused_mlp.reference, gulliver.fused_mlp.cpu"
    code = f"import sys; {rooms}; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.fixture(scope="module")
def triton_mlp() -> FusedMlp:
    """Small tiles make small shapes cross them; a GPU runs the compiled kernels, a CPU the interpreter."""
    from gulliver.fused_mlp import triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tiles = TileSizes(rows=16, columns=16, inner=32)

    def run(quantize_on_load: bool = False, check_groups: bool = True, **arguments: torch.Tensor) -> torch.Tensor:
        on_device = {name: tensor.to(device) for name, tensor in arguments.items()}
        schedule = Schedule(tiles, tiles, quantize_on_load, row_tiles_together=2)
        return triton.fused_mlp(**on_device, schedule=schedule, check_groups=check_groups).cpu()

    return run


@needs_triton
class TestAgainstNumpy:
    @settings(max_examples=10, deadline=None)
    @given(
        row_counts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
        k1=st.sampled_from([1, 5, 64, 123]),
        k2=st.sampled_from([1, 5, 32, 61]),
        n2=st.sampled_from([1, 5, 33]),
        tail=st.integers(0, 2),
        seed=st.integers(0, 2**16),
        dtype=st.sampled_from([torch.int8, torch.float8_e4m3fn]),
        quantize_on_load=st.booleans(),
    )
    def test_it_agrees_for_any_shape_groups_and_tail(
        self,
        triton_mlp: FusedMlp,
        make_arguments: MakeArguments,
        numpy_mlp: NumpyMlp,
        row_counts: list[int],
        k1: int,
        k2: int,
        n2: int,
        tail: int,
        seed: int,
        dtype: torch.dtype,
        quantize_on_load: bool,
    ) -> None:
        arguments = make_arguments(row_counts, k1, k2, n2, tail, seed, dtype)
        out, (truth, slack) = triton_mlp(quantize_on_load, **arguments), numpy_mlp(arguments)
        # 2^-11 is half a step of float16, of which 2^-24 is the smallest; float32 adds little to either.
        assert (np.abs(out.double().numpy() - truth) <= 2.0**-10.9 * np.abs(truth) + slack + 2.0**-24).all()


@needs_triton
@pytest.mark.parametrize("quantize_on_load", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
class TestRowsThatNeedCare:
    @pytest.fixture
    def run(self, triton_mlp: FusedMlp, quantize_on_load: bool) -> FusedMlp:
        return partial(triton_mlp, quantize_on_load)

    @pytest.fixture
    def make(self, make_arguments: MakeArguments, dtype: torch.dtype) -> MakeArguments:
        return partial(make_arguments, dtype=dtype)

    def test_no_rows_at_all_give_no_output(self, run: FusedMlp, make: MakeArguments) -> None:
        assert run(**make([0, 0], 5, 3, 7)).shape == (0, 7)

    def test_a_row_of_zeros_gives_zeros(self, run: FusedMlp, make: MakeArguments) -> None:
        arguments = make([3], 64, 32, 16)
        arguments["x1"][1] = torch.zeros(64)
        assert (run(**arguments) != 0).any(dim=1).tolist() == [True, False, True]

    def test_a_row_too_small_to_quantize_gives_zeros(self, run: FusedMlp, make: MakeArguments) -> None:
        # h is about y1^2 / 2, so y1 near 1e-20 gives h near 1e-40, below 2^-119 = 1.5e-36 but not zero.
        arguments = make([2], 64, 32, 16)
        arguments["per_token_scale1"][1] = 1e-20
        assert (run(**arguments) != 0).any(dim=1).tolist() == [True, False]

    def test_a_row_that_overflows_gives_nan_and_changes_no_other_row(self, run: FusedMlp, make: MakeArguments) -> None:
        arguments = make([3], 64, 32, 16)
        arguments["per_token_scale1"][1] = torch.inf
        with np.errstate(all="ignore"):
            assert run(**arguments).isnan().all(dim=1).tolist() == [False, True, False]

    def test_the_tail_is_zero_and_longer_than_a_tile(self, run: FusedMlp, make: MakeArguments) -> None:
        out = run(**make([2, 0, 3], 64, 32, 16, tail=19))
        assert (out != 0).any(dim=1).tolist() == [True] * 5 + [False] * 19


@needs_triton
class TestWeightsInAnyLayout:
    def test_transposed_weights_give_the_same_output(self, triton_mlp: FusedMlp, make_arguments: MakeArguments) -> None:
        arguments = make_arguments([5, 3], 64, 32, 16)
        transposed = {
            name: arguments[name].transpose(1, 2).contiguous().transpose(1, 2) for name in ("weight1", "weight2")
        }
        assert torch.equal(triton_mlp(**{**arguments, **transposed}), triton_mlp(**arguments))

    def test_sums_above_2_to_the_24_agree_with_the_reference(
        self, triton_mlp: FusedMlp, make_arguments: MakeArguments
    ) -> None:
        # 1200 * 127 * 127 = 19,354,800 exceeds 2^24 = 16,777,216, up to which float32 holds every integer.
        # The scales keep act at 1.9.
        arguments = make_arguments([1], 1200, 1, 1)
        arguments["x1"].fill_(127)
        arguments["weight1"].fill_(127)
        arguments["scale1"].fill_(1e-7)
        arguments["per_token_scale1"].fill_(1.0)
        assert torch.equal(triton_mlp(**arguments), reference.fused_mlp(**arguments))


def all_ties(number_format: NumberFormat) -> torch.Tensor:
    """Every value of a format, every tie and its neighbours; the largest value makes the multiplier 1."""
    if number_format == INT8:
        values = torch.arange(-127.0, 128.0)
    else:
        every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        values = every[every.isfinite()].unique()
    ties = (values[1:] + values[:-1]) / 2
    beside = [torch.nextafter(ties, torch.full_like(ties, side * torch.inf)) for side in (-1, 1)]
    return torch.cat([values, ties, *beside])[None]


@needs_triton
@pytest.mark.parametrize("number_format", [INT8, E4M3])
def test_a_row_is_quantized_as_the_reference_does_at_every_tie(number_format: NumberFormat) -> None:
    from gulliver.fused_mlp import triton_kernels

    device = "cuda" if torch.cuda.is_available() else "cpu"
    h = all_ties(number_format)
    truth_q, truth_s2 = reference.quantize_rows(h, number_format)
    q, s2 = torch.empty(h.shape, dtype=number_format.dtype, device=device), torch.empty(1, device=device)
    group_list = torch.ones(1, dtype=torch.int64, device=device)
    # In chunks of 256 columns, more than one.
    triton_kernels.quantize_rows[(1,)](
        h.to(device), q, s2, group_list, 1, h.shape[1], column_count=256, enable_fp_fusion=False
    )
    assert torch.equal(q.cpu().float(), truth_q.float())
    assert torch.equal(s2.cpu(), truth_s2)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("row_counts", [[3, 5], [0, 40, 24], [100, 70]])
def test_the_schedules_for_few_some_and_many_rows_agree_too(
    make_arguments: MakeArguments, numpy_mlp: NumpyMlp, row_counts: list[int], dtype: torch.dtype
) -> None:
    from gulliver.fused_mlp import triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = make_arguments(row_counts, 160, 80, 48, dtype=dtype)
    out = triton.fused_mlp(**{name: tensor.to(device) for name, tensor in arguments.items()}).cpu()
    truth, slack = numpy_mlp(arguments)
    assert (np.abs(out.double().numpy() - truth) <= 2.0**-10.9 * np.abs(truth) + slack + 2.0**-24).all()


@needs_triton
def test_every_candidate_is_timed_and_the_fastest_comes_first(make_arguments: MakeArguments) -> None:
    from gulliver.fused_mlp import triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = {name: tensor.to(device) for name, tensor in make_arguments([3], 32, 16, 8).items()}
    shapes, times = [], iter([3.0, 1.0, 4.0, 2.0])

    def milliseconds(run: Callable[[], torch.Tensor]) -> float:
        shapes.append(run().shape)
        return next(times)

    ordered = triton.time_schedules(**arguments, milliseconds=milliseconds)
    assert list(ordered.values()) == [1.0, 2.0, 3.0, 4.0]
    assert [FEW_ROWS.index(schedule) for schedule in ordered] == [1, 3, 0, 2]
    assert shapes == [(3, 8)] * 4


@needs_triton
class TestGroupList:
    def test_a_broken_rule_is_named(self, triton_mlp: FusedMlp, make_arguments: MakeArguments) -> None:
        with pytest.raises(ValueError, match="group_list must end at or before the 5 rows of x1"):
            triton_mlp(**{**make_arguments([2, 3], 3, 4, 6), "group_list": torch.tensor([2, 6])})

    def test_unchecked_it_gives_the_same(self, triton_mlp: FusedMlp, make_arguments: MakeArguments) -> None:
        arguments = make_arguments([20, 0, 3], 64, 32, 16, tail=2)
        assert torch.equal(triton_mlp(check_groups=False, **arguments), triton_mlp(**arguments))

    def test_unchecked_and_too_long_it_is_clamped_to_the_rows(
        self, triton_mlp: FusedMlp, make_arguments: MakeArguments
    ) -> None:
        arguments = make_arguments([0, 5], 64, 32, 16)
        wrong = {**arguments, "group_list": torch.tensor([-7, 900])}
        assert torch.equal(triton_mlp(check_groups=False, **wrong), triton_mlp(**arguments))
