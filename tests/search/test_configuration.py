from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml
from gulliver import conf
from gulliver.search.configuration import build, build_target
from gulliver.search.sensitivity import SensitivitySettings
from gulliver.search.settings import Budget, FinalistSettings, TrialSettings
from gulliver.spaces.space_options import SpaceOptions
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


class Flowers:
    """A task of one's own, annotated as constructors often are."""

    def __init__(
        self,
        *layers: int,
        order: Literal["random", "sorted"] = "random",
        widths: list[int] | None = None,
        shares: dict[str, float] | None = None,
        folder: Path = Path("flowers"),
        crop: int | str = "whole",
        judge: Callable[[float], float] = abs,
        **more: float,
    ):
        self.order, self.widths, self.shares, self.folder, self.crop = order, widths, shares, folder, crop


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("order", "sorted", "sorted"),
        ("widths", [16, 32], [16, 32]),
        ("widths", None, None),
        ("shares", {"rose": 1, "lily": 0.5}, {"rose": 1.0, "lily": 0.5}),
        ("folder", "data/flowers", Path("data/flowers")),
        ("crop", 224, 224),
        ("crop", "centre", "centre"),
    ],
)
def test_common_annotations_are_met(key, value, wanted):
    built = getattr(build(Flowers, {key: value}, "task"), key)
    assert built == wanted
    assert type(built) is type(wanted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": "alphabetical"}, "task.order must be 'random' or 'sorted', but is 'alphabetical'"),
        ({"widths": [16, "wide"]}, "task.widths must be of type int, but is 'wide'"),
        ({"shares": {"rose": "most"}}, "task.shares.rose must be of type float, but is 'most'"),
        ({"shares": [1]}, "task.shares must be a group of keys, but is [1]"),
        ({"folder": 3}, "task.folder must be of type Path, but is 3"),
        ({"crop": [1]}, "task.crop must be of type int or str, but is [1]"),
        (
            {"judge": "abs"},
            "task.judge must be of a type that YAML has, but its annotation is collections.abc.Callable",
        ),
        ({"more": 1}, "unknown key task.more; known keys are order, widths, shares, folder, crop, judge"),
    ],
)
def test_what_common_annotations_do_not_allow_is_named(values, message):
    with pytest.raises(InputError) as caught:
        build(Flowers, values, "task")
    assert str(caught.value).startswith(message)


def test_groups_inside_groups_are_built_too():
    built = build(FinalistSettings, {"count": 2, "finetune": {"epochs": 3}}, "finalists")
    assert built.finetune.epochs == 3
    with pytest.raises(InputError, match=r"unknown key finalists\.finetune\.epoch; known keys are epochs"):
        build(FinalistSettings, {"finetune": {"epoch": 3}}, "finalists")


@pytest.mark.parametrize(
    ("group", "constructor"),
    [
        ("budget", Budget),
        ("finalists", FinalistSettings),
        ("sensitivity", SensitivitySettings),
        ("space", SpaceOptions),
        ("trial", TrialSettings),
    ],
)
def test_the_file_of_a_group_mirrors_its_constructor(group, constructor):
    values = yaml.safe_load((Path(conf.__file__).parent / group / "default.yaml").read_text())
    built = build(constructor, values, group)
    assert built == constructor()
    assert keys_of(values) == keys_of(asdict(built))


def keys_of(values):
    """Return the keys, and those of the groups among their values."""
    return {key: keys_of(value) if isinstance(value, dict) else None for key, value in values.items()}


def test_lists_of_pairs_become_tuples_of_pairs():
    assert build(SpaceOptions, {"bits": [[8, 8]]}, "space").bits == ((8, 8),)


def test_a_target_that_is_no_class_is_refused():
    with pytest.raises(InputError, match=r"task\._target_ must name a class, but os\.path is none"):
        build_target({"_target_": "os.path"}, "task")


def test_a_target_is_imported_and_built():
    assert build_target({"_target_": "gulliver.search.settings.Budget", "max_drop": 0.02}, "budget") == Budget(0.02)


@pytest.mark.parametrize("name", ["builtins.dict", "builtins.int", "collections.OrderedDict"])
def test_a_class_that_does_not_say_what_its_arguments_are_is_refused(name):
    with pytest.raises(InputError, match=rf"^task\._target_={name} does not say what its arguments are$"):
        build_target({"_target_": name}, "task")


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        ("task", "name, model, example_inputs, calibration"),
        ("target", "name, capabilities, latency_model, lower"),
        ("sampler", "guided, make"),
    ],
)
def test_what_is_not_of_the_kind_that_is_asked_for_is_refused(path, needed):
    with pytest.raises(InputError) as caught:
        build_target({"_target_": "gulliver.search.settings.Budget"}, path)
    assert str(caught.value) == f"{path} must have {needed}, but what {path}._target_ names, Budget, has not"


class Wrapped:
    """A task that has what another one has."""

    def __getattr__(self, name):
        return name


def test_a_task_may_have_its_members_by_any_means():
    assert isinstance(build_target({"_target_": f"{__name__}.Wrapped"}, "task"), Wrapped)


@pytest.mark.parametrize("name", ["nonsense", "gulliver.nowhere.Thing", "gulliver.search.settings.Nothing"])
def test_a_target_that_cannot_be_imported_is_named(name):
    with pytest.raises(InputError, match=rf"task\._target_={name} cannot be imported"):
        build_target({"_target_": name}, "task")
