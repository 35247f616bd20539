"""An environment of its own for each tool, made once from its requirements and kept in the cache.

The environment sees the packages of the one that the benchmark runs in; what its tool pins is installed in its own.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from gulliver.tasks.cache import cache_dir

ROOT = Path(__file__).parent.parent.parent
REQUIREMENTS = Path(__file__).parent / "tools" / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
# Parts of CUDA that a package may pull in, none of which runs here.
CUDA = ("nvidia-cublas", "nvidia-cuda", "nvidia-cudnn", "nvidia-nccl", "cuda-bindings", "cupy")


def python_of(environment: str) -> Path:
    """Return the environment's interpreter, the environment made first where its requirements are new.

    Raises RuntimeError where pip fails, with its last lines, or where a part of CUDA came along.
    """
    requirements = REQUIREMENTS / f"{environment}.txt"
    facts = hashlib.sha256(requirements.read_bytes() + CONSTRAINTS.read_bytes() + _paths().encode()).hexdigest()
    # Named for all that decides it, so that two checkouts never replace what the other is running in.
    folder = cache_dir() / "other_tools" / "environments" / f"{environment}-{facts[:8]}"
    python, finished = folder / "bin" / "python", folder / "finished"
    if not finished.exists():
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
        _site_packages(folder).joinpath("gulliver.pth").write_text(_paths())
        _pip(python, "install", "--constraint", str(CONSTRAINTS), "torch==2.13.0")
        _pip(python, "install", "--constraint", str(CONSTRAINTS), "--requirement", str(requirements))
        _check_no_cuda(folder)
        finished.touch()
    return python


def _paths() -> str:
    """Return the lines of a .pth file: the rooms of this checkout, and every package of this interpreter."""
    return "\n".join([str(ROOT / "typings"), *(path for path in sys.path if path.endswith("site-packages"))])


def _site_packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _pip(python: Path, *arguments: str) -> None:
    command = ("nice", "-n", "10", str(python), "-m", "pip", "--quiet", *arguments)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")


def _check_no_cuda(folder: Path) -> None:
    names = [path.name.partition("-")[0].replace("_", "-") for path in _site_packages(folder).glob("*.dist-info")]
    unwanted = sorted(name for name in names if name.startswith(CUDA))
    if unwanted:
        raise RuntimeError(f"{folder.name} must have no part of CUDA, but pip installed {', '.join(unwanted)}")
