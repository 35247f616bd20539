"""Sensitivities for another target: its ladders have other rungs, but the network's losses are the same."""

from collections.abc import Hashable, Sequence

import numpy as np
from gulliver.search.sensitivity import Sensitivities
from gulliver.spaces.shapes import all_channels
from gulliver.spaces.space import Dimension, Space

# A choice that was never measured is priced so high that no budget takes it.
_NEVER = 100.0
# What is changed, and how much of it.
_Change = tuple[Hashable, float]
_NOTHING: _Change = (None, 0.0)


def transferred(sensitivities: Sensitivities, old: Space, new: Space) -> Sensitivities:
    """Return the sensitivities of the new space's choices, interpolated between those of the old one.

    Between two ratios or two ranks of one kind that were measured the loss is taken to change evenly; larger ratios,
    smaller ranks, and widths, calibrators and kinds that were not are never worth choosing.
    """
    worst = _NEVER * max([1e-3, *sensitivities.losses.values()])
    measured = {dimension.name: _measured(sensitivities, old, dimension) for dimension in old.dimensions}
    losses = {
        (dimension.name, rung): _loss(measured.get(dimension.name, ()), change, worst)
        for dimension in new.dimensions
        for rung, change in enumerate(_changes(new, dimension))
        if rung
    }
    pairs = {pair: share for pair, share in sensitivities.pairs.items() if {*pair} <= new.names}
    return Sensitivities(sensitivities.method, losses, pairs)


def _measured(sensitivities: Sensitivities, space: Space, dimension: Dimension) -> Sequence[tuple[_Change, float]]:
    changes = _changes(space, dimension)
    return [(it, sensitivities.losses[dimension.name, rung] if rung else 0.0) for rung, it in enumerate(changes)]


def _changes(space: Space, dimension: Dimension) -> Sequence[_Change]:
    """Return what each rung means: a share of channels, widths, one over the rank of a kind of split, or 2:4."""
    if dimension.method == "sparsity":
        group = next(it for it in space.graph.channel_groups if it.name == dimension.owner)
        return [("channels", ratio) for ratio in space.ladders.ratios(group)]
    layer = space.graph.layers[dimension.owner]
    if dimension.method == "precision":
        return [_NOTHING, *((it, 1.0) for it in space.ladders.precisions(layer))]
    if dimension.method == "pattern":
        return [_NOTHING, ("2:4", 1.0)]
    splits = space.ladders.splits(layer, all_channels(layer))
    return [_NOTHING, *((it.kind, 1 / it.rank) for it in splits if it)]


def _loss(measured: Sequence[tuple[_Change, float]], change: _Change, worst: float) -> float:
    what, amount = change
    losses = {it: loss for (measured_what, it), loss in measured if measured_what == what}
    if amount > max(losses, default=0.0):
        return worst
    amounts, values = zip(*sorted(({0.0: 0.0} | losses).items()), strict=True)
    return float(np.interp(amount, amounts, values))
