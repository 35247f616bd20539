"""The space: one ordered ladder of rungs for each (group, dimension), suggested as integers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.layer_graph import ChannelGroup, Layer, LayerGraph
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import Channels, break_even_rank, channels_after
from gulliver.tasks.errors import InputError
from optuna.trial import BaseTrial


@dataclass(frozen=True)
class SpaceOptions:
    """What a search may choose from: bits of weights and activations, largest sparsity, ranks.

    `ranks` are shares of the rank at which splitting a layer stops saving multiply-accumulates.
    """

    bits: tuple[tuple[int, int], ...] = ((8, 8), (4, 8))
    max_ratio: float = 0.75
    ranks: tuple[float, ...] = (0.67, 0.33)
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.max_ratio < 1:
            raise InputError(f"`0 <= space.max_ratio < 1` must hold, but it is {self.max_ratio}")
        for rank in self.ranks:
            if not 0 < rank < 1:
                raise InputError(f"`0 < rank < 1` must hold for space.ranks, but one is {rank}")


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
    def dimensions(self) -> tuple[Dimension, ...]:
        """Return the parameters that have a choice, in a fixed order."""
        precision = [
            Dimension("precision", name, 1 + len(self._precisions(layer))) for name, layer in self.graph.layers.items()
        ]
        sparsity = [Dimension("sparsity", group.name, len(self._ratios(group))) for group in self.graph.channel_groups]
        rank = [
            Dimension("rank", name, 1 + len(self.options.ranks))
            for name, layer in self.graph.layers.items()
            if self._ranks(layer, Channels(layer.in_channels, layer.out_channels))
        ]
        return tuple(dimension for dimension in (*precision, *sparsity, *rank) if dimension.rungs > 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is not offered and why, a line each."""
        return tuple(dict.fromkeys((*self._precision_notes(), *self._sparsity_notes())))

    def suggest(self, trial: BaseTrial) -> Recipe:
        """Return the trial's recipe; a fresh trial samples it, a finished or fixed one decodes it."""
        rungs = {
            dimension.name: trial.suggest_int(dimension.name, 0, dimension.rungs - 1) for dimension in self.dimensions
        }
        return self.decode(rungs)

    def decode(self, rungs: Mapping[str, int]) -> Recipe:
        """Return the recipe of these rungs; a dimension left out is at rung 0."""
        sparsify = {
            name: Sparsify(ratio)
            for group in self.graph.channel_groups
            if (ratio := self._ratios(group)[rungs.get(f"sparsity/{group.name}", 0)]) > 0
            for name in group.layers
        }
        channels = channels_after(self.graph, Recipe({name: LayerRecipe(it) for name, it in sparsify.items()}))
        return Recipe(
            {
                name: self._layer(layer, channels[name], sparsify.get(name), rungs)
                for name, layer in self.graph.layers.items()
            }
        )

    def encode(self, recipe: Recipe) -> dict[str, int]:
        """Return the rungs of a recipe of this space, as `enqueue_trial` takes them.

        Raises InputError, which names the layer, for a choice that the space does not offer.
        """
        channels = channels_after(self.graph, recipe)
        rungs = {dimension.name: self._rung(dimension, recipe, channels) for dimension in self.dimensions}
        decoded = self.decode(rungs)
        for name, choice in recipe.layers.items():
            offered = decoded.layers[name]
            if (choice.decompose, choice.quantize) != (offered.decompose, offered.quantize):
                raise InputError(f"{name} must be {offered}, all that the space offers, but is {choice}")
        return rungs

    def uniform(
        self, ratio: float = 0.0, rank_rung: int = 0, quantized: bool = True, tied_ratio: float | None = None
    ) -> Recipe:
        """Return the recipe that treats every layer alike, the ratio rounded to what each group offers.

        `tied_ratio` is another ratio for groups of several layers, as those that residual additions tie.
        """
        rungs: dict[str, int] = {}
        for group in self.graph.channel_groups:
            ratios = self._ratios(group)
            wanted = tied_ratio if tied_ratio is not None and len(group.layers) > 1 else ratio
            distances = [abs(offered - wanted) for offered in ratios]
            rungs[f"sparsity/{group.name}"] = distances.index(min(distances))
        for dimension in self.dimensions:
            if dimension.method == "precision":
                rungs[dimension.name] = int(quantized)
            elif dimension.method == "rank":
                rungs[dimension.name] = rank_rung
        return self.decode(rungs)

    def _layer(
        self, layer: Layer, channels: Channels, sparsify: Sparsify | None, rungs: Mapping[str, int]
    ) -> LayerRecipe:
        precision = rungs.get(f"precision/{layer.name}", 0)
        rank = rungs.get(f"rank/{layer.name}", 0)
        ranks = self._ranks(layer, channels)
        decompose = Decompose(ranks[min(rank, len(ranks)) - 1]) if rank and ranks else None
        if precision:
            return LayerRecipe(sparsify, decompose, self._precisions(layer)[precision - 1])
        return LayerRecipe(sparsify, decompose, None, self._fallback_reason(layer))

    def _fallback_reason(self, layer: Layer) -> str:
        if layer.name in self.options.keep_float:
            return "kept in floating point by space.keep_float"
        if not self._precisions(layer):
            return f"the target runs {layer.kind} in {self.capabilities.float_type} only"
        return f"the search chose {self.capabilities.float_type}"

    def _precisions(self, layer: Layer) -> tuple[Quantize, ...]:
        if layer.name in self.options.keep_float:
            return ()
        asked = (Quantize(*bits) for bits in self.options.bits)
        return tuple(quantize for quantize in asked if self.capabilities.runs(layer.kind, quantize))

    def _ratios(self, group: ChannelGroup) -> tuple[float, ...]:
        if group.not_prunable or "channel" not in self.capabilities.sparsities:
            return (0.0,)
        ratios = (1 - kept / group.channels for kept in self.capabilities.multiples(group.channels))
        return tuple(ratio for ratio in ratios if ratio <= self.options.max_ratio)

    def _ranks(self, layer: Layer, channels: Channels) -> tuple[int, ...]:
        """Return the ranks offered at these channel counts, largest first, each one saving something."""
        if layer.groups > 1 or layer.kind == "conv1d":
            return ()
        break_even = break_even_rank(layer, channels)
        multiples = self.capabilities.multiples(max(self.capabilities.small_channel_multiple, int(break_even)))
        liked = [multiple for multiple in multiples if multiple % self.capabilities.small_channel_multiple == 0]
        nearest = {min(liked, key=lambda rank: abs(rank - share * break_even)) for share in self.options.ranks}
        return tuple(sorted((rank for rank in nearest if rank < break_even), reverse=True))

    def _rung(self, dimension: Dimension, recipe: Recipe, channels: Mapping[str, Channels]) -> int:
        name = dimension.owner
        choice = recipe.layers[name]
        layer = self.graph.layers[name]
        asked: object
        offered: tuple[object, ...]
        if dimension.method == "precision":
            asked, offered = choice.quantize, (None, *self._precisions(layer))
        elif dimension.method == "sparsity":
            group = next(group for group in self.graph.channel_groups if group.name == name)
            asked, offered = choice.sparsify.ratio if choice.sparsify else 0.0, self._ratios(group)
        else:
            asked = choice.decompose.rank if choice.decompose else None
            offered = (None, *self._ranks(layer, channels[name]))
        if asked not in offered:
            raise InputError(f"{dimension.name} must be one of {', '.join(map(str, offered))}, but is {asked}")
        return offered.index(asked)

    def _precision_notes(self) -> list[str]:
        notes = []
        for kind in sorted({layer.kind for layer in self.graph.layers.values()}):
            for bits in self.options.bits:
                if not self.capabilities.runs(kind, Quantize(*bits)):
                    notes.append(
                        f"{kind}: {bits[0]}-bit weights with {bits[1]}-bit activations are not offered, "
                        "because the target has no such kernel"
                    )
        return notes

    def _sparsity_notes(self) -> list[str]:
        groups = (group for group in self.graph.channel_groups if group.not_prunable)
        return [f"{group.name}: channels are not removed, because {group.not_prunable}" for group in groups]


def untouched(graph: LayerGraph) -> Recipe:
    """Return the recipe that changes nothing."""
    return Recipe({name: LayerRecipe() for name in graph.layers})
