"""What each command is asked to do: its configuration, checked and built, before anything runs."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gulliver.search.configuration import build, build_target, check_keys
from gulliver.tasks.errors import InputError

_SECTIONS = ("task", "target", "space", "sensitivity", "sampler", "budget", "trial", "finalists", "tracking")
_SEARCH_KEYS = [*_SECTIONS, "trials", "batch", "seed", "seeds", "objectives", "out", "again"]
# Each is solved exactly, and many more than a front has recipes tell nothing new.
_MOST_STEPS = 1000
_WITHOUT_EFFECT = ("trials", "seeds", "out", "again", "tracking")


@dataclass(frozen=True)
class SearchJob:
    """A checked search: everything is built, nothing has run. It is repeated with as many other seeds as are wanted."""

    task: Any
    target: Any
    settings: Any
    tracking: Any
    seeds: tuple[int, ...]
    out: Path
    again: bool
    config: dict[str, Any]


@dataclass(frozen=True)
class ApplyJob:
    """A checked application of a recipe."""

    recipe: Any
    task: Any
    target: Any
    out: Path
    formats: tuple[str, ...]


@dataclass(frozen=True)
class CalibrateJob:
    """A checked calibration: of a network on this machine, or, with a table of `kernels`, of a chip's model."""

    task: Any
    target: Any
    space: Any
    again: bool
    kernels: Path | None
    out: Path | None


@dataclass(frozen=True)
class ShowJob:
    """What is to be shown: a recipe, its plan for a task on a target, or, without a recipe, the space of a search."""

    recipe: Any
    task: Any
    target: Any
    space: Any


@dataclass(frozen=True)
class PredictJob:
    """A table of kernels to predict the times of."""

    kernels: Path
    out: Path
    mode: str


@dataclass(frozen=True)
class SolveJob:
    """A finished search to solve again; `target` is where its recipes are to run now."""

    run: Path
    searched: SearchJob
    settings: Any
    target: Any
    steps: int
    out: Path


Job = SearchJob | SolveJob | ApplyJob | CalibrateJob | ShowJob | PredictJob


def build_search(config: dict[str, Any]) -> SearchJob:
    """Return the search that the configuration describes; raises InputError that names the key."""
    from gulliver.search.sensitivity import SensitivitySettings
    from gulliver.search.settings import Budget, FinalistSettings, SearchSettings, TrialSettings
    from gulliver.search.tracking import TrackingSettings
    from gulliver.spaces.space_options import SpaceOptions

    check_keys(config, _SEARCH_KEYS, "")
    task, target = build_target(config["task"], "task"), build_target(config["target"], "target")
    sections = {
        "space": build(SpaceOptions, config["space"], "space"),
        "sensitivity": build(SensitivitySettings, config["sensitivity"], "sensitivity"),
        "budget": build(Budget, config["budget"], "budget"),
        "trial": build(TrialSettings, config["trial"], "trial"),
        "finalists": build(FinalistSettings, config["finalists"], "finalists"),
        "sampler": build_target(config["sampler"], "sampler"),
    }
    plain = {key: config[key] for key in ("trials", "batch", "seed", "objectives")}
    settings = build(SearchSettings, plain | sections, "search")
    seeds = _seeds(config["seeds"], settings.seed)
    named = f"{task.name}-{target.name}-{'seeds-from' if len(seeds) > 1 else 'seed'}{settings.seed}"
    out = _folder(config["out"]) or _default_out(config, named)
    tracking = build(TrackingSettings, config["tracking"], "tracking")
    return SearchJob(task, target, settings, tracking, seeds, out, _yes_or_no(config, "again"), config)


def build_solve(config: dict[str, Any]) -> SolveJob:
    """Return the finished search and what it is to be solved for; raises InputError that names the key."""
    from gulliver.search.settings import Budget

    check_keys(config, ["run", "budget", "target", "steps", "out"], "", optional=["target"])
    run = _folder(config["run"], "run")
    if run is None:
        raise InputError("run must be given, as in run=DIR, the folder of a search")
    searched = _read_search(run)
    settings = replace(searched.settings, budget=build(Budget, config["budget"], "budget"))
    target = build_target(config["target"], "target") if config.get("target") else searched.target
    if type(config["steps"]) is not int or not 2 <= config["steps"] <= _MOST_STEPS:
        raise InputError(f"`2 <= steps <= {_MOST_STEPS}` must hold, whole, but it is {config['steps']}")
    return SolveJob(run, searched, settings, target, config["steps"], _folder(config["out"]) or run / "solve")


def build_apply(config: dict[str, Any]) -> ApplyJob:
    """Return the application that the configuration describes; raises InputError that names the key."""
    from gulliver.search.apply_recipe import FORMATS

    check_keys(config, ["recipe", "task", "target", "out", "formats"], "")
    recipe, formats = _read(config), config["formats"]
    if not isinstance(formats, list) or any(it not in FORMATS for it in formats):
        raise InputError(f"formats must be a list of {' or '.join(FORMATS)}, but is {formats}")
    task, target = build_target(config["task"], "task"), build_target(config["target"], "target")
    out = _folder(config["out"]) or Path("outputs") / f"apply-{task.name}-{target.name}-{recipe.key}"
    return ApplyJob(recipe, task, target, out, tuple(formats))


