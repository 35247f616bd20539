"""Batch norms: estimate their statistics again after a change of weights, and fold them away."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reestimate_batch_norms(model: nn.Module, calibration: Iterable[tuple[Tensor, ...]]) -> nn.Module:
    """Set in place every batch norm's statistics to their averages over the calibration inputs."""
    batch_norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    momenta = [batch_norm.momentum for batch_norm in batch_norms]
    for batch_norm in batch_norms:
        batch_norm.reset_running_stats()
        batch_norm.momentum = None
        batch_norm.train()
    with torch.no_grad():
        for inputs in calibration:
            model(*inputs)
    for batch_norm, momentum in zip(batch_norms, momenta, strict=True):
        batch_norm.momentum = momentum
    return model.eval()


def fold_batch_norms(traced: fx.GraphModule) -> fx.GraphModule:
    """Fold in place every batch norm into the convolution or linear layer that alone feeds it."""
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], BATCH_NORMS):
            source = node.args[0]
            feeds_only_this = source.op == "call_module" and len(source.users) == 1 and calls[source.target] == 1
            folded = _folded(modules[source.target], modules[node.target]) if feeds_only_this else None
            if folded is not None:
                _replace_module(traced, source.target, folded)
                modules[source.target] = folded
                node.replace_all_uses_with(source)
                traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _folded(layer: nn.Module, batch_norm: nn.Module) -> nn.Module | None:
    assert isinstance(batch_norm, BATCH_NORMS)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return fuse_conv_bn_eval(layer, batch_norm)
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, batch_norm)
    return None


def _replace_module(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(traced.get_submodule(parent), child, module)
