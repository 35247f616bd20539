"""A chip as its makers describe it: cores, rates, bandwidths, and what it can run."""

from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from gulliver.evaluators.latency.chip_rules import (
    check_fusions,
    check_plain,
    check_precisions,
    check_sparse,
    check_splits,
    check_tiles,
)
from gulliver.tasks.errors import InputError

_FOLDER = files("gulliver.conf") / "chip"
_SUFFIX = ".yaml"
_TARGET = "gulliver.evaluators.latency.chip.Chip"


@dataclass(frozen=True)
class Chip:
    """One die or card; a rate of 0 means that the chip cannot run that precision, a link of 0 that it has none.

    `macs_per_cycle` are multiply-accumulates of one matrix core in one cycle. `precisions` are pairs of (weight bits,
    activation bits), `sparse_2_4` those precisions of the matrix unit in which it skips two of every four weights.
    `fit` names the fitted efficiencies that price its kernels: its own, or those of a chip like it.
    `multiprocessors` are cores that hold several tiles, so that results leave while others are multiplied, and that
    multiply a single row without their matrix unit. `load_piece_bytes` are those of a row in memory that one load
    brings into the matrix core's layout, 0 where rows are not loaded one by one. Up to `few_rows`, columns are dealt
    evenly to the cores, and activations may be split into integers instead of weights being widened.
    """

    name: str
    fit: str
    matrix_cores: int
    vector_cores: int
    clock_hz: float
    float32_macs_per_cycle: int
    float16_macs_per_cycle: int
    float8_macs_per_cycle: int
    int8_macs_per_cycle: int
    int4_macs_per_cycle: int
    memory_bandwidth_bytes_per_s: float
    l2_bandwidth_bytes_per_s: float
    l2_bytes: int
    vector_float16_operations_per_s: float
    link_bandwidth_bytes_per_s: float
    tiles: tuple[tuple[int, int], ...]
    split_k: tuple[int, ...] = (1,)
    multiprocessors: bool = True
    load_piece_bytes: int = 0
    few_rows: int = 0
    splits_int8_activations: bool = False
    spills_accumulators: bool = False
    precisions: tuple[tuple[int, int], ...] = ()
    sparse_2_4: tuple[str, ...] = ()
    fusions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for it in fields(self):
            check_plain(f"chip.{it.name}", getattr(self, it.name), it.type)
        positive = ("matrix_cores", "vector_cores", "clock_hz", "float16_macs_per_cycle")
        rates = ("memory_bandwidth_bytes_per_s", "l2_bandwidth_bytes_per_s", "vector_float16_operations_per_s")
        for key in (*positive, *rates):
            if getattr(self, key) <= 0:
                raise InputError(f"`chip.{key} > 0` must hold, but it is {getattr(self, key)}")
        check_tiles("chip.tiles", self.tiles)
        check_splits("chip.split_k", self.split_k)
        check_fusions("chip.fusions", self.fusions)
        check_precisions("chip.precisions", self.precisions)
        check_sparse("chip.sparse_2_4", self.sparse_2_4)

    def macs_per_cycle(self, precision: str) -> int:
        """Return the multiply-accumulates of one matrix core in one cycle; raises InputError where it has none."""
        rate: int = getattr(self, f"{precision}_macs_per_cycle", 0)
        if rate == 0:
            raise InputError(f"{self.name} has no matrix multiplication in {precision}")
        return rate


def chip_names() -> list[str]:
    """Return the names of the chips that have a file, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.iterdir() if path.name.endswith(_SUFFIX))


@cache
def read_chip(name: str) -> Chip:
    """Return the chip of this name, or of this file; raises InputError that names the known ones."""
    if name.endswith(_SUFFIX):
        return _check_name(name, _parse(name, _read(Path(name))))
    if name not in chip_names():
        raise InputError(f"unknown hardware {name}; known are {', '.join(chip_names())}, or a file FILE{_SUFFIX}")
    return _parse(f"conf/chip/{name}{_SUFFIX}", (_FOLDER / f"{name}{_SUFFIX}").read_text())


def _check_name(origin: str, chip: Chip) -> Chip:
    """Return a file's chip; a known one of its name would be priced by its calibration."""
    if chip.name in chip_names() and chip != read_chip(chip.name):
        raise InputError(f"{origin} must give its chip a name of its own, but {chip.name} is another's in conf/chip")
    return chip


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"the chip {path} cannot be read: {error}") from error


def _parse(origin: str, text: str) -> Chip:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"the chip {origin} is not YAML: {error}") from error
    if not isinstance(values, dict) or values.pop("_target_", None) != _TARGET:
        raise InputError(f"{origin} must have `_target_: {_TARGET}`")
    try:
        return Chip(**{key: _frozen(value) for key, value in values.items()})
    except TypeError as error:
        raise InputError(f"{origin} must have the keys of a chip, but: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
