import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gulliver.fused_mlp.formats import E4M3
from gulliver.fused_mlp.reference import (
    deinterleave,
    exact_matmul,
    fused_mlp,
    interleave,
    quantize_rows,
    swiglu,
    unfused_mlp,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MakeArguments = Callable[..., dict[str, torch.Tensor]]
NumpyMlp = Callable[..., Any]


class TestAHandComputedExample:
    """One row, one input, two act and two gate columns; log(3) makes sigmoid a simple fraction."""

    # acc1 = 1 * (1, -1, 4, 2), y1 = acc1 * log(3): act = (log 3, -log 3), gate = (4 log 3, 2 log 3).
    # sigmoid(log 3) = 3/4 and sigmoid(-log 3) = 1/4, so with L = log(3)^2:
    # h = (3/4 * 4 L, -1/4 * 2 L) = (3 L, -L/2), row_max = 3 L, s2 = 3 L / 127.
    # q = (127, round(-127 / 6) = round(-21.17) = -21).
    # acc2 = (127 * 2 + -21 * 3, 127 * -1 + -21 * 0) = (191, -127).
    # out = (191 * 0.5 * 3 L / 127, -127 * 1 * 3 L / 127) = (0.75196850 * 3 L, -3 L).
    arguments: ClassVar = {
        "x1": torch.tensor([[1]], dtype=torch.int8),
        "weight1": torch.tensor([[[1, -1, 4, 2]]], dtype=torch.int8),
        "scale1": torch.ones(1, 4),
        "per_token_scale1": torch.tensor([math.log(3)]),
        "weight2": torch.tensor([[[2, 3], [-1, 0]]], dtype=torch.int8),
        "per_channel_scale2": torch.tensor([[0.5, 1.0]]),
        "group_list": torch.tensor([1]),
    }

    def test_the_output_is_the_one_computed_by_hand(self) -> None:
        three_l = 3 * math.log(3) ** 2
        by_hand = torch.tensor([[0.7519685 * three_l, -three_l]]).half()
        assert torch.equal(fused_mlp(**self.arguments), by_hand)

    def test_the_quantized_row_and_its_scale_are_those_computed_by_hand(self) -> None:
        l_ = math.log(3) ** 2
        q, s2 = quantize_rows(torch.tensor([[3 * l_, -l_ / 2]]))
        assert q.tolist() == [[127, -21]]
        assert s2.item() == pytest.approx(3 * l_ / 127, rel=1e-6)


class TestSteps:
    def test_the_integer_product_is_exact_where_float32_is_not(self) -> None:
        # 7168 products of 127 * 127 and one of 1 * 1: odd, and above 2^24, so float32 cannot hold it.
        left = torch.full((1, 7169), 127, dtype=torch.int8)
        right = torch.full((7169, 1), 127, dtype=torch.int8)
        left[0, -1] = right[-1, 0] = 1
        assert exact_matmul(left, right).item() == 7168 * 127 * 127 + 1 == 115_612_673

    def test_silu_is_on_the_first_half(self) -> None:
        # silu(5) * 0.5 = 5 * 0.99331 * 0.5 = 2.48327, while 5 * silu(0.5) = 5 * 0.5 * 0.62246 = 1.55615.
        assert swiglu(torch.tensor([[5.0, 0.5]])).item() == pytest.approx(2.48327, abs=1e-5)

    def test_halves_round_to_even(self) -> None:
        # Row max 127 makes the multiplier 1, so the row is rounded as it stands.
        q, _ = quantize_rows(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]]))
        assert q.tolist() == [[127, 0, 2, 2, 0, -2, -2]]

    def test_the_multiplier_is_one_correctly_rounded_division(self) -> None:
        # For these maxima, 127 * (1 / row_max) in float32 differs from 127 / row_max, and so does 127 times its
        # half; h = row_max / 2 then lies on the other side of 63.5, the tie that goes to 64.
        row_max = np.linspace(1, 2, 4097, dtype=np.float32)
        q, _ = quantize_rows(torch.from_numpy(np.stack([row_max, row_max / 2], axis=1)))
        steps = (row_max / 2) * (np.float32(127) / row_max)
        assert steps.dtype == np.float32
        assert np.array_equal(q[:, 1].numpy(), np.rint(steps))

    def test_the_largest_magnitude_may_be_negative(self) -> None:
        q, s2 = quantize_rows(torch.tensor([[-254.0, 2.0]]))
        assert (q.tolist(), s2.tolist()) == ([[-127, 1]], [2.0])

    @pytest.mark.parametrize("row_max", [0.0, 1e-45, 2.0**-120])
    def test_a_row_of_zeros_or_nearly_has_q_and_s2_zero(self, row_max: float) -> None:
        q, s2 = quantize_rows(torch.tensor([[0.0, row_max]]))
        assert (q.tolist(), s2.tolist()) == ([[0, 0]], [0.0])

    @pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
    def test_a_row_that_is_not_finite_has_q_zero_and_a_scale_that_is_not_finite(self, broken: float) -> None:
        q, s2 = quantize_rows(torch.tensor([[1.0, broken]]))
        assert q.tolist() == [[0, 0]]
        assert not s2.isfinite().any()


