import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gulliver.search.cli import main
from gulliver.spaces.recipe import LayerRecipe, Recipe

GULLIVER = Path(sys.executable).with_name("gulliver")


def gulliver(*arguments, **environment):
    return subprocess.run(
        [GULLIVER, *arguments], capture_output=True, text=True, env=os.environ | environment, check=False
    )


def test_help_names_every_command_without_importing_what_they_need():
    code = (
        "import sys; sys.argv = ['gulliver', '--help']; from gulliver.search.cli import main; main();"
        "heavy = {'torch', 'mlflow', 'openvino', 'optuna', 'hydra', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("search", "apply", "calibrate", "show"):
        assert f"\n  {command}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serach"], "unknown command serach; known commands are search, solve, apply, calibrate, show"),
        (["search", "tirals=3"], "unknown key tirals; known keys are"),
        (["search", "-m", "seed=1,-2"], "`0 <= seed < 2**31` must hold, but it is -2"),
        (["show", "recipe=nowhere.yaml"], "recipe nowhere.yaml cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(arguments, message, tmp_path):
    result = gulliver(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (errno.ENOSPC, 1, "No space left on device: 'out'; the same command goes on where this one stopped"),
        (errno.EROFS, 2, "Read-only file system: 'out'"),
        (errno.ENOTDIR, 2, "Not a directory: 'out'"),
    ],
)
def test_what_the_file_system_refuses_is_one_line_and_a_full_one_has_a_status_of_its_own(
    number, status, said, monkeypatch, capsys
):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "out")

    monkeypatch.setattr("gulliver.search.launch.launch", refuse)
    monkeypatch.setattr("sys.argv", ["gulliver", "search"])
    with pytest.raises(SystemExit, match=str(status)):
        main()
    assert capsys.readouterr().err == f"gulliver: [Errno {number}] {said}\n"


def test_a_command_whose_reader_has_gone_ends_in_silence(tmp_path):
    Recipe({"layer": LayerRecipe(fallback="x" * 2**20)}).save(tmp_path / "recipe.yaml")
    command = [GULLIVER, "show", f"recipe={tmp_path / 'recipe.yaml'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_the_version_is_printed():
    assert gulliver("--version").stdout == "gulliver 0.1.0\n"


def test_hydra_prints_a_commands_settings():
    result = gulliver("search", "--cfg", "job")
    assert result.returncode == 0
    assert "max_drop: 0.01" in result.stdout
