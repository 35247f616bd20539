"""What each command does, once its configuration is checked."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gulliver.search.configuration import build, build_target, check_keys
from gulliver.tasks.errors import InputError

_SECTIONS = ("task", "target", "space", "sensitivity", "sampler", "budget", "trial", "finalists", "tracking")
_SEARCH_KEYS = [*_SECTIONS, "trials", "batch", "seed", "seeds", "objectives", "out", "again"]
_CONFIG_FILE = "config.yaml"
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
    """A recipe that was read, and, unless both are None, the task and the target whose plan is asked for."""

    path: Path
    recipe: Any
    task: Any
    target: Any


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
    from gulliver.spaces.space import SpaceOptions

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
    return SearchJob(task, target, settings, tracking, seeds, out, bool(config["again"]), config)


def build_solve(config: dict[str, Any]) -> SolveJob:
    """Return the finished search and what it is to be solved for; raises InputError that names the key."""
    from gulliver.search.settings import Budget

    check_keys(config, ["run", "budget", "target", "steps", "out"], "")
    run = _folder(config["run"], "run")
    if run is None:
        raise InputError("run must be given, as in run=DIR, the folder of a search")
    searched = build_search(_read_config(run))
    settings = replace(searched.settings, budget=build(Budget, config["budget"], "budget"))
    target = build_target(config["target"], "target") if config.get("target") else searched.target
    if not isinstance(config["steps"], int) or config["steps"] < 2:
        raise InputError(f"`steps >= 2` must hold, whole, but it is {config['steps']}")
    return SolveJob(run, searched, settings, target, config["steps"], _folder(config["out"]) or run / "solve")


def build_apply(config: dict[str, Any]) -> ApplyJob:
    """Return the application that the configuration describes; raises InputError that names the key."""
    from gulliver.search.apply_recipe import FORMATS

    check_keys(config, ["recipe", "task", "target", "out", "formats"], "")
    recipe, formats = _read(config), config["formats"]
    if not isinstance(formats, list) or any(it not in FORMATS for it in formats):
        raise InputError(f"formats must be a list of {' or '.join(FORMATS)}, but is {formats}")
    task, target = build_target(config["task"], "task"), build_target(config["target"], "target")
    out = _folder(config["out"]) or Path("outputs") / f"apply-{recipe.key}"
    return ApplyJob(recipe, task, target, out, tuple(formats))


def build_calibrate(config: dict[str, Any]) -> CalibrateJob:
    """Return the calibration that the configuration describes; raises InputError that names the key."""
    from gulliver.spaces.space import SpaceOptions

    check_keys(config, ["task", "target", "space", "again", "kernels", "out"], "")
    task, target = build_target(config["task"], "task"), build_target(config["target"], "target")
    kernels, out = (_table(config, key) if config[key] else None for key in ("kernels", "out"))
    if target.runtime is None and kernels is None:
        raise InputError(f"kernels must be given for {target.name}, which is not here, as in kernels=FILE.csv")
    if target.runtime is not None and (kernels or out):
        raise InputError(f"kernels and out must not be given for {target.name}, which is measured here")
    options = build(SpaceOptions, config["space"], "space")
    return CalibrateJob(task, target, options, bool(config["again"]), kernels, out)


def build_show(config: dict[str, Any]) -> ShowJob:
    """Return the recipe to show; raises InputError where its file is not one."""
    check_keys(config, ["recipe", "task", "target"], "")
    recipe, given = _read(config), [key for key in ("task", "target") if config.get(key)]
    if len(given) == 1:
        raise InputError(f"task and target must be given together, but {given[0]} is alone")
    task, target = (build_target(config[key], key) for key in given) if given else (None, None)
    return ShowJob(Path(str(config["recipe"])), recipe, task, target)


def build_predict(config: dict[str, Any]) -> PredictJob:
    """Return the prediction that the configuration describes; raises InputError that names the key."""
    from gulliver.evaluators.latency.chip_prediction import MODES

    check_keys(config, ["kernels", "out", "mode"], "")
    kernels, out = _table(config, "kernels"), _table(config, "out")
    if config["mode"] not in MODES:
        raise InputError(f"mode must be one of {', '.join(MODES)}, but is {config['mode']}")
    if out.is_dir() or out.suffix == ".png" or out.resolve() == kernels.resolve():
        raise InputError(f"out must be a CSV file other than kernels, but is {out}")
    return PredictJob(kernels, out, config["mode"])


def run_search_job(job: SearchJob) -> None:
    """Search, with each seed that is wanted, and say at the end where everything is."""
    from gulliver.search.run_directory import RunDirectory
    from gulliver.search.tracking import Tracker

    if job.again:
        RunDirectory(job.out).set_aside()
    best = _search(job, job.settings.seed, job.out) if len(job.seeds) == 1 else _search_seeds(job)
    say(f"\nbest recipe   {best.out / 'recipes' / 'best.yaml'}")
    say(f"everything    {job.out}")
    say(f"dashboard     mlflow ui --backend-store-uri {Tracker(job.tracking, job.out).uri}   (or: make dashboard)")


def _search(job: SearchJob, seed: int, out: Path) -> Any:
    """Return the result of the search with one seed, and say what it came to."""
    from gulliver.search.run_search import run_search

    result = run_search(job.task, job.target, replace(job.settings, seed=seed), job.tracking, out, say)
    _write_config(job.config, out)
    if result.explanation:
        say("\n" + "\n".join(result.explanation))
    return result


def _write_config(config: dict[str, Any], out: Path) -> None:
    """Write what the search was launched with, for `gulliver solve`."""
    import yaml
    from gulliver.tasks.cache import write_atomically

    text = yaml.safe_dump(config, sort_keys=True)
    write_atomically(out / _CONFIG_FILE, lambda temporary: temporary.write_text(text))


def _search_seeds(job: SearchJob) -> Any:
    """Return the best of the seeds' results, and say how far they are from each other."""
    from gulliver.search.seeds import best_result, outcome, search_seeds, seed_table
    from gulliver.search.tracking import Tracker

    # One store for all seeds, where that of a single search would be.
    shared = replace(job, tracking=replace(job.tracking, uri=Tracker(job.tracking, job.out).uri))

    def search(seed: int, out: Path) -> Any:
        say(f"\nseed {seed}, {job.seeds.index(seed) + 1} of {len(job.seeds)}")
        return _search(shared, seed, out)

    results = search_seeds(search, job.seeds, job.out)
    table = seed_table([*map(outcome, results)])
    say(f"\nthe best recipe of each seed as {results[0].how}, and the front as searched\n{table}")
    return best_result(results)


