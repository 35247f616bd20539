"""Write on a recipe what it was found for, and what is known of it."""

from dataclasses import asdict, replace
from importlib.metadata import version

from gulliver.compressors.compress import Original
from gulliver.evaluators.latency.target import Target
from gulliver.search.finalists import MEASURED, Measured
from gulliver.search.study import Candidate
from gulliver.spaces.recipe import FoundFor, Recipe

_VERSIONED = ("gulliver", "torch", "openvino", "optuna")


def sign(candidate: Candidate, original: Original, target: Target, seed: int) -> Recipe:
    """Return the candidate's recipe with the circumstances that it was found in and what was predicted."""
    scores = asdict(candidate.scores)
    found_for = FoundFor(
        network=original.network,
        task=original.task.name,
        target=target.name,
        seed=seed,
        versions={name: version(name) for name in _VERSIONED},
        settings={
            "conditions": target.conditions,
            "trial": candidate.trial,
            "proposed_by": candidate.proposed_by,
        },
        predicted={name: scores[name] for name in ("accuracy_search", "latency_ms", "size_bytes")},
    )
    return replace(candidate.recipe, found_for=found_for)


def add_measured(recipe: Recipe, measured: Measured) -> Recipe:
    """Return the recipe with what was measured of its network; what was modelled joins the predictions."""
    known = {name: value for name, value in asdict(measured).items() if isinstance(value, int | float)}
    found_for = recipe.found_for
    if measured.how == MEASURED:
        return replace(recipe, found_for=replace(found_for, measured=known))
    return replace(recipe, found_for=replace(found_for, predicted=dict(found_for.predicted) | known))
