"""What a traced network's tensors hold on the calibration inputs: extremes and histograms."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from gulliver.compressors.calibrators import Histogram
from gulliver.tasks.protocol import Inputs
from torch import Tensor, fx


def observe_extremes(
    traced: fx.GraphModule, sources: Collection[fx.Node], calibration: Iterable[Inputs]
) -> dict[fx.Node, tuple[float, float]]:
    """Return the lowest and the highest value of each source's tensors."""
    ranges: dict[fx.Node, tuple[float, float]] = {}

    def see(node: fx.Node, values: Tensor) -> None:
        lowest, highest = (bound.item() for bound in torch.aminmax(values))
        seen = ranges.get(node, (lowest, highest))
        ranges[node] = (min(lowest, seen[0]), max(highest, seen[1]))

    _run(traced, sources, calibration, see)
    return ranges


def observe_histograms(
    traced: fx.GraphModule, extremes: Mapping[fx.Node, tuple[float, float]], calibration: Iterable[Inputs]
) -> dict[fx.Node, Histogram]:
    """Return the histogram of each source's tensors between its extremes."""
    histograms = {node: Histogram.empty(*bounds) for node, bounds in extremes.items()}

    def see(node: fx.Node, values: Tensor) -> None:
        histograms[node].add(values)

    _run(traced, extremes, calibration, see)
    return histograms


def _run(
    traced: fx.GraphModule,
    sources: Collection[fx.Node],
    calibration: Iterable[Inputs],
    see: Callable[[fx.Node, Tensor], None],
) -> None:
    observer = _Observer(traced, sources, see)
    with torch.no_grad():
        for inputs in calibration:
            observer.run(*inputs)


class _Observer(fx.Interpreter):
    """Run the network and show some of its tensors."""

    def __init__(
        self, traced: fx.GraphModule, sources: Collection[fx.Node], see: Callable[[fx.Node, Tensor], None]
    ) -> None:
        super().__init__(traced)
        self._sources = sources
        self._see = see

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._sources:
            self._see(n, result)
        return result
