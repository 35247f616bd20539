"""How good a front is, as one number."""

from collections.abc import Sequence


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area between (latency, accuracy) points and a reference that is slower and less accurate.

    In units of latency times accuracy; points beyond the reference add nothing (Zitzler and Thiele, 1998).
    """
    area, best_accuracy = 0.0, reference[1]
    ordered = sorted(point for point in points if point[0] < reference[0])
    ends = [latency for latency, _ in ordered[1:]] + [reference[0]]
    for (latency, accuracy), end in zip(ordered, ends[: len(ordered)], strict=True):
        best_accuracy = max(best_accuracy, accuracy)
        area += (end - latency) * (best_accuracy - reference[1])
    return area
