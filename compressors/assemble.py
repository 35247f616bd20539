"""Put a candidate's network together: weights rounded, tensors rounded where quantized layers read them."""

from collections.abc import Mapping
from typing import Any

from gulliver.compressors.calibrate import Calibrator, Range, Statistics, Weighted, of_source
from gulliver.compressors.candidate_network import CandidateLayer, CandidateNetwork
from gulliver.compressors.layer_parts import LayerParts
from gulliver.compressors.plan import Call, Plan
from gulliver.compressors.quantize import QuantizedActivation, rounded_weight
from gulliver.compressors.store import Store
from gulliver.compressors.thinning import Thinning
from gulliver.spaces.recipe import Quantize, Recipe
from torch import nn

Choices = Mapping[int, Quantize | None]


class Assembler:
    """Assemble networks of one plan from what its other parts make and keep."""

    def __init__(self, plan: Plan, parts: LayerParts, calibrator: Calibrator, prefixes: Store) -> None:
        self._plan, self._parts, self._calibrator, self._prefixes = plan, parts, calibrator, prefixes

    def network(
        self, recipe: Recipe, thinning: Thinning, statistics: Statistics, ranges: Mapping[int, Range]
    ) -> CandidateNetwork:
        """Return the network of the recipe, whose thinning was calibrated."""
        steps = self._plan.steps
        choices = {at: recipe.layers[steps[at].module].quantize for at in self._plan.positions("layer")}
        calls = self._calibrator.calls(thinning)
        for position in self._plan.positions("batch_norm"):
            calls[position] = self._calibrator.norm_call(thinning, statistics, position)
        roundings = self._roundings(choices, ranges)
        for position, rounding in roundings.items():
            calls[position] = of_source(steps[position], rounding)
        layers = {at: self._layer(at, thinning, statistics, choice, ranges.get(at)) for at, choice in choices.items()}
        reads = [step.sources for step in steps]
        for position, layer in layers.items():
            # A layer in floating point takes the tensor as it was before any rounding.
            source = reads[position][0] - (choices[position] is None)
            reads[position] = (source,)
            calls[position] = _reading(source, layer)
        marks = self._marks(thinning, choices, roundings)
        return CandidateNetwork(steps, calls, reads, marks, layers)

    def _roundings(self, choices: Choices, ranges: Mapping[int, Range]) -> dict[int, QuantizedActivation]:
        """Return the rounding of each tensor that a quantized layer reads, at the widest of its readers' bits."""
        bits: dict[int, int] = {}
        for position, choice in choices.items():
            if choice is not None:
                source = self._plan.steps[position].sources[0]
                bits[source] = max(choice.activation_bits, bits.get(source, 0))
        return {source: QuantizedActivation(*ranges[source], bits[source]) for source in bits}

    def _layer(
        self, position: int, thinning: Thinning, statistics: Statistics, choice: Quantize | None, inner: Range | None
    ) -> nn.Module:
        weighted = self._calibrator.weighted(thinning, statistics, position)
        if choice is None:
            halves: list[nn.Module] = [CandidateLayer(*half) for half in weighted]
        else:
            halves = [self._rounded(position, thinning, *it, choice.weight_bits) for it in enumerate(weighted)]
            if len(halves) > 1:
                assert inner is not None
                halves.insert(1, QuantizedActivation(*inner, choice.activation_bits))
        return halves[0] if len(halves) == 1 else nn.Sequential(*halves)

    def _rounded(
        self, position: int, thinning: Thinning, half: int, weighted: Weighted, weight_bits: int
    ) -> CandidateLayer:
        layer, weight, bias = weighted
        norm = self._plan.norm_behind.get(position)
        if norm is None or layer is not thinning.modules[position][-1]:
            form = thinning.forms[position]
            assert form is not None
            rounded = self._parts.rounded_weight(form, half, weight, weight_bits)
        else:
            key = ("rounded", thinning.keys[norm], weight_bits)
            rounded = self._prefixes.get_or_make(key, lambda: rounded_weight(weight, weight_bits))
        return CandidateLayer(layer, rounded, bias)

    def _marks(self, thinning: Thinning, choices: Choices, roundings: Mapping[int, QuantizedActivation]) -> list[bytes]:
        """Return what sets each step's call apart from those of other recipes with the same inputs."""
        # A layer's weights depend on the statistics of the batch norm that is folded into it.
        marks = [thinning.keys[self._plan.norm_behind.get(at, at)] for at in range(len(thinning.keys))]
        bits: dict[int, Any] = {at: choice for at, choice in choices.items() if choice is not None}
        bits |= {at: (it.lowest_level, it.highest_level) for at, it in roundings.items()}
        return [mark + repr(bits[at]).encode() if at in bits else mark for at, mark in enumerate(marks)]


def _reading(source: int, layer: nn.Module) -> Call:
    return lambda values: layer(values[source])
