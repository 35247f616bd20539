"""The space: one ordered ladder of rungs for each (group, dimension), suggested as integers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.ladders import Ladders
from gulliver.spaces.layer_graph import ChannelGroup, Layer, LayerGraph
from gulliver.spaces.recipe import IN_FOURS, Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import (
    Channels,
    all_channels,
    channels_after,
    channels_of,
    group_ratio,
    inputs_per_group,
    outputs_of,
    why_not_in_fours,
)
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from optuna.trial import BaseTrial


@dataclass(frozen=True)
class Dimension:
    """One integer parameter of the search: rung 0 leaves the owner as it is."""

    method: str
    owner: str
    rungs: int

    @property
    def name(self) -> str:
        """Return the parameter's name in the study."""
        return f"{self.method}/{self.owner}"


@dataclass(frozen=True)
class Space:
    """The recipes that may be tried for one network on one target."""

    graph: LayerGraph
    capabilities: Capabilities
    options: SpaceOptions = field(default_factory=SpaceOptions)

    def __post_init__(self) -> None:
        unknown = [name for name in self.options.keep_float if name not in self.graph.layers]
        if unknown:
            raise InputError(
                f"space.keep_float names {unknown[0]}, which is no layer; layers are {', '.join(self.graph.layers)}"
            )
        if not self.dimensions:
            raise InputError("the space is empty: nothing that `space` allows can run on this target")

    @cached_property
    def ladders(self) -> Ladders:
        """Return what may be chosen at each place."""
        return Ladders(self.graph, self.capabilities, self.options)

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Return the parameters that have a choice, in a fixed order."""
        precision = [
            Dimension("precision", name, 1 + len(self.ladders.precisions(layer)))
            for name, layer in self.graph.layers.items()
        ]
        sparsity = [
            Dimension("sparsity", group.name, len(self.ladders.ratios(group))) for group in self.graph.channel_groups
        ]
        rank = [
            Dimension("rank", name, 1 + len(self.ladders.splits(layer, all_channels(layer))))
            for name, layer in self.graph.layers.items()
        ]
        pattern = [
            Dimension("pattern", name, 1 + self.ladders.may_be_semi_structured(layer))
            for name, layer in self.graph.layers.items()
        ]
        return tuple(dimension for dimension in (*precision, *sparsity, *rank, *pattern) if dimension.rungs > 1)

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the names of all dimensions."""
        return frozenset(dimension.name for dimension in self.dimensions)

    def suggest(self, trial: BaseTrial) -> Recipe:
        """Return the trial's recipe; a fresh trial samples it, a finished or fixed one decodes it."""
        rungs = {
            dimension.name: trial.suggest_int(dimension.name, 0, dimension.rungs - 1) for dimension in self.dimensions
        }
        return self.decode(rungs)

    def decode(self, rungs: Mapping[str, int]) -> Recipe:
        """Return the recipe of these rungs; a dimension left out is at rung 0."""
        choices = self.choices(rungs)
        return Recipe({name: self._layer(layer, choices) for name, layer in self.graph.layers.items()})

    def choices(self, rungs: Mapping[str, int]) -> "RungChoices":
        """Return what these rungs mean for each layer, no rung read before it is asked for."""
        return RungChoices(self, rungs)

    def encode(self, recipe: Recipe) -> dict[str, int]:
        """Return the rungs of a recipe of this space, as `enqueue_trial` takes them.

        Raises InputError, which names the layer, for a choice that the space does not offer.
        """
        channels = channels_after(self.graph, recipe)
        rungs = {dimension.name: self._rung(dimension, recipe, channels) for dimension in self.dimensions}
        decoded = self.decode(rungs)
        for name, choice in recipe.layers.items():
            asked = replace(choice, sparsify=choice.sparsify if choice.sparsify and choice.sparsify.ratio else None)
            if asked != decoded.layers[name]:
                raise InputError(f"{name} must be {decoded.layers[name]}, all that the space offers, but is {choice}")
        return rungs

    def uniform(
        self, ratio: float = 0.0, rank_rung: int = 0, quantized: bool = True, tied_ratio: float | None = None
    ) -> Recipe:
        """Return the recipe that treats every layer alike, the ratio rounded to what each group offers.

        `tied_ratio` is another ratio for groups of several layers, as those that residual additions tie.
        """
        rungs: dict[str, int] = {}
        for group in self.graph.channel_groups:
            ratios = self.ladders.ratios(group)
            wanted = tied_ratio if tied_ratio is not None and len(group.layers) > 1 else ratio
            distances = [abs(offered - wanted) for offered in ratios]
            rungs[f"sparsity/{group.name}"] = distances.index(min(distances))
        for dimension in self.dimensions:
            if dimension.method == "precision":
                rungs[dimension.name] = int(quantized)
            elif dimension.method == "rank":
                rungs[dimension.name] = rank_rung
        return self.decode(rungs)

    def _layer(self, layer: Layer, choices: "RungChoices") -> LayerRecipe:
        quantize = choices.quantize(layer.name)
        fallback = None if quantize else self._fallback_reason(layer)
        return LayerRecipe(choices.sparsify(layer.name), choices.decompose(layer.name), quantize, fallback)

    def _fallback_reason(self, layer: Layer) -> str:
        if layer.name in self.options.keep_float:
            return "kept in floating point by space.keep_float"
        if not self.ladders.precisions(layer):
            return f"the target runs {layer.kind} in {self.capabilities.float_type} only"
        return f"the search chose {self.capabilities.float_type}"

    def _rung(self, dimension: Dimension, recipe: Recipe, channels: Mapping[str, Channels]) -> int:
        name = dimension.owner
        choice = recipe.layers[name]
        layer = self.graph.layers[name]
        asked: object
        offered: tuple[object, ...]
        if dimension.method == "precision":
            asked, offered = choice.quantize, (None, *self.ladders.precisions(layer))
        elif dimension.method == "sparsity":
            group = next(group for group in self.graph.channel_groups if group.name == name)
            asked, offered = group_ratio(group, recipe), self.ladders.ratios(group)
        elif dimension.method == "pattern":
            asked, offered = choice.is_semi_structured, (False, True)
        else:
            asked = Decompose(choice.decompose.rank, choice.decompose.kind) if choice.decompose else None
            offered = (None, *self.ladders.splits(layer, channels[name]))
        if asked not in offered:
            listed = ", ".join(dict.fromkeys(map(_words, offered)))
            raise InputError(f"{dimension.name} must be one of {listed}, but is {_words(asked)}")
        return offered.index(asked)