def build_calibrate(config: dict[str, Any]) -> CalibrateJob:
    """Return the calibration that the configuration describes; raises InputError that names the key."""
    from gulliver.spaces.space_options import SpaceOptions

    check_keys(config, ["task", "target", "space", "again", "kernels", "out"], "")
    task, target = build_target(config["task"], "task"), build_target(config["target"], "target")
    kernels = _file(config, "kernels", "csv") if config["kernels"] else None
    out = _file(config, "out", "yaml") if config["out"] else None
    if target.runtime is None and kernels is None:
        raise InputError(f"kernels must be given for {target.name}, which is not here, as in kernels=FILE.csv")
    if target.runtime is not None and (kernels or out):
        raise InputError(f"kernels and out must not be given for {target.name}, which is measured here")
    if kernels and out and (out.is_dir() or out.resolve() == kernels.resolve()):
        raise InputError(f"out must be a YAML file other than kernels, but is {out}")
    options = build(SpaceOptions, config["space"], "space")
    return CalibrateJob(task, target, options, _yes_or_no(config, "again"), kernels, out)


def build_show(config: dict[str, Any]) -> ShowJob:
    """Return what is to be shown; raises InputError where the recipe's file is not one."""
    from gulliver.spaces.space_options import SpaceOptions

    check_keys(config, ["recipe", "task", "target", "space"], "", optional=["task", "target"])
    given = [key for key in ("task", "target") if config.get(key)]
    if len(given) == 1:
        raise InputError(f"task and target must be given together, but {given[0]} is alone")
    recipe = None if given and config["recipe"] is None else _read(config)
    task, target = (build_target(config[key], key) for key in given) if given else (None, None)
    return ShowJob(recipe, task, target, build(SpaceOptions, config["space"], "space"))


def build_predict(config: dict[str, Any]) -> PredictJob:
    """Return the prediction that the configuration describes; raises InputError that names the key."""
    from gulliver.evaluators.latency.chip_prediction import MODES

    check_keys(config, ["kernels", "out", "mode"], "")
    kernels, out = _file(config, "kernels", "csv"), _file(config, "out", "csv")
    if config["mode"] not in MODES:
        raise InputError(f"mode must be one of {', '.join(MODES)}, but is {config['mode']}")
    if out.is_dir() or out.suffix == ".png" or out.resolve() == kernels.resolve():
        raise InputError(f"out must be a CSV file other than kernels, but is {out}")
    return PredictJob(kernels, out, config["mode"])


BUILD: Mapping[str, Callable[[dict[str, Any]], Job]] = {
    "search": build_search,
    "solve": build_solve,
    "apply": build_apply,
    "calibrate": build_calibrate,
    "show": build_show,
    "predict": build_predict,
}


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a command's results, not how many there are, where they go, or whether they are made anew."""
    return {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}


def _file(config: dict[str, Any], key: str, suffix: str) -> Path:
    if not isinstance(config[key], str) or not config[key]:
        raise InputError(f"{key} must be given, as in {key}=FILE.{suffix}")
    return Path(config[key])


def _read(config: dict[str, Any]) -> Any:
    from gulliver.spaces.recipe_file import read_recipe

    if not isinstance(config["recipe"], str):
        raise InputError("recipe must be given, as in recipe=FILE")
    return read_recipe(config["recipe"])


def _read_search(run: Path) -> SearchJob:
    """Return the search that was launched in this folder."""
    import yaml
    from gulliver.search.run_directory import CONFIG_FILE

    path = run / CONFIG_FILE
    if not path.exists():
        raise InputError(f"run must be the folder of a search that `gulliver search` made, but {path} does not exist")
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must be a group of keys, but is {config!r}")
    try:
        return build_search(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _folder(value: object, key: str = "out") -> Path | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{key} must be a folder, but is {value!r}")
    return Path(value) if value else None


def _yes_or_no(config: dict[str, Any], key: str) -> bool:
    value = config[key]
    if not isinstance(value, bool):
        raise InputError(f"{key} must be true or false, but is {value!r}")
    return value


def _seeds(count: object, first: int) -> tuple[int, ...]:
    """Return the seeds of a search and of its repetitions."""
    if type(count) is not int or not 1 <= count <= 2**31 - first:
        raise InputError(f"`1 <= seeds <= 2**31 - seed` must hold, but it is {count}")
    return tuple(range(first, first + count))


def _default_out(config: dict[str, Any], named: str) -> Path:
    """Return a folder named for the settings, so that the same command finds its own search again."""
    digest = hashlib.sha256(json.dumps(decisive(config), sort_keys=True).encode()).hexdigest()[:8]
    return Path("outputs") / f"{named}-{digest}"
