"""SmoothQuant: take outlying channels out of a linear layer's inputs, and put them into its weights.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML
2023, equations 3 and 4.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from gulliver.compressors.equalize import pairs_of
from gulliver.compressors.layer_inputs import calls_of
from gulliver.tasks.protocol import Inputs
from torch import Tensor, fx, nn

_SMALLEST_SCALE = 1e-5


@dataclass(frozen=True)
class Smoothing:
    """Linear layers that read the same tensor, and the module whose channels are scaled for them, all by name."""

    source: str
    readers: tuple[str, ...]


def smoothings(traced: fx.GraphModule, strengths: Mapping[str, float]) -> tuple[Smoothing, ...]:
    """Return what can be smoothed of the named layers, each with the strength that is asked for.

    Those are linear layers behind an affine LayerNorm that nothing else reads, all with one strength, and those behind
    a layer that alone feeds them, with only ReLUs between.
    """
    found = [
        Smoothing(first, (second,))
        for first, second in pairs_of(traced)
        if second in strengths and isinstance(traced.get_submodule(second), nn.Linear)
    ]
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    for node in traced.graph.nodes:
        smoothing = Smoothing(str(node.target), tuple(str(user.target) for user in node.users))
        called_once = all(calls[name] == 1 for name in (smoothing.source, *smoothing.readers))
        if called_once and _is_norm(traced, node) and _all_smoothed(traced, node, strengths):
            found.append(smoothing)
    return tuple(found)


def smooth(traced: fx.GraphModule, strengths: Mapping[str, float], calibration: Sequence[Inputs]) -> fx.GraphModule:
    """Scale the named layers' input channels, and what they read the other way round; return the network.

    Modules are replaced by copies, the originals are left as they are. Outputs stay.
    """
    for smoothing in smoothings(traced, strengths):
        for name in (smoothing.source, *smoothing.readers):
            traced.set_submodule(name, copy.deepcopy(traced.get_submodule(name)))
        weights = torch.cat([traced.get_parameter(f"{name}.weight").detach() for name in smoothing.readers])
        first = smoothing.readers[0]
        largest = torch.stack(
            [values.abs().flatten(0, -2).amax(0) for values, _ in calls_of(traced, first, calibration)]
        )
        _scale(traced, smoothing, smoothing_scales(largest.amax(0), weights, strengths[first]))
    return traced


def smoothing_scales(largest: Tensor, weights: Tensor, strength: float) -> Tensor:
    """Return what each input is divided by, from its largest values (inputs,) and weights (outputs, inputs)."""
    columns = weights.abs().amax(0)
    scales = (largest**strength / columns ** (1 - strength)).clamp_min(_SMALLEST_SCALE)
    return torch.where((largest > 0) & (columns > 0), scales, 1.0)


def _scale(traced: fx.GraphModule, smoothing: Smoothing, scales: Tensor) -> None:
    with torch.no_grad():
        source = traced.get_submodule(smoothing.source)
        for parameter in source.parameters(recurse=False):
            parameter.div_(scales.reshape(-1, *[1] * (parameter.dim() - 1)))
        for name in smoothing.readers:
            traced.get_parameter(f"{name}.weight").mul_(scales)


def _is_norm(traced: fx.GraphModule, node: fx.Node) -> bool:
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, nn.LayerNorm) and module.elementwise_affine and len(module.normalized_shape) == 1


def _all_smoothed(traced: fx.GraphModule, node: fx.Node, strengths: Mapping[str, float]) -> bool:
    """Say whether all that reads the node are linear layers that are smoothed with one strength."""
    readers = [str(user.target) for user in node.users]
    asked = {strengths.get(name) for name in readers}
    linear = all(user.op == "call_module" for user in node.users) and all(
        isinstance(traced.get_submodule(name), nn.Linear) for name in readers
    )
    return linear and len(asked) == 1 and None not in asked
