"""What a thinned network's calibration tells: the statistics of its batch norms, and what its tensors hold.

Each pass begins behind the tensors that an earlier one left in the store, where nothing before them has changed.
"""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

import torch
from gulliver.compressors.calibrators import Histogram, Range
from gulliver.compressors.candidate_network import bind_inputs
from gulliver.compressors.layer_parts import Layer, LayerParts, WeightedLayer, without_weights
from gulliver.compressors.plan import Call, Plan, Step, Values
from gulliver.compressors.store import Store
from gulliver.compressors.thinning import Thinning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

Statistics = dict[int, tuple[Tensor, Tensor]]
# Where a tensor is rounded: at a rounding's position, or at a split layer's, behind the part of this number.
Place = tuple[int, int]
Stage = Callable[[Tensor], Tensor]
_Asked = TypeVar("_Asked", bound=Hashable)


class Calibrator:
    """Calibrate thinnings of one plan: `facts` keeps what was found, `prefixes` the tensors on the way."""

    def __init__(
        self, plan: Plan, parts: LayerParts, inputs: Sequence[tuple[Tensor, ...]], facts: Store, prefixes: Store
    ) -> None:
        self._plan, self._parts, self._inputs = plan, parts, inputs
        self._facts, self._prefixes = facts, prefixes
        self._calls = tuple(_own_call(step) for step in plan.steps)
        rounded = {step.sources[0] for step in plan.steps if step.kind == "rounding"}
        self._read_by_layers = rounded.difference(plan.positions("input"))

    def calls(self, thinning: Thinning) -> list[Call]:
        """Return the calls of all steps; layers, batch norms and roundings pass on what they read."""
        calls = list(self._calls)
        for position, step in enumerate(self._plan.steps):
            if step.kind == "module":
                calls[position] = step.bind(thinning.modules[position][0])
        return calls

    def statistics(self, thinning: Thinning) -> Statistics:
        """Return each batch norm's mean and variance: the averages over the batches, each normalised by its own."""
        norms = {at: thinning.modules[at][0] for at in self._plan.positions("batch_norm")}
        if not thinning.estimated:
            return {at: (norm.running_mean, norm.running_var) for at, norm in norms.items()}
        keys = {at: ("statistics", thinning.keys[at]) for at in norms}
        return self._known_or(keys, lambda missing: self._estimate(thinning, norms, missing))

    def ranges(self, thinning: Thinning, statistics: Statistics) -> dict[Place, Range]:
        """Return the extremes of every tensor that a layer, or a part of one, reads."""
        layers = self._plan.positions("layer")
        places = [(at, 0) for at in self._plan.positions("rounding")]
        places += [(at, part) for at in layers for part in range(len(thinning.modules[at]) - 1)]
        return self._seen("range", thinning, statistics, {place: _Extremes() for place in places})

    def histograms(
        self, thinning: Thinning, statistics: Statistics, ranges: Mapping[Place, Range]
    ) -> dict[Place, Histogram]:
        """Return the histograms of the tensors at these places, whose ranges are given."""
        return self._seen("histogram", thinning, statistics, {place: _Counts(*it) for place, it in ranges.items()})

    def weighted(self, thinning: Thinning, statistics: Statistics, position: int) -> tuple[WeightedLayer, ...]:
        """Return a layer, or its parts, in floating point, the batch norm behind it folded in."""
        *first, last = thinning.modules[position]
        parts = tuple(WeightedLayer(part, part.weight.detach(), None) for part in first)
        norm = self._plan.norm_behind.get(position)
        if norm is None:
            bias = None if last.bias is None else last.bias.detach()
            return (*parts, WeightedLayer(last, last.weight.detach(), bias))
        folded: WeightedLayer = self._prefixes.get_or_make(
            ("folded", thinning.keys[norm]), lambda: _fold(last, thinning.modules[norm][0], *statistics[norm])
        )
        return (*parts, folded)

    def rounded(
        self, thinning: Thinning, position: int, weighted: Sequence[WeightedLayer], weight_bits: int
    ) -> list[WeightedLayer]:
        """Return what `weighted` returned with the weights rounded to so many bits."""
        form, norm = thinning.forms[position], self._plan.norm_behind.get(position)
        assert form is not None
        own = weighted if norm is None else weighted[:-1]
        layers = [self._parts.rounded(form, number, part, weight_bits) for number, part in enumerate(own)]
        if norm is not None:
            key = ("rounded", thinning.keys[norm], weight_bits)
            layers.append(self._prefixes.get_or_make(key, lambda: weighted[-1].rounded(weight_bits)))
        return layers

    def norm_call(self, thinning: Thinning, statistics: Statistics, position: int) -> Call:
        """Return the call of a batch norm in evaluation mode; one that is folded passes on what it reads."""
        step, norm = self._plan.steps[position], thinning.modules[position][0]
        if step.folded_into is not None:
            return self._calls[position]
        mean, variance = statistics[position]
        return of_source(
            step, lambda features: F.batch_norm(features, mean, variance, norm.weight, norm.bias, eps=norm.eps)
        )

    def _estimate(self, thinning: Thinning, norms: dict[int, Any], missing: Collection[int]) -> Statistics:
        steps, calls = self._plan.steps, self.calls(thinning)
        estimates = {position: _Estimate(norm) for position, norm in norms.items()}
        for position, estimate in estimates.items():
            calls[position] = of_source(steps[position], estimate)
        for position in self._plan.positions("layer"):
            first, *second = thinning.modules[position]
            calls[position] = of_source(steps[position], nn.Sequential(first, *second) if second else first)
        self._run("training", thinning, calls, missing)
        return {position: (estimates[position].mean, estimates[position].variance) for position in missing}

    def _seen(
        self, fact: str, thinning: Thinning, statistics: Statistics, watches: Mapping[Place, "_Watch"]
    ) -> dict[Place, Any]:
        """Return what was seen at every place, now or before, by a watch of this kind."""

        def watch(missing: Collection[Place]) -> dict[Place, Any]:
            self._observe(thinning, statistics, {place: watches[place] for place in missing})
            return {place: watches[place].seen for place in missing}

        return self._known_or({(at, part): (fact, thinning.keys[at], part) for at, part in watches}, watch)

    def _observe(self, thinning: Thinning, statistics: Statistics, watches: Mapping[Place, "_Watch"]) -> None:
        steps, calls = self._plan.steps, self.calls(thinning)
        for position in self._plan.positions("batch_norm"):
            calls[position] = self.norm_call(thinning, statistics, position)
        for position in self._plan.positions("layer"):
            parts = self.weighted(thinning, statistics, position)
            between = [watches.get((position, part)) for part in range(len(parts) - 1)]
            calls[position] = of_source(steps[position], in_turn(parts, between))
        for position in self._plan.positions("rounding"):
            if (position, 0) in watches:
                calls[position] = of_source(steps[position], watches[position, 0])
        self._run("evaluation", thinning, calls, {position for position, _ in watches})

    def _known_or(
        self, keys: Mapping[_Asked, Hashable], find: Callable[[Collection[_Asked]], dict[_Asked, Any]]
    ) -> dict[_Asked, Any]:
        """Return what is kept under the keys, and what is found, and then kept, where there is nothing."""
        known = {it: self._facts[key] for it, key in keys.items() if key in self._facts}
        missing = keys.keys() - known.keys()
        found = find(missing) if missing else {}
        for it, value in found.items():
            self._facts.put(keys[it], value)
        return known | found

    def _run(self, mode: str, thinning: Thinning, calls: Sequence[Call], wanted: Collection[int]) -> None:
        """Run what the wanted steps need, one batch after the other, and keep the tensors that layers read."""
        steps = self._plan.steps
        for batch, inputs in enumerate(self._inputs):
            values = bind_inputs(steps, inputs, {})
            keys = {position: (mode, batch, thinning.keys[position]) for position in self._read_by_layers}
            for position in self._needed(wanted, values, keys):
                values[position] = calls[position](values)
                if position in keys:
                    self._prefixes.put(keys[position], values[position])
                for freed in steps[position].frees:
                    values[freed] = None

    def _needed(self, wanted: Collection[int], values: Values, keys: dict[int, Any]) -> list[int]:
        """Return the positions to run, in order, and fill in the values of those that are in the store."""
        needed: set[int] = set()
        waiting = list(wanted)
        while waiting:
            position = waiting.pop()
            if position in needed or values[position] is not None:
                continue
            if position not in wanted and keys.get(position) in self._prefixes:
                values[position] = self._prefixes[keys[position]]
            else:
                needed.add(position)
                waiting.extend(self._plan.steps[position].sources)
        return sorted(needed)


