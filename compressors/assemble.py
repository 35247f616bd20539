"""Put a candidate's network together: weights rounded, tensors rounded where quantized layers read them."""

from collections.abc import Mapping, Sequence
from itertools import chain

from gulliver.compressors.calibrate import Calibrator, Place, Stage, Statistics, in_turn, of_source
from gulliver.compressors.calibrators import Grid, Range, calibrated_range, fit_grid
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
        self, recipe: Recipe, thinning: Thinning, statistics: Statistics, ranges: Mapping[Place, Range]
    ) -> CandidateNetwork:
        """Return the network of the recipe, whose thinning was calibrated."""
        steps = self._plan.steps
        choices = {at: recipe.layers[steps[at].module].quantize for at in self._plan.positions("layer")}
        calls = self._calibrator.calls(thinning)
        for position in self._plan.positions("batch_norm"):
            calls[position] = self._calibrator.norm_call(thinning, statistics, position)
        readers = self._readers(thinning, choices)
        grids = self._grids(thinning, statistics, ranges, readers)
        for position in self._plan.positions("rounding"):
            if (position, 0) in grids:
                calls[position] = of_source(steps[position], grids[position, 0])
        layers = {at: self._layer(at, thinning, statistics, choice) for at, choice in choices.items()}
        reads = [step.sources for step in steps]
        for position, layer in layers.items():
            choice = choices[position]
            # A layer in floating point takes the tensor as it was before any rounding.
            source = reads[position][0] - (choice is None)
            reads[position] = (source,)
            calls[position] = _call(source, in_turn(layer, [grids.get((position, part)) for part in range(len(layer))]))
        marks = self._marks(thinning, choices, readers)
        return CandidateNetwork(steps, calls, reads, marks, tuple(chain.from_iterable(layers.values())))

    def _readers(self, thinning: Thinning, choices: Choices) -> dict[Place, Quantize]:
        """Return where tensors are rounded, and for whom: of a tensor's readers the first with the most bits."""
        readers: dict[Place, Quantize] = {}
        for position, choice in choices.items():
            if choice is not None:
                source = (self._plan.steps[position].sources[0], 0)
                if source not in readers or choice.activation_bits > readers[source].activation_bits:
                    readers[source] = choice
                readers |= {(position, part): choice for part in range(len(thinning.modules[position]) - 1)}
        return readers

    def _grids(
        self,
        thinning: Thinning,
        statistics: Statistics,
        ranges: Mapping[Place, Range],
        readers: Mapping[Place, Quantize],
    ) -> dict[Place, Grid]:
        """Return the levels of every place, in the range that its reader's calibrator chooses."""
        keys = {
            (at, part): ("grid", thinning.keys[at], part, choice.activation_bits, choice.calibrator)
            for (at, part), choice in readers.items()
        }
        known: dict[Place, Grid] = {place: self._facts[key] for place, key in keys.items() if key in self._facts}
        missing = {place: choice for place, choice in readers.items() if place not in known}
        beyond = {place: ranges[place] for place, choice in missing.items() if choice.calibrator != "min_max"}
        histograms = self._calibrator.histograms(thinning, statistics, beyond) if beyond else {}
        for place, choice in missing.items():
            histogram = histograms.get(place)
            chosen = ranges[place] if histogram is None else calibrated_range(histogram, choice)
            known[place] = fit_grid(*chosen, choice.activation_bits)
            self._facts.put(keys[place], known[place])
        return known

    def _layer(
        self, position: int, thinning: Thinning, statistics: Statistics, choice: Quantize | None
    ) -> Sequence[WeightedLayer]:
        weighted = self._calibrator.weighted(thinning, statistics, position)
        return self._calibrator.rounded(thinning, position, weighted, choice.weight_bits) if choice else weighted

    def _marks(self, thinning: Thinning, choices: Choices, readers: Mapping[Place, Quantize]) -> list[bytes]:
        """Return what sets each step's call apart from those of other recipes with the same inputs."""
        # A layer's weights depend on the statistics of the batch norm that is folded into it.
        marks = [thinning.keys[self._plan.norm_behind.get(at, at)] for at in range(len(thinning.keys))]
        for position, choice in choices.items():
            if choice is not None:
                marks[position] += b"%d" % choice.weight_bits
        for (position, _), choice in readers.items():
            marks[position] += f" {choice.activation_bits} {choice.calibrator}".encode()
        return marks


def _call(source: int, layer: Stage) -> Call:
    return lambda values: layer(values[source])
