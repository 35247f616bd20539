"""One line of a table of kernel times: the kernel, its shape and its precisions, read and checked."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from gulliver.evaluators.latency.chip import chip_names, read_chip
from gulliver.tasks.errors import InputError

COLUMNS = (
    "hardware",
    "op",
    "activation_dtype",
    "weight_dtype",
    "groups",
    "m",
    "n",
    "k",
    "group_list",
    "notes",
    "time_us",
    "source",
)
MATMULS = (
    "quant_matmul",
    "catlass_quant_matmul",
    "grouped_matmul",
    "weight_quant_batch_matmul",
    "catlass_matmul",
    "gemm",
    "matmul",
    "grouped_gemm_fp8",
)
ELEMENTWISE = "dequant_swiglu_quant"
FUSED_HALF = "grouped_matmul_swiglu_quant"
FUSED = ("mm_deq_swiglu_quant_mm_deq", "gmm_deq_swiglu_quant_gmm_deq")
EXPERTS = "moe_ffn_2gemm_swiglu"
OPERATIONS = (*MATMULS, ELEMENTWISE, FUSED_HALF, *FUSED, EXPERTS)

BITS = {"int4": 4, "int8": 8, "float8": 8, "float16": 16, "bfloat16": 16, "float32": 32, "int32": 32}
_SYNONYMS = {"fp8": "float8", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_FLOATS = ("float16", "bfloat16", "float32")
_MOST_GROUPS = 1024
ALIGNMENT = 16
# A nanosecond and a day.
_SHORTEST_US, _LONGEST_US = 1e-3, 8.64e10


@dataclass(frozen=True)
class PublishedKernel:
    """One kernel call on one chip: `group_rows` are the rows of each group, `time_us` its measured time, if any."""

    chip: str
    operation: str
    activation: str
    weight: str
    group_rows: tuple[int, ...]
    m: int
    n: int
    k: int
    notes: str = ""
    time_us: float | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return groups, m, n and k."""
        return len(self.group_rows), self.m, self.n, self.k

    @property
    def aligned(self) -> bool:
        """Return whether n and k are multiples of 16 elements."""
        return self.n % ALIGNMENT == 0 and self.k % ALIGNMENT == 0

    @property
    def converts_weights(self) -> bool:
        """Return whether the time includes a kernel that changes the layout of the weights."""
        return "TransData" in self.notes

    @property
    def weight_layout(self) -> str:
        """Return how the weights lie in memory: nz (the cube's own layout), columns (n, k) or rows (k, n)."""
        if self.converts_weights or self.operation in (FUSED_HALF, *FUSED) or re.search(r"\bzN\b", self.notes):
            return "nz"
        return "columns" if '"transpose_weight": true' in self.notes else "rows"

    @property
    def output(self) -> str:
        """Return the type of the result: what the notes say, or that of float activations, or float16."""
        stated = re.search(r'"output_dtype": "(\w+)"', self.notes)
        if stated and dtype(stated[1]) in BITS:
            return dtype(stated[1])
        return self.activation if self.activation in _FLOATS else "float16"

    @property
    def tile(self) -> tuple[int, int] | None:
        """Return the rows and columns of the tile that the notes state, if they do."""
        stated = re.search(r"\bL1 (\d+)x(\d+)", self.notes)
        tile = (int(stated[1]), int(stated[2])) if stated else (0, 0)
        return tile if min(tile) >= ALIGNMENT else None

    @cached_property
    def scheme(self) -> str:
        """Return how its precisions combine: float, w8, w4, int8, w4a8, int4 or float8."""
        if self.activation in _FLOATS or self.operation == ELEMENTWISE:
            return {"int8": "w8", "float8": "w8", "int4": "w4"}.get(self.weight, "float")
        return "w4a8" if (self.activation, self.weight) == ("int8", "int4") else self.activation

    @property
    def family(self) -> str:
        """Return the name under which its fitted parameters are kept."""
        return f"{self.operation}-{self.scheme}"


def dtype(name: str) -> str:
    """Return the one name of a type that has several."""
    return _SYNONYMS.get(name, name)