@dataclass(frozen=True)
class RungChoices:
    """The choices that the rungs of a search make; a dimension left out is at rung 0."""

    space: Space
    rungs: Mapping[str, int]

    def quantize(self, layer: str) -> Quantize | None:
        """Return the widths that the layer runs in, None where it stays in floating point."""
        rung = self._rung("precision", layer)
        return self.space.ladders.precisions(self.space.graph.layers[layer])[rung - 1] if rung else None

    def sparsify(self, layer: str) -> Sparsify | None:
        """Return the share of the layer's output channels or the pattern of weights that is removed, if any."""
        ratio = self._own_ratio(layer)
        if ratio > 0:
            return Sparsify(ratio, reconstruct=self.space.options.reconstruct)
        return IN_FOURS if self.is_semi_structured(layer) else None

    def is_semi_structured(self, layer: str) -> bool:
        """Say whether two of every four weights are zero, which they are where nothing else thins the layer."""
        if not self._rung("pattern", layer) or self._own_ratio(layer) > 0 or self._rung("rank", layer):
            return False
        inputs = inputs_per_group(self.space.graph.layers[layer], self.channels(layer))
        return why_not_in_fours(inputs) is None

    def decompose(self, layer: str) -> Decompose | None:
        """Return how the layer is split, None where it stays whole."""
        rung = self._rung("rank", layer)
        return (
            self.space.ladders.splits(self.space.graph.layers[layer], self.channels(layer))[rung - 1] if rung else None
        )

    def channels(self, layer: str) -> Channels:
        """Return the layer's channel counts after removals."""
        return channels_of(self.space.graph, layer, self._ratio)

    def outputs(self, layer: str) -> int:
        """Return the layer's output channels after removals, whatever its inputs lose."""
        return outputs_of(self.space.graph, layer, self._ratio)

    def _own_ratio(self, layer: str) -> float:
        group = self.space.graph.group_of(layer)
        return self._ratio(group) if group else 0.0

    def _ratio(self, group: ChannelGroup) -> float:
        return self.space.ladders.ratios(group)[self._rung("sparsity", group.name)]

    def _rung(self, method: str, owner: str) -> int:
        name = f"{method}/{owner}"
        return self.rungs.get(name, 0) if name in self.space.names else 0


def _words(offered: object) -> str:
    """Return what a rung offers; a rank alone is that of a spatial SVD."""
    if not isinstance(offered, Decompose):
        return str(offered)
    return str(offered.rank) if offered.kind == "svd" else f"{offered.kind} {offered.rank}"


def untouched(graph: LayerGraph) -> Recipe:
    """Return the recipe that changes nothing."""
    return Recipe({name: LayerRecipe() for name in graph.layers})
