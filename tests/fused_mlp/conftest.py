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


def random_arguments(row_counts: list[int], k1: int, k2: int, n2: int, tail: int = 0, seed: int = 0) -> Arguments:
    """Scales keep act near 1, where silu bends, and the output far below the largest float16."""
    random = torch.Generator().manual_seed(seed)
    m, groups = sum(row_counts) + tail, len(row_counts)

    def int8(*shape: int) -> Tensor:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)

    def scale(typical: float, *shape: int) -> Tensor:
        return (0.5 + torch.rand(*shape, generator=random)) * typical

    return {
        "x1": int8(m, k1),
        "weight1": int8(groups, k1, 2 * k2),
        "scale1": scale(1 / (74 * math.sqrt(k1)), groups, 2 * k2),
        "per_token_scale1": scale(1 / 74, m),
        "weight2": int8(groups, n2, k2),
        "per_channel_scale2": scale(1 / (74 * math.sqrt(k2)), groups, n2),
        "group_list": torch.tensor(row_counts).cumsum(0),
    }


def row_by_row(arguments: Arguments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The six steps of the note: integers in int64, the rest in float64; and what ties of q may change.

    A value of h / s2 this close to a half may round either way in float32, which moves q by one.
    """
    x1, w1, s1, t1, w2, c2, ends = (tensor.numpy() for tensor in arguments.values())
    out, slack = np.zeros((len(x1), w2.shape[1])), np.zeros((len(x1), w2.shape[1]))
    for row in range(ends[-1]):
        group = int(np.searchsorted(ends, row, side="right"))
        y1 = x1[row].astype(np.int64) @ w1[group].astype(np.int64) * s1[group].astype(np.float64) * t1[row]
        act, gate = np.split(y1, 2)
        h = act / (1 + np.exp(-act)) * gate
        s2 = np.abs(h).max() / 127
        steps = h / s2 if s2 else h
        weight, scale = w2[group].astype(np.int64), c2[group].astype(np.float64) * s2
        out[row] = weight @ np.rint(steps).astype(np.int64) * scale
        slack[row] = np.abs(weight) @ (np.abs(np.abs(steps) % 1 - 0.5) < 1e-3) * scale
    return out, slack


@pytest.fixture(scope="session")
def make_arguments() -> Callable[..., Arguments]:
    return random_arguments


@pytest.fixture(scope="session")
def numpy_mlp() -> Callable[[Arguments], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return row_by_row
