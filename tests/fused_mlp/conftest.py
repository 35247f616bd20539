import math
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

# Triton reads it when it is first imported, which is after every conftest is. With a GPU, the kernels are compiled.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

Arguments = dict[str, Tensor]


def random_arguments(
    row_counts: list[int], k1: int, k2: int, n2: int, tail: int = 0, seed: int = 0, dtype: torch.dtype = torch.int8
) -> Arguments:
    """Scales keep act near 1, where silu bends, and the output far below the largest float16."""
    random = torch.Generator().manual_seed(seed)
    m, groups = sum(row_counts) + tail, len(row_counts)

    def operand(*shape: int) -> Tensor:
        if dtype == torch.int8:
            return torch.randint(-128, 128, shape, dtype=dtype, generator=random)
        return (74 * torch.randn(shape, generator=random)).clamp(-448, 448).to(dtype)

    def scale(typical: float, *shape: int) -> Tensor:
        return (0.5 + torch.rand(*shape, generator=random)) * typical

    return {
        "x1": operand(m, k1),
        "weight1": operand(groups, k1, 2 * k2),
        "scale1": scale(1 / (74 * math.sqrt(k1)), groups, 2 * k2),
        "per_token_scale1": scale(1 / 74, m),
        "weight2": operand(groups, n2, k2),
        "per_channel_scale2": scale(1 / (74 * math.sqrt(k2)), groups, n2),
        "group_list": torch.tensor(row_counts).cumsum(0),
    }


def nearest_int8(steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The nearest integer, half to even, and what the float32 of an implementation may change about it.

    A value this close to a half may round either way in float32, which moves q by one.
    """
    return np.rint(steps), (np.abs(np.abs(steps) % 1 - 0.5) < 1e-3).astype(np.float64)


# By how much the sums of E4M3 products may be off, relative to the magnitudes added up, and what that makes of h in
# steps of 448. In float32, as the interpreter adds: 61 terms of 2^-24, and 0.01 of a step. In Hopper's tensor cores,
# which keep 14 bits of each 128 products: four truncations to 2^-13, which may move h by a step.
E4M3_SUM_ERROR, E4M3_STEP_ERROR = (2.0**-11, 1.0) if torch.cuda.is_available() else (1e-5, 0.01)


def nearest_e4m3(steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The nearest E4M3, 3 bits below the first and none below 2^-9, and what rounded sums may change about it."""
    _, exponent = np.frexp(steps)
    spacing = 2.0 ** (np.maximum(exponent - 1, -6) - 3)
    to_tie = np.abs(np.abs(steps / spacing) % 1 - 0.5) * spacing
    near_tie = to_tie < 1e-3 * spacing + E4M3_STEP_ERROR
    return np.rint(steps / spacing) * spacing, np.where(near_tie, spacing + E4M3_STEP_ERROR, 0.0)


# The largest step, the rounding to a step, and the error of a sum, relative to that of the magnitudes.
FORMATS = {torch.int8: (127, nearest_int8, 0.0), torch.float8_e4m3fn: (448, nearest_e4m3, E4M3_SUM_ERROR)}


def row_by_row(arguments: Arguments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The six steps of the note in float64, where the sums are exact, and by how much a right result may miss them."""
    largest, nearest, sum_error = FORMATS[arguments["x1"].dtype]
    x1, w1, s1, t1, w2, c2, ends = (tensor.double().numpy() for tensor in arguments.values())
    out, slack = np.zeros((len(x1), w2.shape[1])), np.zeros((len(x1), w2.shape[1]))
    for row in range(int(ends[-1])):
        group = int(np.searchsorted(ends, row, side="right"))
        act, gate = np.split(x1[row] @ w1[group] * s1[group] * t1[row], 2)
        h = act / (1 + np.exp(-act)) * gate
        s2 = np.abs(h).max() / largest
        q, q_error = nearest(h / s2 if s2 else h)
        scale = c2[group] * s2
        out[row] = w2[group] @ q * scale
        slack[row] = np.abs(w2[group]) @ (q_error + sum_error * np.abs(q)) * scale
    return out, slack


@pytest.fixture(scope="session")
def make_arguments() -> Callable[..., Arguments]:
    return random_arguments


@pytest.fixture(scope="session")
def numpy_mlp() -> Callable[[Arguments], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return row_by_row
