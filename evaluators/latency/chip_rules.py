"""What the values of a chip's file must be: YAML takes any, and a wrong one gives a wrong price in silence."""

import re
from typing import Any

from gulliver.tasks.errors import InputError

# The names of the precisions that are modelled, by (weight bits, activation bits).
PRECISION_OF_BITS = {(8, 8): "int8", (4, 4): "int4", (4, 8): "w4a8", (8, 16): "w8", (4, 16): "w4"}
_FUSIONS = ("matmul_dequant", "matmul_swiglu_quant", "mlp")
_SPARSE = ("float16", "bfloat16", "int8", "int4")
# The matrix units take no less (CANN's platform configuration files; NVIDIA, Deep Learning Performance Guide).
_SMALLEST_TILE = 16
# Calibrations are kept in files of these names.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def check_plain(key: str, value: Any, kind: Any) -> None:
    """Raise InputError unless numbers are finite and not negative, flags true or false, and texts names."""
    if kind in (int, float):
        _check_number(key, value, whole=kind is int)
    elif kind is bool and type(value) is not bool:
        raise InputError(f"`{key}` must be true or false, but is {value!r}")
    elif kind is str and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise InputError(f"`{key}` must be a name of letters, digits, _, - and ., but is {value!r}")


def _check_number(key: str, value: Any, whole: bool) -> None:
    # YAML takes 1.8e9 for a text and 1.8e+9 for a number; nan and inf are no rates.
    if type(value) not in (int, float) or not abs(value) < float("inf"):
        raise InputError(f"`{key}` must be a number, as 1.8e+9 is, but is {value!r}")
    if whole and value % 1:
        raise InputError(f"`{key}` must be a whole number, but is {value}")
    if value < 0:
        raise InputError(f"`{key} >= 0` must hold, but it is {value}")


def check_tiles(key: str, tiles: Any) -> None:
    """Raise InputError unless there is a tile, and each is a pair of whole numbers of at least 16."""
    pairs = tiles if isinstance(tiles, tuple) else ()
    if not pairs or not all(_are_whole(pair, _SMALLEST_TILE) and len(pair) == 2 for pair in pairs):
        raise InputError(f"`{key}` must be pairs of at least 16 rows and columns, but is {tiles}")


def check_splits(key: str, splits: Any) -> None:
    """Raise InputError unless there is a split, and each is a whole number of at least 1."""
    if not _are_whole(splits, 1):
        raise InputError(f"`{key}` must be whole numbers of at least 1, but is {splits}")


def _are_whole(numbers: Any, least: int) -> bool:
    listed = numbers if isinstance(numbers, tuple) else ()
    return bool(listed) and all(type(it) is int and it >= least for it in listed)


def check_precisions(key: str, precisions: Any) -> None:
    """Raise InputError unless all are pairs of (weight bits, activation bits) that kernels are modelled for."""
    _check_choices(key, precisions, [*PRECISION_OF_BITS])


def check_sparse(key: str, precisions: Any) -> None:
    """Raise InputError unless all are precisions of kernels with 2:4 weights that are modelled."""
    _check_choices(key, precisions, _SPARSE)


def check_fusions(key: str, fusions: Any) -> None:
    """Raise InputError unless all are names of fused kernels."""
    _check_choices(key, fusions, _FUSIONS)


def _check_choices(key: str, values: Any, choices: Any) -> None:
    if not isinstance(values, tuple) or any(it not in choices for it in values):
        known = ", ".join(str(list(it) if isinstance(it, tuple) else it) for it in choices)
        raise InputError(f"`{key}` must be a list of {known}, but is {_as_yaml(values)}")


def _as_yaml(value: Any) -> Any:
    return [_as_yaml(it) for it in value] if isinstance(value, tuple) else value