class TestE4M3:
    def test_the_sum_is_exact_and_rounded_once(self) -> None:
        # 448 * 448 + 2^-9 * 2^-9 + 2^-9 * 2^-9 = 200704 + 2^-17: float32 steps there are 2^-6, and 2^-18 drops out.
        left = torch.tensor([[448.0, 2.0**-9, 2.0**-9, -448.0]]).to(torch.float8_e4m3fn)
        right = torch.tensor([[448.0], [2.0**-9], [2.0**-9], [448.0]]).to(torch.float8_e4m3fn)
        assert exact_matmul(left, right).item() == 2.0**-17
        assert exact_matmul(left[:, :3], right[:3]).item() == 448.0 * 448.0

    def test_a_row_is_rounded_to_the_nearest_e4m3_ties_to_even(self) -> None:
        # Row max 448 makes the multiplier 1. Spacings: 32 from 256 on, 1 from 8 on, 2^-9 below 2^-6.
        row = torch.tensor([[-448.0, 303.0, 304.0, 8.5, 9.5, 2.0**-10, 3 * 2.0**-10, 2.0**-11]])
        q, s2 = quantize_rows(row, E4M3)
        assert q.float().tolist() == [[-448.0, 288.0, 320.0, 8.0, 10.0, 0.0, 2 * 2.0**-9, 0.0]]
        assert s2.item() == 1.0

    def test_the_largest_of_a_row_becomes_448_whatever_the_division_rounds_to(self) -> None:
        q, _ = quantize_rows(torch.linspace(1, 2, 4097)[:, None], E4M3)
        assert (q.float() == 448).all()

    @pytest.mark.parametrize(("row_max", "q_max", "s2"), [(2.0**-118, 0.0, 0.0), (2.0**-117, 448.0, 2.0**-117 / 448)])
    def test_a_row_below_2_to_the_minus_117_counts_as_zeros(self, row_max: float, q_max: float, s2: float) -> None:
        q, scale = quantize_rows(torch.tensor([[0.0, row_max]]), E4M3)
        assert q.float().max().item() == q_max
        assert scale.item() == pytest.approx(s2, rel=1e-6)
        assert scale.item() == 0 or scale.item() >= torch.finfo(torch.float32).tiny

    @pytest.mark.parametrize("broken", [math.inf, math.nan])
    def test_a_row_that_is_not_finite_has_q_zero(self, broken: float) -> None:
        q, s2 = quantize_rows(torch.tensor([[1.0, broken]]), E4M3)
        assert q.float().tolist() == [[0, 0]]
        assert not s2.isfinite().any()


