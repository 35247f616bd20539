import re
from collections.abc import Callable

import pytest
import torch
from gulliver.fused_mlp.arguments import MAX_INNER_SIZE, RowGroup, check_arguments, check_weights, row_groups
from gulliver.fused_mlp.formats import check_capability
from gulliver.fused_mlp.reference import fused_mlp, unfused_mlp

MakeArguments = Callable[..., dict[str, torch.Tensor]]


def int8(*shape: int, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int8, device=device)


# Against the arguments of m = 5 rows in G = 2 groups, K1 = 3, N1 = 8, N2 = 6.
BROKEN = {
    "x1 list": ("x1", [[1, 2, 3]], "x1 must be a tensor, but it is a list"),
    "weight1 missing": ("weight1", None, "weight1 must be a tensor, but it is a NoneType"),
    "group_list list": ("group_list", [2, 5], "group_list must be a tensor, but it is a list"),
    "x1 dtype": ("x1", torch.zeros(5, 3), "x1 must be torch.int8, but it is torch.float32"),
    "x1 dimensions": ("x1", int8(5, 3, 1), "x1 must have 2 dimensions, but it is (5, 3, 1)"),
    "x1 columns": ("x1", int8(5, 4), "x1 must have shape (m, K1) = (5, 3), but it is (5, 4)"),
    "x1 device": ("x1", int8(5, 3, device="meta"), "x1 must be on weight1's device, cpu, but it is on meta"),
    "weight1 dtype": (
        "weight1",
        int8(2, 3, 8).int(),
        "weight1 must be torch.int8 or torch.float8_e4m3fn, but it is torch.int32",
    ),
    "weight1 dimensions": (
        "weight1",
        int8(3, 8),
        "weight1 must have 3 dimensions, none of them 0, but it is (3, 8)",
    ),
    "weight1 without groups": (
        "weight1",
        int8(0, 3, 8),
        "weight1 must have 3 dimensions, none of them 0, but it is (0, 3, 8)",
    ),
    "weight1 odd": (
        "weight1",
        int8(2, 3, 7),
        "weight1 must have an even N1, half of it act and half gate, but N1 is 7",
    ),
    "weight1 inner size": (
        "weight1",
        int8(1, 1, 2).expand(2, 131072, 2),
        "weight1 must have K1 at most 131071, or sums overflow, but it is 131072",
    ),
    "scale1 dtype": (
        "scale1",
        torch.ones(2, 8).half(),
        "scale1 must be torch.float32, but it is torch.float16",
    ),
    "scale1 shape": ("scale1", torch.ones(8), "scale1 must have shape (G, N1) = (2, 8), but it is (8,)"),
    "scale1 device": (
        "scale1",
        torch.ones(2, 8, device="meta"),
        "scale1 must be on weight1's device, cpu, but it is on meta",
    ),
    "per_token_scale1 dtype": (
        "per_token_scale1",
        torch.ones(5).double(),
        "per_token_scale1 must be torch.float32, but it is torch.float64",
    ),
    "per_token_scale1 shape": (
        "per_token_scale1",
        torch.ones(5, 1),
        "per_token_scale1 must have shape (m) = (5,), but it is (5, 1)",
    ),
    "weight2 dtype": ("weight2", torch.zeros(2, 6, 4), "weight2 must be torch.int8, but it is torch.float32"),
    "weight2 transposed": (
        "weight2",
        int8(2, 4, 6),
        "weight2 must have shape (G, N2, N1/2) = (2, 4, 4), but it is (2, 4, 6)",
    ),
    "weight2 groups": (
        "weight2",
        int8(1, 6, 4),
        "weight2 must have shape (G, N2, N1/2) = (2, 6, 4), but it is (1, 6, 4)",
    ),
    "per_channel_scale2 dtype": (
        "per_channel_scale2",
        int8(2, 6),
        "per_channel_scale2 must be torch.float32, but it is torch.int8",
    ),
    "per_channel_scale2 shape": (
        "per_channel_scale2",
        torch.ones(2, 5),
        "per_channel_scale2 must have shape (G, N2) = (2, 6), but it is (2, 5)",
    ),
    "group_list dtype": (
        "group_list",
        torch.tensor([2, 5], dtype=torch.int32),
        "group_list must be torch.int64, but it is torch.int32",
    ),
    "group_list shape": (
        "group_list",
        torch.tensor([5]),
        "group_list must have shape (G) = (2,), but it is (1,)",
    ),
    "group_list negative": (
        "group_list",
        torch.tensor([-1, 5]),
        "group_list must not be negative, but it is [-1, 5]",
    ),
    "group_list decreasing": (
        "group_list",
        torch.tensor([5, 2]),
        "group_list must not decrease: it counts rows cumulatively, but it is [5, 2]",
    ),
    "group_list overrun": (
        "group_list",
        torch.tensor([2, 6]),
        "group_list must end at or before the 5 rows of x1, but it is [2, 6]",
    ),
}