class _Estimate:
    """A batch norm in training mode, which averages the statistics of the batches that it is called with."""

    def __init__(self, norm: Any) -> None:
        self.mean, self.variance = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)
        self._norm, self._batches = norm, 0

    def __call__(self, features: Tensor) -> Tensor:
        norm = self._norm
        self._batches += 1
        share = 1 / self._batches
        return F.batch_norm(features, self.mean, self.variance, norm.weight, norm.bias, True, share, norm.eps)


class _Watch(Protocol):
    """Pass a tensor on, and keep what is asked of all that passed."""

    def __call__(self, values: Tensor) -> Tensor:
        """Return the tensor itself."""

    @property
    def seen(self) -> Any:
        """Return what was asked."""


class _Extremes:
    """Keep the lowest and the highest value."""

    def __init__(self) -> None:
        self.seen: Range = (math.inf, -math.inf)

    def __call__(self, values: Tensor) -> Tensor:
        lowest, highest = (bound.item() for bound in torch.aminmax(values))
        self.seen = min(lowest, self.seen[0]), max(highest, self.seen[1])
        return values


class _Counts:
    """Keep the histogram between two extremes."""

    def __init__(self, lowest: float, highest: float) -> None:
        self.seen = Histogram.empty(lowest, highest)

    def __call__(self, values: Tensor) -> Tensor:
        self.seen.add(values)
        return values


def of_source(step: Step, function: Callable[[Any], Any] | None = None) -> Call:
    """Return the call of the function with the one value that the step reads; without one it passes that on."""
    source = step.sources[0]
    return (lambda values: values[source]) if function is None else (lambda values: function(values[source]))


def in_turn(parts: Sequence[Stage], between: Sequence[Stage | None]) -> Stage:
    """Return the call of a layer's parts in turn, with what is done between them, if anything."""
    stages = [it for both in zip_longest(parts, between) for it in both if it is not None]

    def run(values: Tensor) -> Tensor:
        for stage in stages:
            values = stage(values)
        return values

    return stages[0] if len(stages) == 1 else run


def _own_call(step: Step) -> Call:
    if step.kind in ("layer", "batch_norm", "rounding"):
        return of_source(step)
    # An input's value is given, and never asked of its call.
    return step.bind(step.function or tuple)


def _fold(layer: Layer, norm: Any, mean: Tensor, variance: Tensor) -> WeightedLayer:
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    weight, bias = fuse(layer.weight, layer.bias, mean, variance, norm.eps, norm.weight, norm.bias)
    return WeightedLayer(without_weights(layer), weight.detach(), bias.detach())
