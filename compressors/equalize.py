"""Cross-layer equalization: give two layers in a row alike ranges, channel by channel, without changing outputs.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, equation 11.
"""

import copy
from collections import Counter
from collections.abc import Collection, Iterator

import torch
from gulliver.compressors.layer_inputs import CompressibleLayer
from torch import Tensor, fx, nn
from torch.nn import functional as F

_RELUS = (torch.relu, F.relu, "relu")
_ROUNDS = 5
_SMALLEST_RANGE = 1e-8


def equalize(traced: fx.GraphModule, names: Collection[str]) -> fx.GraphModule:
    """Equalize each named layer with the layer before it, where only a ReLU or nothing is between; return the network.

    The layers are replaced by copies, the originals are left as they are. Chains take a few rounds to settle.
    """
    pairs = [pair for pair in pairs_of(traced) if pair[1] in names]
    for name in {name for pair in pairs for name in pair}:
        parent, _, child = name.rpartition(".")
        setattr(traced.get_submodule(parent), child, copy.deepcopy(traced.get_submodule(name)))
    for first, second in pairs * _ROUNDS:
        _equalize_pair(traced.get_submodule(first), traced.get_submodule(second))
    return traced


def equalizable(traced: fx.GraphModule) -> set[str]:
    """Return the layers that can be equalized with the layer before them."""
    return {second for _, second in pairs_of(traced)}


def pairs_of(traced: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """Yield the names of each two layers in a row whose channels can be scaled without a change of outputs."""
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    for node in traced.graph.nodes:
        reader = _next_layer(traced, node) if _is_layer(traced, node) else None
        if reader is not None:
            names = str(node.target), str(reader.target)
            if calls[names[0]] == calls[names[1]] == 1 and _scalable(*map(traced.get_submodule, names)):
                yield names


def _next_layer(traced: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the layer that alone reads the node, through nothing but ReLUs, if there is one."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if _is_layer(traced, node):
            return node
        if not _is_relu(traced, node):
            return None
    return None


def _is_layer(traced: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), CompressibleLayer)


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), nn.ReLU)
    return node.target in _RELUS


def _scalable(written: nn.Module, reader: nn.Module) -> bool:
    """Say whether each output of the first layer is an input of the second that has weights of its own to scale."""
    if isinstance(written, nn.Linear) or isinstance(reader, nn.Linear):
        # A linear layer behind a convolution reads along its width, not its channels.
        return isinstance(written, nn.Linear) and isinstance(reader, nn.Linear)
    assert isinstance(reader, nn.Conv1d | nn.Conv2d)
    return reader.groups == 1 or reader.groups == reader.in_channels == reader.out_channels


def _equalize_pair(first: nn.Module, second: nn.Module) -> None:
    assert isinstance(first, CompressibleLayer)
    assert isinstance(second, CompressibleLayer)
    with torch.no_grad():
        written = first.weight.abs().flatten(1).amax(1).clamp_min(_SMALLEST_RANGE)
        read = _by_input(second).abs().flatten(1).amax(1).clamp_min(_SMALLEST_RANGE)
        scales = (written / read).sqrt()
        first.weight.div_(_along(scales, first.weight, 0))
        if first.bias is not None:
            first.bias.div_(scales)
        second.weight.mul_(_along(scales, second.weight, 0 if _is_depthwise(second) else 1))


def _by_input(layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> Tensor:
    return layer.weight if _is_depthwise(layer) else layer.weight.transpose(0, 1)


def _is_depthwise(layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) > 1


def _along(scales: Tensor, weight: Tensor, dimension: int) -> Tensor:
    shape = [1] * weight.dim()
    shape[dimension] = -1
    return scales.reshape(shape)
