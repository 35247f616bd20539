"""Put a candidate's network together: weights rounded, tensors rounded where quantized layers read them."""

from collections.abc import Mapping

from gulliver.compressors.calibrate import Calibrator, Range, Statistics, of_source
from gulliver.compressors.candidate_network import CandidateNetwork
from gulliver.compressors.layer_parts import WeightedLayer
from gulliver.compressors.plan import Call, Plan
from gulliver.compressors.quantize import QuantizedActivation
from gulliver.compressors.store import Store
from gulliver.compressors.thinning import Thinning
from gulliver.spaces.recipe import Quantize, Recipe
from torch import nn

Choices = Mapping[int, Quantize | None]


class Assembler:
    """Assemble networks of one plan from what its other parts make and keep."""

    def __init__(self, plan: Plan, calibrator: Calibrator, facts: Store) -> None:
        self._plan, self._calibrator, self._facts = plan, calibrator, facts

    def network(
        self, recipe: Recipe, thinning: Thinning, statistics: Statistics, ranges: Mapping[int, Range]
    ) -> CandidateNetwork:
        """Return the network of the recipe, whose thinning was calibrated."""
        steps = self._plan.steps
        choices = {at: recipe.layers[steps[at].module].quantize for at in self._plan.positions("layer")}
        calls = self._calibrator.calls(thinning)
        for position in self._plan.positions("batch_norm"):
            calls[position] = self._calibrator.norm_call(thinning, statistics, position)
        roundings = self._roundings(thinning, choices, ranges)
        for position, rounding in roundings.items():
            calls[position] = of_source(steps[position], rounding)
        layers = {at: self._layer(at, thinning, statistics, choice, ranges) for at, choice in choices.items()}
        reads = [step.sources for step in steps]
        for position, layer in layers.items():
            # A layer in floating point takes the tensor as it was before any rounding.
            source = reads[position][0] - (choices[position] is None)
            reads[position] = (source,)
            calls[position] = _reading(source, layer)
        marks = self._marks(thinning, choices, roundings)
        return CandidateNetwork(steps, calls, reads, marks, layers)

    def _roundings(
        self, thinning: Thinning, choices: Choices, ranges: Mapping[int, Range]
    ) -> dict[int, QuantizedActivation]:
        """Return the rounding of each tensor that a quantized layer reads, at the widest of its readers' bits."""
        bits: dict[int, int] = {}
        for position, choice in choices.items():
            if choice is not None:
                source = self._plan.steps[position].sources[0]
                bits[source] = max(choice.activation_bits, bits.get(source, 0))
        return {source: self._rounding(thinning, ranges, source, bits[source]) for source in bits}

    def _rounding(
        self, thinning: Thinning, ranges: Mapping[int, Range], position: int, bits: int
    ) -> QuantizedActivation:
        key = ("rounding", thinning.keys[position], bits)
        rounding: QuantizedActivation = self._facts.get_or_make(
            key, lambda: QuantizedActivation(*ranges[position], bits)
        )
        return rounding

    def _layer(
        self,
        position: int,
        thinning: Thinning,
        statistics: Statistics,
        choice: Quantize | None,
        ranges: Mapping[int, Range],
    ) -> nn.Module:
        weighted = self._calibrator.weighted(thinning, statistics, position)
        if choice is None:
            halves: list[nn.Module] = [WeightedLayer(*half) for half in weighted]
        else:
            halves = self._calibrator.rounded(thinning, position, weighted, choice.weight_bits)
        if len(halves) == 1:
            return halves[0]
        if choice is not None:
            halves.insert(1, self._rounding(thinning, ranges, position, choice.activation_bits))
        return nn.Sequential(*halves)

    def _marks(self, thinning: Thinning, choices: Choices, roundings: Mapping[int, QuantizedActivation]) -> list[bytes]:
        """Return what sets each step's call apart from those of other recipes with the same inputs."""
        # A layer's weights depend on the statistics of the batch norm that is folded into it.
        marks = [thinning.keys[self._plan.norm_behind.get(at, at)] for at in range(len(thinning.keys))]
        for position, choice in choices.items():
            if choice is not None:
                marks[position] += b"%d %d" % (choice.weight_bits, choice.activation_bits)
        for position, rounding in roundings.items():
            marks[position] += b"%d" % rounding.highest_level
        return marks


def _reading(source: int, layer: nn.Module) -> Call:
    return lambda values: layer(values[source])
