"""What a target can run; the space offers nothing else, and says so."""

from collections.abc import Mapping
from dataclasses import dataclass

from gulliver.spaces.recipe import FLOAT_BITS, LayerRecipe, Quantize, Recipe
from gulliver.tasks.errors import InputError

_FLOAT = (FLOAT_BITS, FLOAT_BITS)


@dataclass(frozen=True)
class Capabilities:
    """The precisions, channel multiples and sparsities of one target.

    `precisions` gives the (weight_bits, activation_bits) that each kind of layer runs in, beside
    `float_type`; channel counts are offered in multiples of `channel_multiple`, and in multiples of
    `small_channel_multiple` up to `small_channels`, where those still pay. A wide group's channels are removed in
    `channel_steps` steps at most. `sparse_2_4` gives the widths in which a layer gains from 2:4 weights, with 16 bits
    for `float_type`.
    """

    float_type: str
    precisions: Mapping[str, tuple[tuple[int, int], ...]]
    channel_multiple: int
    small_channel_multiple: int
    small_channels: int
    sparsities: tuple[str, ...] = ("channel",)
    sparse_2_4: tuple[tuple[int, int], ...] = ()
    channel_steps: int | None = None

    def runs(self, kind: str, quantize: Quantize) -> bool:
        """Say whether a layer of this kind runs in these widths."""
        return quantize.widths in self.precisions.get(kind, ())

    def skips_zeros(self, quantize: Quantize | None) -> bool:
        """Say whether a layer of these widths, or in floating point where there are none, gains from 2:4 weights."""
        return (quantize.widths if quantize else _FLOAT) in self.sparse_2_4

    def multiples(self, channels: int) -> tuple[int, ...]:
        """Return the counts up to `channels` that the target likes, largest first, `channels` included."""
        large = set(range(self.channel_multiple, channels + 1, self.channel_multiple))
        small_end = min(channels, self.small_channels)
        small = set(range(self.small_channel_multiple, small_end + 1, self.small_channel_multiple))
        return tuple(sorted(large | small | {channels}, reverse=True))

    def kept(self, channels: int) -> tuple[int, ...]:
        """Return the counts that a group of so many channels may be left with, largest first, `channels` included.

        Where they are more than `channel_steps` multiples, the multiple is doubled until they are not.
        """
        liked, step = self.multiples(channels), self.channel_multiple
        if self.channel_steps is None or channels <= self.channel_steps * step:
            return liked
        while channels > self.channel_steps * step:
            step *= 2
        return (channels, *(kept for kept in liked[1:] if kept % step == 0))

    def check(self, recipe: Recipe, kinds: Mapping[str, str], target: str) -> None:
        """Raise InputError where a layer is to run in a precision that the target has not."""
        for name, layer in recipe.layers.items():
            if layer.quantize is not None and not self.runs(kinds[name], layer.quantize):
                raise InputError(f"{self.refusal(kinds[name], layer, target)}, but {name} asks for it")

    def refusal(self, kind: str, layer: LayerRecipe, target: str) -> str:
        """Return why the target cannot run this choice, with the choices that it can."""
        assert layer.quantize is not None
        weight_bits, activation_bits = layer.quantize.widths
        asked = f"{weight_bits}-bit weights with {activation_bits}-bit activations"
        runs = [f"{weight}/{activation} bits" for weight, activation in self.precisions.get(kind, ())]
        return f"{target} has no {kind} of {asked} (it runs {', '.join([self.float_type, *runs])})"
