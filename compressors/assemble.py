"""Put a candidate's network together: weights rounded, tensors rounded where quantized layers read them."""

from collections.abc import Mapping, Sequence
from itertools import chain

from gulliver.compressors.calibrate import Calibrator, Range, Statistics, of_source
from gulliver.compressors.calibrators import Grid, fit_grid
from gulliver.compressors.candidate_network import CandidateNetwork
from gulliver.compressors.layer_parts import WeightedLayer
from gulliver.compressors.plan import Call, Plan
from gulliver.compressors.store import Store
from gulliver.compressors.thinning import Thinning
from gulliver.spaces.recipe import Quantize, Recipe

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
        layers = {at: self._layer(at, thinning, statistics, choice) for at, choice in choices.items()}
        reads = [step.sources for step in steps]
        for position, layer in layers.items():
            choice = choices[position]
            # A layer in floating point takes the tensor as it was before any rounding.
            source = reads[position][0] - (choice is None)
            reads[position] = (source,)
            split = choice is not None and len(layer) > 1
            inner = self._grid(thinning, ranges, position, choice.activation_bits) if choice and split else None
            calls[position] = _call(source, layer, inner)
        marks = self._marks(thinning, choices, roundings)
        return CandidateNetwork(steps, calls, reads, marks, tuple(chain.from_iterable(layers.values())))

    def _roundings(self, thinning: Thinning, choices: Choices, ranges: Mapping[int, Range]) -> dict[int, Grid]:
        """Return the rounding of each tensor that a quantized layer reads, at the widest of its readers' bits."""
        bits: dict[int, int] = {}
        for position, choice in choices.items():
            if choice is not None:
                source = self._plan.steps[position].sources[0]
                bits[source] = max(choice.activation_bits, bits.get(source, 0))
        return {source: self._grid(thinning, ranges, source, bits[source]) for source in bits}

    def _grid(self, thinning: Thinning, ranges: Mapping[int, Range], position: int, bits: int) -> Grid:
        key = ("grid", thinning.keys[position], bits)
        grid: Grid = self._facts.get_or_make(key, lambda: fit_grid(*ranges[position], bits))
        return grid

    def _layer(
        self, position: int, thinning: Thinning, statistics: Statistics, choice: Quantize | None
    ) -> Sequence[WeightedLayer]:
        weighted = self._calibrator.weighted(thinning, statistics, position)
        return self._calibrator.rounded(thinning, position, weighted, choice.weight_bits) if choice else weighted

    def _marks(self, thinning: Thinning, choices: Choices, roundings: Mapping[int, Grid]) -> list[bytes]:
        """Return what sets each step's call apart from those of other recipes with the same inputs."""
        # A layer's weights depend on the statistics of the batch norm that is folded into it.
        marks = [thinning.keys[self._plan.norm_behind.get(at, at)] for at in range(len(thinning.keys))]
        for position, choice in choices.items():
            if choice is not None:
                marks[position] += b"%d %d" % (choice.weight_bits, choice.activation_bits)
        for position, rounding in roundings.items():
            marks[position] += b"%d" % rounding.highest_level
        return marks


def _call(source: int, layer: Sequence[WeightedLayer], inner: Grid | None) -> Call:
    """Return the call of a layer, or of its two halves with a rounding between them where they are quantized."""
    first, last = layer[0], layer[-1]
    if len(layer) == 1:
        return lambda values: last(values[source])
    if inner is None:
        return lambda values: last(first(values[source]))
    return lambda values: last(inner(first(values[source])))
