"""What each command does, once its configuration is checked."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gulliver.search.jobs import ApplyJob, CalibrateJob, PredictJob, SearchJob, ShowJob, SolveJob


def run_search_job(job: SearchJob) -> None:
    """Search, with each seed that is wanted, and say at the end where everything is."""
    from gulliver.search.run_directory import RunDirectory
    from gulliver.search.tracking import Tracker

    if job.again:
        RunDirectory(job.out).set_aside()
    best = _search(job, job.settings.seed, job.out) if len(job.seeds) == 1 else _search_seeds(job)
    say(f"\nbest recipe   {best.out / 'recipes' / 'best.yaml'}")
    say(f"everything    {job.out}")
    if job.tracking.enabled:
        store = shlex.quote(Tracker(job.tracking, job.out).uri)
        say(f"dashboard     mlflow ui --backend-store-uri {store}   (or: make dashboard)")


def _search(job: SearchJob, seed: int, out: Path) -> Any:
    """Return the result of the search with one seed, and say what it came to."""
    from gulliver.search.run_search import run_search

    settings = replace(job.settings, seed=seed)
    result = run_search(job.task, job.target, settings, job.tracking, out, say, job.config)
    if result.explanation:
        say("\n" + "\n".join(result.explanation))
    return result


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
    # Those of another budget, of which there may be more.
    for older in [*job.out.glob("step-*.yaml")]:
        older.unlink()
    for index, step in enumerate(ladder):
        step.recipe.save(job.out / f"step-{index:02d}.yaml")
    best.recipe.save(job.out / "best.yaml")
    say(solve_table(ladder, best, solver.keeps_budget(best), job.target.conditions))
    applied = "scores" if job.target.runtime is None else "measures"
    say(f"\nbest recipe   {job.out / 'best.yaml'}   (predicted only: `gulliver apply` {applied} it)")


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
    from gulliver.evaluators.latency.calibration import forget
    from gulliver.spaces.space import Space

    original = read_original(job.task)
    space = Space(original.graph, job.target.capabilities, job.space)
    if job.again:
        forget(job.target, original, space)
    model = job.target.latency_model(original, space)
    say(f"{len(model.table)} kernel times in {model.table.path}")
    for name, value in vars(model.coefficients).items():
        say(f"  {name:20} {value:.4g}")


def run_show_job(job: ShowJob) -> None:
    """Print the recipe, or the kernel calls that it becomes on the target, or what a search there may choose from."""
    from gulliver.search.show_plan import show_plan
    from gulliver.search.show_recipe import show_recipe
    from gulliver.search.show_space import show_space

    if job.recipe is None:
        say(show_space(job.task, job.target, job.space))
    else:
        say(show_recipe(job.recipe) if job.target is None else show_plan(job.recipe, job.task, job.target))


def run_predict_job(job: PredictJob) -> None:
    """Predict the table's kernels; what cannot be predicted is named on stderr."""
    from gulliver.search.predict_kernels import predict_kernels

    predict_kernels(job.kernels, job.out, job.mode, say, warn)


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
