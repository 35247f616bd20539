import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("search", "spaces", "compressors", "evaluators", "fused_mlp", "tasks", "conf")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy, because a build leaves its own copies of files behind, and the next one finds them.
    unwanted = shutil.ignore_patterns(
        ".venv", ".git", "build", "dist", "outputs", "*.egg-info", "__pycache__", ".*_cache"
    )
    source = shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=unwanted)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    subprocess.run(command, check=True, capture_output=True)
    return {name for path in folder.glob("*.whl") for name in zipfile.ZipFile(path).namelist()}


def test_the_wheel_holds_every_file_of_every_room(wheel):
    kinds = (".py", ".yaml", ".c", ".csv", ".json")
    files = [
        it for room in ROOMS for it in (ROOT / room).rglob("*") if it.suffix in kinds and "__pycache__" not in it.parts
    ]
    wanted = {f"gulliver/{it.relative_to(ROOT).as_posix()}" for it in files}
    assert wanted - wheel == set()


def test_the_wheel_puts_nothing_but_gulliver_into_site_packages(wheel):
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"gulliver"}


def test_the_pins_are_those_that_were_found_to_work():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"torch>=2.9,<2.14", "hydra-core>=1.3.8,<1.4", "optuna>=5,<6"} <= set(project["dependencies"])
    assert any(it.startswith("openvino") for it in project["dependencies"])
    assert set(project["optional-dependencies"]) == {"onnx", "gpu", "dev"}


def test_every_room_has_a_link_for_type_checkers():
    for room in ROOMS:
        assert (ROOT / "typings" / "gulliver" / room / "__init__.py").exists(), room
