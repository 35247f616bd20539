import inspect
from pathlib import Path

import pytest
import yaml
from gulliver import conf
from hydra.utils import get_class, instantiate

FILES = sorted((Path(conf.__file__).parent / "task").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_file_mirrors_the_constructor(file):
    values = yaml.safe_load(file.read_text())
    arguments = inspect.signature(get_class(values.pop("_target_"))).parameters
    assert values == {name: argument.default for name, argument in arguments.items()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_file_makes_the_task_of_its_name(file):
    assert instantiate(yaml.safe_load(file.read_text())).name == file.stem


def test_the_ready_tasks_have_a_file():
    assert {"digits_cnn", "fashion_resnet", "fashion_wide_resnet"} <= {file.stem for file in FILES}
