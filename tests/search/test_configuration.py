from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml
from gulliver import conf
from gulliver.search.configuration import build, build_target
from gulliver.search.settings import Budget, FinalistSettings
from gulliver.spaces.space import SpaceOptions
from gulliver.tasks.errors import InputError


@dataclass(frozen=True)
class Example:
    count: int
    share: float = 0.5
    names: tuple[str, ...] = ()
    size: tuple[int, int] = (1, 1)
    limit: float | None = None
    on: bool = False


def test_values_are_converted_to_what_the_constructor_wants():
    values = {"count": 1, "share": 1, "names": ["a"], "size": [2, 3], "limit": None, "on": True}
    assert build(Example, values, "example") == Example(1, 1.0, ("a",), (2, 3), None, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 1, "conut": 2}, "unknown key example.conut; known keys are count, share, names, size, limit, on"),
        ({"count": "one"}, "example.count must be of type int, but is 'one'"),
        ({"count": True}, "example.count must be of type int, but is True"),
        ({"count": 1, "names": "a"}, "example.names must be a list, but is 'a'"),
        ({"count": 1, "size": [1]}, r"example.size must be a list of 2, but is \[1\]"),
        ({"share": 0.1}, "example must have a value for count"),
        (3, "example must be a group of keys, but is 3"),
    ],
)
def test_what_does_not_fit_is_named_with_the_choices(values, message):
    with pytest.raises(InputError, match=message):
        build(Example, values, "example")


def test_groups_inside_groups_are_built_too():
    built = build(FinalistSettings, {"count": 2, "finetune": {"epochs": 3}}, "finalists")
    assert built.finetune.epochs == 3
    with pytest.raises(InputError, match=r"unknown key finalists\.finetune\.epoch; known keys are epochs"):
        build(FinalistSettings, {"finetune": {"epoch": 3}}, "finalists")


def test_the_file_of_the_space_mirrors_its_options():
    values = yaml.safe_load((Path(conf.__file__).parent / "space" / "default.yaml").read_text())
    assert set(values) == {item.name for item in fields(SpaceOptions)}
    assert build(SpaceOptions, values, "space") == SpaceOptions()


def test_lists_of_pairs_become_tuples_of_pairs():
    assert build(SpaceOptions, {"bits": [[8, 8]]}, "space").bits == ((8, 8),)


def test_a_target_is_imported_and_built():
    assert build_target({"_target_": "gulliver.search.settings.Budget", "max_drop": 0.02}, "budget") == Budget(0.02)


@pytest.mark.parametrize("name", ["nonsense", "gulliver.nowhere.Thing", "gulliver.search.settings.Nothing"])
def test_a_target_that_cannot_be_imported_is_named(name):
    with pytest.raises(InputError, match=rf"task\._target_={name} cannot be imported"):
        build_target({"_target_": name}, "task")
