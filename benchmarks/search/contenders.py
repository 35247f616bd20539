"""The tools that are compared, and one run of one of them: its steps, each in its own process and environment.

A run is kept in its folder with the seconds that it took, and is not repeated. A run that failed leaves its last line.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.search.environments import python_of

TOOLS = Path(__file__).parent / "tools"
LAST_CHARACTERS = 300


@dataclass(frozen=True)
class Step:
    """A script of tools/ and the environment that it runs in; None is the one of the benchmark itself."""

    script: str
    environment: str | None = None


ORIGINAL = Step("original")
NNCF_INT8 = Step("nncf_int8", "nncf")
CONTENDERS: dict[str, tuple[Step, ...]] = {
    "openvino": (ORIGINAL,),
    "nncf_int8": (ORIGINAL, NNCF_INT8),
    "nncf_accuracy_control": (ORIGINAL, Step("nncf_accuracy_control", "nncf")),
    "torch_pruning_int8": (Step("torch_pruning_ratios", "torch_pruning"), NNCF_INT8),
    "modelopt_fastnas_int8": (Step("modelopt_fastnas", "modelopt"), NNCF_INT8),
    "aimet_spatial_svd_int8": (Step("aimet_spatial_svd", "aimet"), NNCF_INT8),
    "sony_mixed_precision": (Step("sony_mixed_precision", "model_compression_toolkit"),),
    "olive_optuna": (Step("olive_optuna", "olive"),),
    "gulliver": (Step("gulliver_search"),),
}


@dataclass(frozen=True)
class Settings:
    """What every tool is given alike: the fine-tuning of one network, and Gulliver's trials and finalists."""

    epochs: int
    batches: int
    trials: int
    finalists: int

    def effort_of(self, tool: str) -> str:
        """Return what names a run's folder, so that runs of another budget are not taken for it."""
        finetuning = f"{self.epochs}x{self.batches}"
        return f"{finetuning}-{self.trials}-{self.finalists}" if tool == "gulliver" else finetuning


@dataclass(frozen=True)
class Run:
    """One tool's run on one network with one seed: the folder of its models, or the last line of its failure."""

    network: str
    tool: str
    seed: int
    folder: Path
    wall_seconds: float
    cpu_seconds: float
    error: str = ""

    @property
    def models(self) -> list[Path]:
        """The OpenVINO IR that the last step made."""
        return [] if self.error else sorted((self.folder / CONTENDERS[self.tool][-1].script).glob("*.xml"))


def run_tool(results: Path, network: str, tool: str, seed: int, settings: Settings) -> Run:
    """Return the tool's run, made now unless it is there already; a failure is tried again each time."""
    found = find_run(results, network, tool, seed, settings)
    if found and not found.error:
        return found
    folder = _folder(results, network, tool, seed, settings)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pythons = [python_of(step.environment) if step.environment else Path(sys.executable) for step in CONTENDERS[tool]]
    before, start = _cpu_seconds(), time.monotonic()
    given, error = folder, ""
    for step, python in zip(CONTENDERS[tool], pythons, strict=True):
        arguments = [*_arguments(network, seed, settings), "--given", str(given), "--out", str(folder / step.script)]
        given = folder / step.script
        error = _run_step(python, step.script, given, arguments)
        if error:
            break
    run = Run(network, tool, seed, folder, time.monotonic() - start, _cpu_seconds() - before, error)
    (folder / "run.json").write_text(json.dumps(asdict(run) | {"folder": str(folder)}, indent=1))
    return run


def find_run(results: Path, network: str, tool: str, seed: int, settings: Settings) -> Run | None:
    """Return the run that is kept in its folder, finished or failed; None where there is none."""
    folder = _folder(results, network, tool, seed, settings)
    record = folder / "run.json"
    return Run(**json.loads(record.read_text()) | {"folder": folder}) if record.exists() else None


def _folder(results: Path, network: str, tool: str, seed: int, settings: Settings) -> Path:
    return results / network / tool / f"seed{seed}-{settings.effort_of(tool)}"


def _arguments(network: str, seed: int, settings: Settings) -> list[str]:
    named = {"network": network, "seed": seed} | asdict(settings)
    return [text for name, value in named.items() for text in (f"--{name}", str(value))]


def _run_step(python: Path, script: str, folder: Path, arguments: list[str]) -> str:
    """Run the script in its folder, its output in a file beside; return the last line where it fails."""
    folder.mkdir()
    log = folder.with_suffix(".log")
    command = [str(python), str(TOOLS / f"{script}.py"), *arguments]
    # Some of the tools write into the folder that they are started in.
    with log.open("w") as output:
        done = subprocess.run(command, check=False, cwd=folder, env=_environment(), stdout=output, stderr=output)
    if done.returncode == 0 and any(folder.glob("*.xml")):
        return ""
    lines = log.read_text().strip().splitlines() or ["no output"]
    return f"{script}: {lines[-1][-LAST_CHARACTERS:]}"


def _environment() -> dict[str, str]:
    """One thread for everything that asks the environment for its number, and this folder for what adapters share."""
    here = str(Path(__file__).parent)
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
