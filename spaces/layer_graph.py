"""What is known of a network without running it again: layers, operations, and channels that are tied."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod


@dataclass(frozen=True)
class Layer:
    """One compressible module; shapes are those of the example inputs, the batch first."""

    name: str
    kind: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    has_bias: bool
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch_norm: str | None

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one call on the example inputs."""
        return prod(self.output_shape) * self.in_channels // self.groups * prod(self.kernel_size)

    @property
    def weight_count(self) -> int:
        """Return the number of weights, the bias left out."""
        return self.out_channels * self.in_channels // self.groups * prod(self.kernel_size)


@dataclass(frozen=True)
class Operation:
    """One traced call: what it is, what it reads, and the shape that it gives.

    `function` says what it computes where its kind stands for several: silu, mul, max.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    layer: str | None = None
    function: str = ""


@dataclass(frozen=True)
class Coupling:
    """One side of one module that shrinks when channels of a group are removed.

    `indices[c]` are the module's own indices that go with the group's channel c.
    """

    module: str
    side: str
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Output channels that must be removed together, named by the group's first layer."""

    name: str
    channels: int
    layers: tuple[str, ...]
    couplings: tuple[Coupling, ...]
    not_prunable: str | None = None


@dataclass(frozen=True)
class LayerGraph:
    """The layers of a network by name, its operations in order of execution, and its channel groups.

    `enclosed` are by name the modules that are not traced into, and how many layers each runs by itself.
    `embedding_weight_count` is the number of weights of embeddings, `other_weight_count` that of others that no layer
    has: norms that are not folded, and such. Layers `tied_to_embeddings` have an embedding's weights, which count as
    theirs.
    """

    layers: Mapping[str, Layer]
    operations: tuple[Operation, ...]
    channel_groups: tuple[ChannelGroup, ...]
    enclosed: Mapping[str, int] = field(default_factory=dict)
    embedding_weight_count: int = 0
    other_weight_count: int = 0
    tied_to_embeddings: tuple[str, ...] = ()

    @cached_property
    def couplings(self) -> Mapping[str, tuple[tuple[ChannelGroup, Coupling], ...]]:
        """Return by module what makes it shrink: each group that it is a part of, and how."""
        found: dict[str, list[tuple[ChannelGroup, Coupling]]] = defaultdict(list)
        for group in self.channel_groups:
            for coupling in group.couplings:
                found[coupling.module].append((group, coupling))
        return {module: tuple(it) for module, it in found.items()}

    @cached_property
    def users(self) -> Mapping[str, tuple[Operation, ...]]:
        """Return by operation who reads its result, in order of execution, once for each time it is read."""
        readers: dict[str, list[Operation]] = {operation.name: [] for operation in self.operations}
        for operation in self.operations:
            for source in operation.inputs:
                readers[source].append(operation)
        return {name: tuple(it) for name, it in readers.items()}

    @cached_property
    def by_name(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {operation.name: operation for operation in self.operations}

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Return by operation its position in the order of execution."""
        return {operation.name: position for position, operation in enumerate(self.operations)}

    def group_of(self, layer: str) -> ChannelGroup | None:
        """Return the group that the layer's output channels belong to."""
        return self._groups.get(layer)

    @cached_property
    def _groups(self) -> Mapping[str, ChannelGroup]:
        return {layer: group for group in reversed(self.channel_groups) for layer in group.layers}
