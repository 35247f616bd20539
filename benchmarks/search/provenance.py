"""Where a benchmark's numbers come from, and the rows that it writes."""

import csv
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def provenance() -> dict[str, str]:
    """Return the machine, the versions and the commit of this run; files that differ from it are said to."""
    describe = ("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip(),
    }


def write_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write benchmarks/results/`name`, the first row's keys as its header, and print the rows."""
    with (RESULTS / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values(), sep="\t")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
