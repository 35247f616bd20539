"""The Python interface: search a network of your own."""

from pathlib import Path
from typing import Any

from gulliver.search.commands import say
from gulliver.search.configuration import build_target
from gulliver.search.launch import compose
from gulliver.search.result import Result
from gulliver.search.run_search import run_search
from gulliver.search.settings import Budget, SearchSettings
from gulliver.search.tracking import TrackingSettings
from gulliver.tasks.protocol import Task


def search(
    task: Task,
    target: Any = "cpu_openvino",
    budget: Budget | None = None,
    trials: int = 48,
    seed: int = 0,
    out: str | Path | None = None,
    tracking: TrackingSettings | None = None,
    **settings: Any,
) -> Result:
    """Return the result of a search on the task's network; `target` is a target or the name of one in conf/target.

    Further settings are those of `SearchSettings`. Raises InputError where a setting is impossible.
    """
    if isinstance(target, str):
        target = build_target(compose("calibrate", [f"target={target}"])["target"], "target")
    given: dict[str, Any] = {"trials": trials, "seed": seed, "budget": budget or Budget()}
    all_settings = SearchSettings(**given | settings)
    folder = Path(out) if out else Path("outputs") / f"{task.name}-{target.name}-seed{seed}"
    return run_search(task, target, all_settings, tracking or TrackingSettings(), folder, say)
