"""Sensitivities for another target: its ladders have other rungs, but the network's losses are the same."""

from collections.abc import Sequence

import numpy as np
from gulliver.search.sensitivity import Sensitivities
from gulliver.spaces.recipe import Quantize
from gulliver.spaces.shapes import Channels
from gulliver.spaces.space import Dimension, Space

# A choice that was never measured is priced so high that no budget takes it.
_NEVER = 100.0


def transferred(sensitivities: Sensitivities, old: Space, new: Space) -> Sensitivities:
    """Return the sensitivities of the new space's choices, interpolated between those of the old one.

    Between two ratios or two ranks that were measured the loss is taken to change evenly; widths that were not
    measured are never worth choosing.
    """
    worst = _NEVER * max([1e-3, *sensitivities.losses.values()])
    measured = {dimension.name: _measured(sensitivities, old, dimension) for dimension in old.dimensions}
    losses = {
        (dimension.name, rung): _loss(measured.get(dimension.name, ()), amount, worst)
        for dimension in new.dimensions
        for rung, amount in enumerate(_amounts(new, dimension))
        if rung
    }
    pairs = {pair: share for pair, share in sensitivities.pairs.items() if {*pair} <= new.names}
    return Sensitivities(sensitivities.method, losses, pairs)


def _measured(
    sensitivities: Sensitivities, space: Space, dimension: Dimension
) -> Sequence[tuple[float | Quantize | None, float]]:
    amounts = _amounts(space, dimension)
    return [(it, sensitivities.losses[dimension.name, rung] if rung else 0.0) for rung, it in enumerate(amounts)]


def _amounts(space: Space, dimension: Dimension) -> Sequence[float | Quantize | None]:
    """Return what each rung means: widths, the share of channels removed, or one over the rank."""
    if dimension.method == "sparsity":
        group = next(it for it in space.graph.channel_groups if it.name == dimension.owner)
        return space.ratios(group)
    layer = space.graph.layers[dimension.owner]
    if dimension.method == "precision":
        return (None, *space.precisions(layer))
    ranks = space.ranks(layer, Channels(layer.in_channels, layer.out_channels))
    # A ladder that is shorter at full width repeats its last rung, as decoding does.
    repeated = [*ranks, *ranks[-1:] * (dimension.rungs - 1 - len(ranks))]
    return (0.0, *(1 / rank for rank in repeated))


def _loss(
    measured: Sequence[tuple[float | Quantize | None, float]], amount: float | Quantize | None, worst: float
) -> float:
    if not isinstance(amount, float):
        return dict(measured).get(amount, worst)
    points = [(it, loss) for it, loss in measured if isinstance(it, float)]
    if not points:
        return worst
    amounts, losses = zip(*sorted(points), strict=True)
    return float(np.interp(amount, amounts, losses))
