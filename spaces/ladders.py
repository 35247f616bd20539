"""Ladders: what may be chosen at each place of one network on one target, and why there is not more."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.layer_graph import ChannelGroup, Layer, LayerGraph
from gulliver.spaces.parts import why_not_offered
from gulliver.spaces.recipe import Decompose, Quantize
from gulliver.spaces.shapes import Channels, all_channels, break_even_rank, inputs_per_group, why_not_in_fours
from gulliver.spaces.space_options import SpaceOptions


@dataclass(frozen=True)
class Ladders:
    """What the options allow and the target runs, for each layer or group."""

    graph: LayerGraph
    capabilities: Capabilities
    options: SpaceOptions
    _memory: dict[Hashable, tuple[Any, ...]] = field(default_factory=dict, repr=False, compare=False)

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

    def may_be_semi_structured(self, layer: Layer) -> bool:
        """Say whether 2:4 weights are offered for the layer: in one of its widths at least, it gains from them."""
        widths = (None, *self.precisions(layer))
        gains = self.options.semi_structured and any(map(self.capabilities.skips_zeros, widths))
        return gains and why_not_in_fours(inputs_per_group(layer, all_channels(layer))) is None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is not offered and why, a line each."""
        of_layers = (*self._precision_notes(), *self._sparsity_notes(), *self._rank_notes(), *self._pattern_notes())
        return tuple(dict.fromkeys((*self._enclosed_notes(), *of_layers)))

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
        ratios = (1 - kept / group.channels for kept in self.capabilities.kept(group.channels))
        return tuple(ratio for ratio in ratios if ratio <= self.options.max_ratio)

    def _splits(self, layer: Layer, channels: Channels) -> Iterator[Decompose | None]:
        for kind in self.options.decompositions:
            if self._ranks(layer, all_channels(layer), kind):
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

    def _pattern_notes(self) -> list[str]:
        if not (self.options.semi_structured and self.capabilities.sparse_2_4):
            return []
        reads = ((layer, inputs_per_group(layer, all_channels(layer))) for layer in self.graph.layers.values())
        found = ((layer.name, why_not_in_fours(inputs)) for layer, inputs in reads)
        return [f"{name}: 2:4 is not offered, because {reason}" for name, reason in found if reason]


def _form(layer: Layer) -> str:
    """Return what layers have in common that can be split alike."""
    grouped = "grouped " if layer.groups > 1 else ""
    return " ".join([grouped + layer.kind, *["x".join(map(str, layer.kernel_size))] * bool(layer.kernel_size)])