def read_kernel(row: Mapping[str, str | None], own_chip: str = "") -> PublishedKernel:
    """Return the kernel of a row of the table; raises InputError that names the column, the rule and the value.

    `own_chip` is the file of a chip that rows may be of, beside the known ones.
    """
    values = {key: (row.get(key) or "").strip() for key in COLUMNS}
    operation = values["op"]
    if operation not in OPERATIONS:
        raise InputError(f"op {operation or '(empty)'} is not modelled; modelled are {', '.join(OPERATIONS)}")
    activation, weight = _dtype(values, "activation_dtype"), _dtype(values, "weight_dtype")
    groups, m, n = _whole(values, "groups", 1), _whole(values, "m", 1), _whole(values, "n", 1)
    k = _whole(values, "k", 0 if operation == ELEMENTWISE else 1)
    if operation not in MATMULS and n % 2:
        raise InputError(f"n must be even, half of it act and half gate, but is {n}")
    if groups > _MOST_GROUPS:
        raise InputError(f"groups must be at most {_MOST_GROUPS}, but is {groups}")
    rows = _group_rows(values["group_list"], groups, _rows_here(values["notes"], m, groups))
    chip = chip_of(values["hardware"], values["notes"], own_chip)
    return PublishedKernel(
        chip, operation, activation, weight, rows, m, n, k, values["notes"], _time_us(values["time_us"])
    )


def chip_of(hardware: str, notes: str = "", own_chip: str = "") -> str:
    """Return the chip's name, or `own_chip` where it is that file's.

    Where a table leaves the number of cores open, the notes state it ("20 AIC").
    """
    plain = _plain(hardware.partition("(")[0])
    chips = {name: name for name in chip_names()} | ({read_chip(own_chip).name: own_chip} if own_chip else {})
    known = {_plain(name): chip for name, chip in chips.items()}
    if plain == "ascend910b":
        cores = re.search(r"\b(20|24) AIC\b", notes)
        plain += {"20": "3", "24": "2"}[cores[1]] if cores else ""
    if plain not in known:
        raise InputError(f"unknown hardware {hardware or '(empty)'}; known are {', '.join(chips)}")
    return known[plain]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _dtype(values: Mapping[str, str], column: str) -> str:
    name = dtype(values[column])
    if name not in BITS:
        raise InputError(f"{column} must be one of {', '.join(BITS)}, but is {values[column] or '(empty)'}")
    return name


def _whole(values: Mapping[str, str], column: str, least: int) -> int:
    text = values[column]
    # isdecimal alone takes digits of other scripts, which int() reads too but a table never means.
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) < least:
        raise InputError(f"{column} must be a whole number of at least {least}, but is {text or '(empty)'}")
    return int(text)


def _time_us(text: str) -> float | None:
    if not text:
        return None
    try:
        time_us = float(text)
    except ValueError:
        time_us = 0.0
    if not _SHORTEST_US <= time_us <= _LONGEST_US:
        raise InputError(f"time_us must be from {_SHORTEST_US:g} to {_LONGEST_US:g} or empty, but is {text}")
    return time_us


def _rows_here(notes: str, m: int, groups: int) -> int:
    """Return the rows that reach this card's experts, where the notes say that m counts tokens of all cards."""
    routing = re.search(r"topk(\d+) E(\d+)\b", notes)
    return max(1, round(m * int(routing[1]) * groups / int(routing[2]))) if routing and int(routing[2]) else m


def _group_rows(text: str, groups: int, rows: int) -> tuple[int, ...]:
    """Return each group's rows: from the cumulative list, or in equal parts."""
    if not text:
        return tuple(rows // groups + (index < rows % groups) for index in range(groups))
    try:
        ends = json.loads(text)
    except (ValueError, RecursionError):
        ends = None
    whole = isinstance(ends, list) and all(type(end) is int for end in ends)
    if not whole or len(ends) != groups:
        raise InputError(f"group_list must be a list of {groups} whole numbers (groups), but is {text}")
    if any(after < before for before, after in zip([0, *ends], ends, strict=False)) or ends[-1] > rows:
        raise InputError(f"group_list must not fall and must end at m = {rows} or before, but is {text}")
    return tuple(after - before for before, after in zip([0, *ends], ends, strict=False))