def run_solve_job(job: SolveJob) -> None:
    """Solve the search again, write the recipes, and say what is predicted of them."""
    from gulliver.search.solve_run import open_solver, solve_table

    solver = open_solver(job.run, job.searched.task, job.settings, job.searched.target, job.target)
    ladder, best = solver.ladder(job.steps), solver.best()
    for index, step in enumerate(ladder):
        step.recipe.save(job.out / f"step-{index:02d}.yaml")
    best.recipe.save(job.out / "best.yaml")
    say(solve_table(ladder, best, job.target.conditions))
    say(f"\nbest recipe   {job.out / 'best.yaml'}   (predicted only: `gulliver apply` measures it)")


def run_apply_job(job: ApplyJob) -> None:
    """Apply the recipe, export the network, and measure it beside the untouched one."""
    from gulliver.search.apply_recipe import apply_recipe

    apply_recipe(job.recipe, job.task, job.target, job.out, say, job.formats)


def run_calibrate_job(job: CalibrateJob) -> None:
    """Measure kernels, or read their times, fit the latency model, and say how well it fits."""
    if job.kernels is None:
        _calibrate_network(job)
        return
    from gulliver.search.calibrate_chip import calibrate_chip

    calibrate_chip(job.target, job.kernels, job.out, say, warn)


def _calibrate_network(job: CalibrateJob) -> None:
    from gulliver.compressors.compress import read_original
    from gulliver.evaluators.latency.calibration import calibrate_space, forget
    from gulliver.spaces.space import Space

    original = read_original(job.task)
    if job.again:
        forget(job.target, original)
    model = calibrate_space(job.target, original, Space(original.graph, job.target.capabilities, job.space))
    say(f"{len(model.table)} kernel times in {model.table.path}")
    for name, value in vars(model.coefficients).items():
        say(f"  {name:20} {value:.4g}")


def run_show_job(job: ShowJob) -> None:
    """Print the recipe, or the kernel calls that it becomes on the target."""
    from gulliver.search.show_plan import show_plan
    from gulliver.search.show_recipe import show_recipe

    say(show_recipe(job.recipe) if job.target is None else show_plan(job.recipe, job.task, job.target))


def run_predict_job(job: PredictJob) -> None:
    """Predict the table's kernels; what cannot be predicted is named on stderr."""
    from gulliver.search.predict_kernels import predict_kernels

    predict_kernels(job.kernels, job.out, job.mode, say, warn)


BUILD: Mapping[str, Callable[[dict[str, Any]], Job]] = {
    "search": build_search,
    "solve": build_solve,
    "apply": build_apply,
    "calibrate": build_calibrate,
    "show": build_show,
    "predict": build_predict,
}
RUN: Mapping[str, Callable[[Any], None]] = {
    "search": run_search_job,
    "solve": run_solve_job,
    "apply": run_apply_job,
    "calibrate": run_calibrate_job,
    "show": run_show_job,
    "predict": run_predict_job,
}


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def warn(line: str) -> None:
    """Print a line on stderr at once."""
    sys.stderr.write(f"gulliver: {line}\n")
    sys.stderr.flush()


def _table(config: dict[str, Any], key: str) -> Path:
    if not isinstance(config[key], str) or not config[key]:
        raise InputError(f"{key} must be given, as in {key}=FILE.csv")
    return Path(config[key])


def _read(config: dict[str, Any]) -> Any:
    from gulliver.spaces.recipe_file import read_recipe

    if not isinstance(config["recipe"], str):
        raise InputError("recipe must be given, as in recipe=FILE")
    return read_recipe(config["recipe"])


def _read_config(run: Path) -> dict[str, Any]:
    """Return the configuration that a search in this folder was launched with."""
    import yaml

    path = run / _CONFIG_FILE
    if not path.exists():
        raise InputError(f"run must be the folder of a search that `gulliver search` made, but {path} does not exist")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    return config if isinstance(config, dict) else {}


def _folder(value: object, key: str = "out") -> Path | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{key} must be a folder, but is {value!r}")
    return Path(value) if value else None


def _seeds(count: object, first: int) -> tuple[int, ...]:
    """Return the seeds of a search and of its repetitions."""
    if type(count) is not int or not 1 <= count <= 2**31 - first:
        raise InputError(f"`1 <= seeds <= 2**31 - seed` must hold, but it is {count}")
    return tuple(range(first, first + count))


def _default_out(config: dict[str, Any], named: str) -> Path:
    """Return a folder named for the settings, so that the same command finds its own search again."""
    decisive = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    return Path("outputs") / f"{named}-{digest}"
