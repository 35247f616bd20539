"""Expected hypervolume improvement where the latency is known and the score is normally distributed.

Between two latencies of the front, a candidate that is faster than both adds the part of its score that lies above
the front there; the expectation of that is the expected improvement of Jones et al. (1998), and the sum over the
front's steps that of Emmerich et al. (2006).
"""

import numpy as np
from gulliver.evaluators.factors import Costs
from scipy.special import ndtr


def expected_improvement(
    means: Costs, deviations: Costs, latencies_ms: Costs, front: Costs, lowest_score: float, highest_latency_ms: float
) -> Costs:
    """Return shape (candidates,): the expected growth of the area under the front, in score times milliseconds.

    `front` has shape (points, 2), latency and score, in any order; points outside the reference count for nothing.
    """
    starts, levels = _steps(front, lowest_score, highest_latency_ms)
    ends = np.append(starts[1:], highest_latency_ms)
    widths = np.clip(ends - np.maximum(starts, latencies_ms[:, None]), 0.0, None)
    margins = (means[:, None] - levels) / deviations[:, None]
    density = np.exp(-0.5 * margins**2) / np.sqrt(2 * np.pi)
    gains = deviations[:, None] * (margins * ndtr(margins) + density)
    return np.asarray((widths * gains).sum(1))


def _steps(front: Costs, lowest_score: float, highest_latency_ms: float) -> tuple[Costs, Costs]:
    """Return where each step of the front begins and how high it is, the first one being the reference score's."""
    inside = front[front[:, 0] < highest_latency_ms]
    ordered = inside[np.argsort(inside[:, 0], kind="stable")]
    levels = np.maximum.accumulate(np.append(lowest_score, ordered[:, 1]))
    rises = np.diff(levels, prepend=-np.inf) > 0
    return np.append(0.0, ordered[:, 0])[rises], levels[rises]
