"""Rows of a benchmark as a CSV file, each with the machine, the versions and the commit that it was made with."""

import csv
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
PACKAGES = ("torch", "torch-pruning", "openvino")


def circumstances() -> dict[str, str]:
    """The processor, the versions, and the commit that is checked out, marked where files differ from it."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {"machine": machine, **{name: version(name) for name in PACKAGES}, "commit": commit}


def write_rows(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write benchmarks/results/<name>.csv."""
    made_with = circumstances()
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *made_with])
        writer.writeheader()
        writer.writerows(row | made_with for row in rows)
