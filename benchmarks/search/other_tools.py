"""Gulliver against other compression tools: python -m benchmarks.search.other_tools.

Same networks, same data, same fine-tuning budget by the same code; accuracy and OpenVINO latency of the final models by
the same code (judging.py). Each tool runs in an environment of its own, made on first use (environments.py), through an
adapter in tools/. Tools choose on the calibration inputs and the search split; what counts is, for each bar, a tool's
fastest model whose drop from fp32 on the test split is within it. Every run is kept, and only missing ones are made;
latencies are measured anew for all models of a network and seed at once. Writes benchmarks/results/other_tools.csv,
where rows of other machines stay.
"""

import argparse
import csv
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from gulliver.evaluators.latency.machine import this_machine
from gulliver.tasks.cache import cache_dir

from benchmarks.record import names_among
from benchmarks.search.contenders import CONTENDERS, Run, Settings, find_run, run_tool
from benchmarks.search.environments import REQUIREMENTS, ROOT
from benchmarks.search.job import NETWORKS
from benchmarks.search.judging import BARS_POINTS, Winner, judge, medians, winners

RESULTS = ROOT / "benchmarks" / "results" / "other_tools.csv"
Row = dict[str, object]


def main() -> None:
    """Make the missing runs, judge all runs of the chosen networks and seeds, and write the table."""
    given = _arguments()
    settings = Settings(given.epochs, given.batches, given.trials, given.finalists)
    for network in given.networks:
        for seed in given.seeds:
            for tool in given.tools:
                _say(run_tool(given.runs, network, tool, seed, settings))
    found = [it for network in given.networks for it in _judged(given.runs, network, given.seeds, settings)]
    facts = _facts(settings)
    rows = [_row(it, facts) for it in found]
    replaced = {(row["network"], row["machine"]) for row in rows}
    _write(given.csv, [row for row in _read(given.csv) if (row["network"], row["machine"]) not in replaced] + rows)
    _show(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, values in (("tools", CONTENDERS), ("networks", NETWORKS)):
        parser.add_argument(f"--{name}", type=names_among(values), default=list(values), help=",".join(values))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning, for every network of every tool")
    parser.add_argument("--batches", type=int, default=469, help="an epoch; 469 of 128 images are all of them")
    parser.add_argument("--trials", type=int, default=48, help="of Gulliver's search")
    parser.add_argument("--finalists", type=int, default=6, help="of Gulliver's search")
    parser.add_argument("--runs", type=Path, default=cache_dir() / "other_tools" / "runs", help="where runs are kept")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    return parser.parse_args()


def _judged(runs_folder: Path, network: str, seeds: Sequence[int], settings: Settings) -> list[Winner]:
    """Return the winners of all runs that are kept of the network and the seeds, with medians over the seeds."""
    found: list[Winner] = []
    for seed in seeds:
        runs = [it for tool in CONTENDERS if (it := find_run(runs_folder, network, tool, seed, settings))]
        if not any(run.tool == "openvino" and run.models for run in runs):
            raise SystemExit(f"{network}, seed {seed}: the run of openvino, which all are compared with, is missing")
        found += winners(runs, judge(runs))
    return [*found, *medians(found)]


def _facts(settings: Settings) -> Row:
    machine = this_machine()
    return {
        "finetuning_epochs": settings.epochs,
        "finetuning_batches": settings.batches,
        "gulliver_trials": settings.trials,
        "gulliver_finalists": settings.finalists,
        "machine": f"{machine.processor}, {machine.cores} cores",
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _row(winner: Winner, facts: Row) -> Row:
    rounded = {name: round(it, 3) if isinstance(it, float) else it for name, it in asdict(winner).items()}
    return rounded | {"versions": _versions(winner.tool)} | facts


def _versions(tool: str) -> str:
    """Return what the tool's environments pin, beside torch and OpenVINO."""
    names = [step.environment for step in CONTENDERS[tool] if step.environment]
    pins = [line for name in names for line in (REQUIREMENTS / f"{name}.txt").read_text().split() if "==" in line]
    return " ".join([f"{name}=={version(name)}" for name in ("torch", "openvino")] + pins)


def _commit() -> str:
    command = ("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def _write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _say(run: Run) -> None:
    outcome = run.error or f"{len(run.models)} models"
    spent = f"{run.wall_seconds:.0f} s, {run.cpu_seconds:.0f} s of CPU"
    print(f"{run.network}, {run.tool}, seed {run.seed}: {outcome} ({spent})", flush=True)


def _show(found: Sequence[Winner]) -> None:
    """Print the medians: a line a tool, the speed-up over fp32 within each bar."""
    middle = [it for it in found if it.seed == "median"]
    for place in range(0, len(middle), len(BARS_POINTS)):
        mine = middle[place : place + len(BARS_POINTS)]
        speeds = [f"{it.speedup_over_fp32 or 0:6.2f}x" for it in mine]
        first = mine[0]
        print(f"{first.network:20} {first.tool:24} {first.float_type:9}", *speeds, f"{first.cpu_seconds:7.0f} s of CPU")


if __name__ == "__main__":
    main()
