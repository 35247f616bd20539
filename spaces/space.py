"""The space: one ordered ladder of rungs for each (group, dimension), suggested as integers."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.layer_graph import ChannelGroup, Layer, LayerGraph
from gulliver.spaces.parts import why_not_offered
from gulliver.spaces.recipe import CALIBRATORS, DECOMPOSITIONS, Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import Channels, break_even_rank, channels_after, channels_of, outputs_of
from gulliver.tasks.errors import InputError
from optuna.trial import BaseTrial


@dataclass(frozen=True)
class SpaceOptions:
    """What a search may choose from: bits of weights and activations, largest sparsity, ranks.

    `ranks` are shares of the rank at which splitting a layer stops saving multiply-accumulates. With `reconstruct`,
    layers that read removed channels are solved anew (compressors/reconstruct.py). All bits are offered with each of
    the `calibrators`, and ranks of each of the `decompositions`.
    """

    bits: tuple[tuple[int, int], ...] = ((8, 8), (4, 8))
    max_ratio: float = 0.75
    ranks: tuple[float, ...] = (0.67, 0.33)
    keep_float: tuple[str, ...] = ()
    reconstruct: bool = True
    # Younger than the first searches: left out of their settings at the defaults, so that they still open.
    calibrators: tuple[str, ...] = field(default=("min_max",), metadata={"younger": True})
    decompositions: tuple[str, ...] = field(default=("svd",), metadata={"younger": True})

    def __post_init__(self) -> None:
        if not 0 <= self.max_ratio < 1:
            raise InputError(f"`0 <= space.max_ratio < 1` must hold, but it is {self.max_ratio}")
        for rank in self.ranks:
            if not 0 < rank < 1:
                raise InputError(f"`0 < rank < 1` must hold for space.ranks, but one is {rank}")
        for key, known in (("calibrators", CALIBRATORS), ("decompositions", DECOMPOSITIONS)):
            names = getattr(self, key)
            if not names or not {*names} <= {*known} or len({*names}) < len(names):
                raise InputError(
                    f"space.{key} must be one or more different ones of {', '.join(known)}, "
                    f"but are {', '.join(names) or 'none'}"
                )


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
    _memory: dict[Hashable, tuple[Any, ...]] = field(default_factory=dict, repr=False, compare=False)

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
            Dimension("precision", name, 1 + len(self.precisions(layer))) for name, layer in self.graph.layers.items()
        ]
        sparsity = [Dimension("sparsity", group.name, len(self.ratios(group))) for group in self.graph.channel_groups]
        rank = [
            Dimension("rank", name, 1 + len(self.splits(layer, _all_channels(layer))))
            for name, layer in self.graph.layers.items()
        ]
        return tuple(dimension for dimension in (*precision, *sparsity, *rank) if dimension.rungs > 1)

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the names of all dimensions."""
        return frozenset(dimension.name for dimension in self.dimensions)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is not offered and why, a line each."""
        of_layers = (*self._precision_notes(), *self._sparsity_notes(), *self._rank_notes())
        return tuple(dict.fromkeys((*self._enclosed_notes(), *of_layers)))

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
            ratios = self.ratios(group)
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
        if not self.precisions(layer):
            return f"the target runs {layer.kind} in {self.capabilities.float_type} only"
        return f"the search chose {self.capabilities.float_type}"

    def precisions(self, layer: Layer) -> tuple[Quantize, ...]:
        """Return the widths offered for the layer with the calibrators of each, beside floating point."""
        return self._offered(("precision", layer.name), lambda: self._precisions(layer))

    def ratios(self, group: ChannelGroup) -> tuple[float, ...]:
        """Return the shares of the group's channels that may be removed, 0 first."""
        return self._offered(("sparsity", group.name), lambda: self._ratios(group))

    def splits(self, layer: Layer, channels: Channels) -> tuple[Decompose | None, ...]:
        """Return how the layer may be split at these channel counts: by each kind its ranks, largest first.

        There are as many for all channel counts: a kind with fewer ranks left repeats the last, and is None without.
        """
        return self._offered(("rank", layer.name, channels), lambda: tuple(self._splits(layer, channels)))

    def _offered(self, question: Hashable, answer: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Return what is offered; a search asks the same thousands of times."""
        if question not in self._memory:
            self._memory[question] = answer()
        return self._memory[question]

    def _precisions(self, layer: Layer) -> tuple[Quantize, ...]:
        if layer.name in self.options.keep_float:
            return ()
        asked = (Quantize(*bits, calibrator) for bits in self.options.bits for calibrator in self.options.calibrators)
        return tuple(quantize for quantize in asked if self.capabilities.runs(layer.kind, quantize))

    def _ratios(self, group: ChannelGroup) -> tuple[float, ...]:
        if group.not_prunable or "channel" not in self.capabilities.sparsities:
            return (0.0,)
        ratios = (1 - kept / group.channels for kept in self.capabilities.multiples(group.channels))
        return tuple(ratio for ratio in ratios if ratio <= self.options.max_ratio)

    def _splits(self, layer: Layer, channels: Channels) -> Iterator[Decompose | None]:
        for kind in self.options.decompositions:
            if self._ranks(layer, _all_channels(layer), kind):
                ranks = self._ranks(layer, channels, kind)
                for place in range(len(self.options.ranks)):
                    yield Decompose(ranks[min(place, len(ranks) - 1)], kind) if ranks else None

    def _ranks(self, layer: Layer, channels: Channels, kind: str) -> tuple[int, ...]:
        """Return the ranks of one kind of split, largest first, each one saving something."""
        if why_not_offered(layer, kind) is not None:
            return ()
        break_even = break_even_rank(layer, channels, kind)
        multiples = self.capabilities.multiples(max(self.capabilities.small_channel_multiple, int(break_even)))
        liked = [multiple for multiple in multiples if multiple % self.capabilities.small_channel_multiple == 0]
        shares = self.options.ranks if liked else ()
        nearest = {min(liked, key=lambda rank: abs(rank - share * break_even)) for share in shares}
        return tuple(sorted((rank for rank in nearest if rank < break_even), reverse=True))

    def _rung(self, dimension: Dimension, recipe: Recipe, channels: Mapping[str, Channels]) -> int:
        name = dimension.owner
        choice = recipe.layers[name]
        layer = self.graph.layers[name]
        asked: object
        offered: tuple[object, ...]
        if dimension.method == "precision":
            asked, offered = choice.quantize, (None, *self.precisions(layer))
        elif dimension.method == "sparsity":
            group = next(group for group in self.graph.channel_groups if group.name == name)
            asked, offered = choice.sparsify.ratio if choice.sparsify else 0.0, self.ratios(group)
        else:
            asked = Decompose(choice.decompose.rank, choice.decompose.kind) if choice.decompose else None
            offered = (None, *self.splits(layer, channels[name]))
        if asked not in offered:
            listed = ", ".join(dict.fromkeys(map(_words, offered)))
            raise InputError(f"{dimension.name} must be one of {listed}, but is {_words(asked)}")
        return offered.index(asked)

    def _enclosed_notes(self) -> list[str]:
        return [
            f"{name}: its layers ({count}) are not compressed, because it is not traced into"
            for name, count in self.graph.enclosed.items()
        ]

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

    def _rank_notes(self) -> list[str]:
        kinds = self.options.decompositions if self.options.ranks else ()
        found = ((layer, kind, why_not_offered(layer, kind)) for layer in self.graph.layers.values() for kind in kinds)
        return [f"{_form(layer)}: {kind} is not offered, because {reason}" for layer, kind, reason in found if reason]


@dataclass(frozen=True)
class RungChoices:
    """The choices that the rungs of a search make; a dimension left out is at rung 0."""

    space: Space
    rungs: Mapping[str, int]

    def quantize(self, layer: str) -> Quantize | None:
        """Return the widths that the layer runs in, None where it stays in floating point."""
        rung = self._rung("precision", layer)
        return self.space.precisions(self.space.graph.layers[layer])[rung - 1] if rung else None

    def sparsify(self, layer: str) -> Sparsify | None:
        """Return the share of the layer's output channels that is removed, None where all stay."""
        group = self.space.graph.group_of(layer)
        ratio = self._ratio(group) if group else 0.0
        return Sparsify(ratio, reconstruct=self.space.options.reconstruct) if ratio > 0 else None

    def decompose(self, layer: str) -> Decompose | None:
        """Return how the layer is split, None where it stays whole."""
        rung = self._rung("rank", layer)
        return self.space.splits(self.space.graph.layers[layer], self.channels(layer))[rung - 1] if rung else None

    def channels(self, layer: str) -> Channels:
        """Return the layer's channel counts after removals."""
        return channels_of(self.space.graph, layer, self._ratio)

    def outputs(self, layer: str) -> int:
        """Return the layer's output channels after removals, whatever its inputs lose."""
        return outputs_of(self.space.graph, layer, self._ratio)

    def _ratio(self, group: ChannelGroup) -> float:
        return self.space.ratios(group)[self._rung("sparsity", group.name)]

    def _rung(self, method: str, owner: str) -> int:
        name = f"{method}/{owner}"
        return self.rungs.get(name, 0) if name in self.space.names else 0


def _all_channels(layer: Layer) -> Channels:
    return Channels(layer.in_channels, layer.out_channels)


def _words(offered: object) -> str:
    """Return what a rung offers; a rank alone is that of a spatial SVD."""
    if not isinstance(offered, Decompose):
        return str(offered)
    return str(offered.rank) if offered.kind == "svd" else f"{offered.kind} {offered.rank}"


def _form(layer: Layer) -> str:
    """Return what layers have in common that can be split alike."""
    grouped = "grouped " if layer.groups > 1 else ""
    return " ".join([grouped + layer.kind, *["x".join(map(str, layer.kernel_size))] * bool(layer.kernel_size)])


def untouched(graph: LayerGraph) -> Recipe:
    """Return the recipe that changes nothing."""
    return Recipe({name: LayerRecipe() for name in graph.layers})
