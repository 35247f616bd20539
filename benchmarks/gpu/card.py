"""The card at hand: what it says of itself, and what its data sheet and a measurement say it can do."""

import csv
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gulliver.evaluators.latency.chip import chip_names, read_chip

QUERY = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
MATMUL_SIZE = 8192
COPY_BYTES = 2 * 1024**3
SHEET_PRECISIONS = {"int8": "int8", "fp8": "float8"}


@dataclass(frozen=True)
class CardState:
    """A card as nvidia-smi names it, its driver, and the clocks at that moment."""

    card: str
    driver: str
    sm_clock_mhz: float
    max_sm_clock_mhz: float
    memory_clock_mhz: float
    power_limit_w: float


@dataclass(frozen=True)
class Ceilings:
    """The rate of one precision's matmul, and of memory, bytes read and bytes written counted."""

    operations_per_s: float
    bytes_per_s: float


def parse_card(answer: str) -> CardState:
    """Return what nvidia-smi answered to QUERY for one card, as CSV without header or units."""
    (fields,) = csv.reader(answer.strip().splitlines(), skipinitialspace=True)
    card, driver, *numbers = fields
    return CardState(card, driver, *map(float, numbers))


def card_state() -> CardState:
    """Return the state of torch's current card."""
    identity = f"--id=GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    command = ["nvidia-smi", identity, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    return parse_card(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def data_sheet(card: str, precision: str) -> Ceilings | None:
    """Return the rates of the chip in conf/chip whose name is among the card's words, or None if there is none."""
    words = card.lower().replace("-", " ").split()
    names = [name for name in chip_names() if name.startswith("nvidia_") and name.removeprefix("nvidia_") in words]
    if not names:
        return None
    chip = read_chip(names[0])
    macs_per_cycle: int = getattr(chip, f"{SHEET_PRECISIONS[precision]}_macs_per_cycle")
    return Ceilings(2 * chip.matrix_cores * macs_per_cycle * chip.clock_hz, chip.memory_bandwidth_bytes_per_s)


def measured_ceilings(precision: str, median_ms: Callable[[Callable[[], object]], float]) -> Ceilings:
    """Time torch's own matmul of 8192 x 8192 x 8192 random values, and a copy of 2 GiB."""
    matmul = _int8_matmul() if precision == "int8" else _fp8_matmul()
    source = torch.randint(-128, 128, (COPY_BYTES,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return Ceilings(
        operations_per_s=2e3 * MATMUL_SIZE**3 / median_ms(matmul),
        bytes_per_s=2e3 * COPY_BYTES / median_ms(lambda: target.copy_(source)),
    )


def _int8_matmul() -> Callable[[], object]:
    size = (MATMUL_SIZE, MATMUL_SIZE)
    left, right = (torch.randint(-128, 128, size, dtype=torch.int8, device="cuda") for _ in range(2))
    return lambda: torch._int_mm(left, right.T)


def _fp8_matmul() -> Callable[[], object]:
    size, one = (MATMUL_SIZE, MATMUL_SIZE), torch.ones((), device="cuda")
    left, right = (torch.randn(size, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    return lambda: torch._scaled_mm(left, right.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