@pytest.mark.parametrize("implementation", [check_arguments, fused_mlp, unfused_mlp])
@pytest.mark.parametrize(("name", "value", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_named_with_its_argument_and_value(
    make_arguments: MakeArguments,
    implementation: Callable[..., object],
    name: str,
    value: torch.Tensor,
    message: str,
) -> None:
    arguments = {**make_arguments([2, 3], 3, 4, 6), name: value}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        implementation(**arguments)


def test_all_operands_have_the_format_of_weight1(make_arguments: MakeArguments) -> None:
    arguments = make_arguments([2, 3], 3, 4, 6)
    in_e4m3 = {name: arguments[name].to(torch.float8_e4m3fn) for name in ("x1", "weight1", "weight2")}
    check_arguments(**{**arguments, **in_e4m3})
    with pytest.raises(ValueError, match=r"^x1 must be torch.float8_e4m3fn, but it is torch.int8$"):
        check_arguments(**{**arguments, **in_e4m3, "x1": arguments["x1"]})
    with pytest.raises(ValueError, match=r"^weight2 must be torch.float8_e4m3fn, but it is torch.int8$"):
        check_arguments(**{**arguments, **in_e4m3, "weight2": arguments["weight2"]})


def test_the_kernels_for_processors_take_int8_only(make_arguments: MakeArguments) -> None:
    names = ("weight1", "scale1", "weight2", "per_channel_scale2")
    weights = {name: make_arguments([2, 3], 3, 4, 6, dtype=torch.float8_e4m3fn)[name] for name in names}
    with pytest.raises(ValueError, match=r"^weight1 must be torch.int8, but it is torch.float8_e4m3fn$"):
        check_weights(**weights)


@pytest.mark.parametrize("row_counts", [[0, 3], [3, 0], [0, 0]])
def test_groups_without_rows_and_rows_of_no_group_are_allowed(
    row_counts: list[int], make_arguments: MakeArguments
) -> None:
    check_arguments(**make_arguments(row_counts, 3, 4, 6, tail=2))


def test_the_counts_of_group_list_are_not_read_when_asked_not_to(make_arguments: MakeArguments) -> None:
    check_arguments(**{**make_arguments([2, 3], 3, 4, 6), "group_list": torch.tensor([5, 9])}, check_groups=False)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6)])
def test_a_gpu_that_cannot_multiply_e4m3_is_refused(capability: tuple[int, int]) -> None:
    check_capability(torch.int8, capability)
    message = f"weight1 may be torch.float8_e4m3fn from compute capability 8.9 on, but this GPU has {capability[0]}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_capability(torch.float8_e4m3fn, capability)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_a_gpu_that_can_multiply_e4m3_is_not(capability: tuple[int, int]) -> None:
    check_capability(torch.float8_e4m3fn, capability)


def test_the_largest_inner_size_is_the_last_whose_sums_fit_int32() -> None:
    assert MAX_INNER_SIZE * 128 * 128 <= 2**31 - 1 < (MAX_INNER_SIZE + 1) * 128 * 128


def test_sums_of_e4m3_of_that_size_are_exact_in_float64() -> None:
    # The smallest product is 2^-9 * 2^-9, the largest 448 * 448.
    assert MAX_INNER_SIZE * 448**2 * 2**18 <= 2**53


def test_row_groups_are_the_groups_with_rows() -> None:
    assert row_groups(torch.tensor([0, 2, 2, 5])) == [RowGroup(1, 0, 2), RowGroup(3, 2, 5)]


def test_a_row_group_takes_its_rows() -> None:
    assert torch.arange(9)[RowGroup(group=1, first_row=2, end_row=5).rows].tolist() == [2, 3, 4]
