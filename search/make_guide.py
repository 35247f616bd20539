"""From what was measured before the search to the guide that it goes by."""

import numpy as np
from gulliver.evaluators.factors import Factor
from gulliver.search.guide import Guide
from gulliver.search.problem import Problem
from gulliver.search.sensitivity import Sensitivities
from gulliver.search.settings import SearchSettings
from gulliver.spaces.space import Space


def make_guide(
    space: Space,
    sensitivities: Sensitivities,
    latency_ms: tuple[Factor, ...],
    settings: SearchSettings,
    original_score: float,
) -> Guide:
    """Return the guide of a search: what the budget can never allow counts for nothing."""
    dimensions, limit_ms = space.dimensions, settings.budget.max_latency_ms
    problem = Problem(
        names=tuple(it.name for it in dimensions),
        sizes=tuple(it.rungs for it in dimensions),
        loss=sensitivities.factors(space),
        latency_ms=latency_ms,
    )
    layers = list(space.graph.layers)
    untouched_ms = float(problem.latency_ms_of(np.zeros((1, len(dimensions)), dtype=np.intp))[0])
    return Guide(
        problem=problem,
        positions=tuple(layers.index(it.owner) for it in dimensions),
        original_score=original_score,
        lowest_score=original_score - settings.largest_drop,
        highest_latency_ms=min(untouched_ms, limit_ms or untouched_ms),
        score_index=settings.objectives.index("accuracy_search"),
    )