class TestAgainstNumpy:
    @settings(max_examples=40, deadline=None)
    @given(
        row_counts=st.lists(st.integers(0, 6), min_size=1, max_size=5),
        k1=st.sampled_from([1, 2, 5, 64, 123]),
        k2=st.sampled_from([1, 3, 5, 32, 123]),
        n2=st.sampled_from([1, 2, 5, 61, 123]),
        tail=st.integers(0, 3),
        seed=st.integers(0, 2**16),
        dtype=st.sampled_from([torch.int8, torch.float8_e4m3fn]),
    )
    def test_it_agrees_for_any_shape_groups_and_tail(
        self,
        make_arguments: MakeArguments,
        numpy_mlp: NumpyMlp,
        row_counts: list[int],
        k1: int,
        k2: int,
        n2: int,
        tail: int,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        arguments = make_arguments(row_counts, k1, k2, n2, tail, seed, dtype)
        out, (truth, slack) = fused_mlp(**arguments), numpy_mlp(arguments)
        # 2^-11 is half a step of float16, of which 2^-24 is the smallest; float32 adds little to either.
        assert (np.abs(out.double().numpy() - truth) <= 2.0**-10.9 * np.abs(truth) + slack + 2.0**-24).all()
        assert torch.equal(out, unfused_mlp(**arguments))


class TestRowsThatNothingReaches:
    def test_the_tail_is_zero_and_the_rows_before_it_are_not(self, make_arguments: MakeArguments) -> None:
        out = fused_mlp(**make_arguments([2, 0, 3], 64, 32, 16, tail=4))
        assert (out[:5] != 0).any(dim=1).all()
        assert (out[5:] == 0).all()

    def test_no_rows_at_all_give_no_output(self, make_arguments: MakeArguments) -> None:
        assert fused_mlp(**make_arguments([0, 0], 5, 3, 7)).shape == (0, 7)

    def test_an_empty_group_changes_no_other_group(self, make_arguments: MakeArguments) -> None:
        arguments = make_arguments([3, 0, 2], 64, 32, 16)
        without = {
            name: tensor if name in ("x1", "per_token_scale1") else tensor[[0, 2]] for name, tensor in arguments.items()
        }
        assert torch.equal(fused_mlp(**arguments), fused_mlp(**without))

    def test_a_row_of_zeros_gives_zeros_and_changes_no_other_row(self, make_arguments: MakeArguments) -> None:
        arguments = make_arguments([4], 64, 32, 16)
        zeroed = arguments["x1"].clone()
        zeroed[1] = 0
        out, before = fused_mlp(**{**arguments, "x1": zeroed}), fused_mlp(**arguments)
        assert (out[1] == 0).all()
        assert torch.equal(out[[0, 2, 3]], before[[0, 2, 3]])

    def test_a_row_that_overflows_gives_nan_and_changes_no_other_row(self, make_arguments: MakeArguments) -> None:
        arguments = make_arguments([4], 64, 32, 16)
        scales = arguments["per_token_scale1"].clone()
        scales[1] = math.inf
        out, before = fused_mlp(**{**arguments, "per_token_scale1": scales}), fused_mlp(**arguments)
        assert out[1].isnan().all()
        assert torch.equal(out[[0, 2, 3]], before[[0, 2, 3]])


class TestInterleaving:
    def test_act_and_gate_blocks_alternate(self) -> None:
        # 256 columns in tiles of 128: act 0-63, gate 128-191, act 64-127, gate 192-255.
        columns = interleave(torch.arange(256), 128)
        expected = [*range(64), *range(128, 192), *range(64, 128), *range(192, 256)]
        assert columns.tolist() == expected

    def test_it_is_the_permutation_of_the_note(self) -> None:
        w = np.arange(2 * 3 * 1024).reshape(2, 3, 1024)
        note = w.reshape(2, 3, 2, 1024 // 256, 128).swapaxes(-3, -2).reshape(2, 3, 1024)
        assert np.array_equal(interleave(torch.from_numpy(w), 256).numpy(), note)

    @pytest.mark.parametrize("tile", [128, 256])
    def test_deinterleave_undoes_it(self, tile: int) -> None:
        columns = torch.arange(2 * 768).view(2, 768)
        assert torch.equal(deinterleave(interleave(columns, tile), tile), columns)
        assert torch.equal(interleave(deinterleave(columns, tile), tile), columns)

    @pytest.mark.parametrize("tile", [128, 256])
    def test_it_changes_nothing_in_the_output(self, make_arguments: MakeArguments, tile: int) -> None:
        arguments = make_arguments([3, 2], 17, 384, 5)
        permuted = {name: interleave(arguments[name], tile) for name in ("weight1", "scale1")}
        assert torch.equal(fused_mlp(**{**arguments, **permuted}, tile=tile), fused_mlp(**arguments))

    @pytest.mark.parametrize(
        ("column_count", "tile", "message"),
        [
            (256, 64, r"tile must be one of \(128, 256\), but it is 64"),
            (384, 256, r"columns must have a multiple of tile = 256 columns, but it has 384"),
        ],
    )
    def test_a_wrong_tile_is_named(self, column_count: int, tile: int, message: str) -> None:
        for permute in (interleave, deinterleave):
            with pytest.raises(ValueError, match=message):
                permute(torch.zeros(column_count), tile)

    def test_a_tile_that_does_not_divide_weight1_is_named(self, make_arguments: MakeArguments) -> None:
        with pytest.raises(ValueError, match="weight1 must have a multiple of tile = 128 columns, but it has 6"):
            fused_mlp(**make_arguments([1], 5, 3, 2), tile=128)
