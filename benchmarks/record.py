"""How every benchmark reads its arguments and writes its table: the rows, and on each what it was measured on."""

import argparse
import csv
import os
import platform
import re
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def names_among(allowed: Collection[str]) -> Callable[[str], list[str]]:
    """Return the type of a command's argument that is some of these names, separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is not among {', '.join(allowed)}")
        return names

    return parse


def write_table(name: str, rows: Sequence[Any], versions: Mapping[str, str], key: Sequence[str] = ()) -> None:
    """Write dataclasses to benchmarks/results/NAME.csv with machine, Python, versions and commit; print the rows.

    With a `key`, rows that the table has already stay where no new one has the same values in these columns.
    """
    source = origin(versions)
    lines = [asdict(row) | source for row in rows]
    replaced = {_values(line, key) for line in lines}
    kept = [line for line in read_table(name) if _values(line, key) not in replaced] if key else []
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows([*kept, *lines])
    for row in rows:
        print(*asdict(row).values(), sep="\t")


def read_table(name: str) -> list[dict[str, Any]]:
    """Return the rows of benchmarks/results/NAME.csv, none where there is no such table."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _values(line: Mapping[str, Any], key: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(line[column]) for column in key)


def origin(versions: Mapping[str, str]) -> dict[str, str]:
    """What a result was measured on: machine, Python, versions and commit."""
    return {"machine": machine(), "python": platform.python_version(), **versions, "commit": commit()}


def machine() -> str:
    """The processor, as Linux names it, and its cores."""
    facts = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M))
    return f"{facts['model name']}, family {facts['cpu family']} model {facts['model']}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit that is checked out, marked where files differ from it."""
    return first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")


def first_line(*command: str) -> str:
    """The first line that a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
