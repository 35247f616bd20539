"""The parts of a split layer: their shapes, and the ways of splitting that a layer has."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from gulliver.spaces.layer_graph import Layer
from gulliver.spaces.recipe import Decompose
from gulliver.spaces.shapes import Channels


@dataclass(frozen=True)
class Part:
    """One of the thinner layers that a layer is split into, ungrouped; those of a linear layer have no kernel."""

    inputs: int
    outputs: int
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    @property
    def weight_count(self) -> int:
        """Return the number of weights."""
        return self.inputs * self.outputs * prod(self.kernel_size)


def parts_of(layer: Layer, channels: Channels, split: Decompose) -> tuple[Part, ...]:
    """Return the layer's parts at these channel counts, in order of execution, as compressors/decompose.py makes them.

    No rank is larger than that of what is split.
    """
    inputs, outputs, kernel = channels.inputs, channels.outputs, prod(layer.kernel_size)
    if split.kind == "svd" or layer.kind == "linear":
        height, width = (*layer.kernel_size, 1, 1)[:2]
        return _in_a_row(channels, [min(split.rank, inputs * height, outputs * width)], [(0,), (1,)], layer)
    every, rank = tuple(range(len(layer.kernel_size))), min(split.rank, inputs * kernel, outputs)
    if split.kind == "channel_svd":
        return _in_a_row(channels, [rank], [every, ()], layer)
    in_rank = min(split.in_rank or split.rank, inputs, outputs * kernel)
    return _in_a_row(channels, [in_rank, rank], [(), every, ()], layer)


def why_not_offered(layer: Layer, kind: str) -> str | None:
    """Return why a search need not try this kind of split on the layer, None where it is a way of its own."""
    if layer.groups > 1:
        return "its channels are in groups"
    if layer.kind == "conv1d" and kind == "svd":
        return "its kernel has one direction"
    if kind == "channel_svd" and (layer.kind == "linear" or layer.kernel_size[1:] == (1,)):
        return "svd is the same there"
    if kind == "tucker2" and prod(layer.kernel_size) == 1:
        return "two layers give as much there"
    return None


def _in_a_row(
    channels: Channels, between: Sequence[int], windows: Sequence[tuple[int, ...]], layer: Layer
) -> tuple[Part, ...]:
    """Return parts with so many channels between them, each with the layer's window in these of its dimensions."""
    counts = (channels.inputs, *between, channels.outputs)
    return tuple(
        Part(inputs, outputs, *_window(layer, dimensions))
        for inputs, outputs, dimensions in zip(counts[:-1], counts[1:], windows, strict=True)
    )


def _window(layer: Layer, dimensions: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return kernel, stride, padding and dilation of the layer in some dimensions, those of a 1 x 1 in the others."""
    own = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return [
        tuple(value if at in dimensions else other for at, value in enumerate(values))
        for values, other in zip(own, (1, 1, 0, 1), strict=True)
    ]
