"""Criteria: how important a channel is, by its weights or by what its removal would change of the outputs."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from gulliver.compressors.distillation import class_dimension
from gulliver.compressors.drawn_loss import drawn_loss
from gulliver.compressors.sparsify import Ranking, rank_channels
from gulliver.spaces.layer_graph import ChannelGroup, Coupling, LayerGraph
from gulliver.spaces.recipe import Recipe, Sparsify
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Inputs, Task
from torch import Tensor, nn

Criterion = Callable[[Task, LayerGraph, Sequence[Inputs]], Ranking]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_MICRO_BATCH = 16
_SEED = 0


def by_magnitude(task: Task, graph: LayerGraph, calibration: Sequence[Inputs]) -> Ranking:
    """Rank by the L2 norm of all weights tied to a channel."""
    return rank_channels(task.model, tuple(tensor[:1] for tensor in calibration[0]))


def by_batch_norm_scale(task: Task, graph: LayerGraph, calibration: Sequence[Inputs]) -> Ranking:
    """Rank by the absolute scales of the batch norms that a channel goes through, or by magnitude where it has none.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017.
    """
    ranking = dict(by_magnitude(task, graph, calibration))
    for group in graph.channel_groups:
        scales = [
            _of_channels(task.model.get_parameter(f"{coupling.module}.weight").detach().abs(), coupling)
            for coupling in group.couplings
            if _scales_channels(task.model.get_submodule(coupling.module))
        ]
        if scales:
            ranking[group.name] = _ascending(sum(scales, torch.zeros(group.channels)))
    return ranking


def by_taylor(task: Task, graph: LayerGraph, calibration: Sequence[Inputs]) -> Ranking:
    """Rank by the squared first-order change of the loss when a channel is no longer read.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8, the weights
    that read one channel taken as one gate. The loss is that of `drawn_loss`.
    """
    return _by_sensitivity(task, graph, calibration, lambda change: change.sum(1).square())


def by_fisher(task: Task, graph: LayerGraph, calibration: Sequence[Inputs]) -> Ranking:
    """Rank by the second-order change of the loss when a channel is no longer read, the Hessian being diagonal.

    Source: LeCun et al., "Optimal Brain Damage", NIPS 1989, equation 5, with the Fisher information as the Hessian.
    """
    return _by_sensitivity(task, graph, calibration, lambda change: change.square().sum(1))


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": by_magnitude,
    "batch_norm_scale": by_batch_norm_scale,
    "taylor": by_taylor,
    "fisher": by_fisher,
}


def group_sparsify(group: ChannelGroup, recipe: Recipe) -> Sparsify:
    """Return the choice that all layers of the group share; raises InputError where their criteria differ."""
    asked = {name: recipe.layers[name].sparsify for name in group.layers}
    choices = {name: choice for name, choice in asked.items() if choice is not None and choice.kind == "channel"}
    if len({(it.criterion, it.reconstruct) for it in choices.values()}) > 1:
        listed = ", ".join(
            f"{name} has criterion={it.criterion}, reconstruct={it.reconstruct}" for name, it in choices.items()
        )
        raise InputError(f"layers whose channels are tied must have one criterion and one `reconstruct`, but {listed}")
    return next(iter(choices.values()), Sparsify(0.0))


def why_no_scores(criterion: str, group: ChannelGroup, model: nn.Module) -> str | None:
    """Return why the criterion cannot tell the group's channels apart, None where it can."""
    if criterion == "batch_norm_scale":
        scaled = any(_scales_channels(model.get_submodule(coupling.module)) for coupling in group.couplings)
        return None if scaled else "no batch norm scales them"
    if criterion in ("taylor", "fisher") and not any(coupling.side == "in" for coupling in group.couplings):
        return "no layer reads them"
    return None


def _scales_channels(module: nn.Module) -> bool:
    return isinstance(module, _BATCH_NORMS) and module.affine


def _by_sensitivity(
    task: Task, graph: LayerGraph, calibration: Sequence[Inputs], score: Callable[[Tensor], Tensor]
) -> Ranking:
    """Rank by a score of the changes (channels, weights) of the loss, weight by weight, summed over micro-batches."""
    model = copy.deepcopy(task.model).requires_grad_(True).eval()
    prunable = [group for group in graph.channel_groups if not group.not_prunable]
    groups = {group.name: [it for it in group.couplings if it.side == "in"] for group in prunable}
    readers = {coupling.module for couplings in groups.values() for coupling in couplings}
    weights = {name: model.get_parameter(f"{name}.weight") for name in readers}
    scores = {group.name: torch.zeros(group.channels) for group in graph.channel_groups}
    for loss in _losses(task, model, calibration):
        gradients = dict(zip(weights, torch.autograd.grad(loss, tuple(weights.values())), strict=True))
        changes = {name: (gradients[name] * weights[name].detach()).transpose(0, 1).flatten(1) for name in weights}
        for name, couplings in groups.items():
            if couplings:
                read = [_rows_of_channels(changes[coupling.module], coupling) for coupling in couplings]
                scores[name] += score(torch.cat(read, 1))
    return {name: _ascending(values) for name, values in scores.items()}


def _losses(task: Task, model: nn.Module, calibration: Sequence[Inputs]) -> Iterator[Tensor]:
    """Yield, by micro-batch, the loss for what is drawn from the network's own outputs."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.enable_grad():
        for inputs in calibration:
            for start in range(0, len(inputs[0]), _MICRO_BATCH):
                outputs = model(*(tensor[start : start + _MICRO_BATCH] for tensor in inputs))
                yield drawn_loss(outputs, class_dimension(task, outputs), generator)


def _of_channels(values: Tensor, coupling: Coupling) -> Tensor:
    """Return (channels,): the sums of a module's own values over each channel's indices."""
    return torch.stack([values[list(indices)].sum() for indices in coupling.indices])


def _rows_of_channels(values: Tensor, coupling: Coupling) -> Tensor:
    """Return (channels, n): the rows of a module's own values that go with each channel, side by side."""
    return torch.stack([values[list(indices)].flatten() for indices in coupling.indices])


def _ascending(scores: Tensor) -> tuple[int, ...]:
    return tuple(torch.argsort(scores, stable=True).tolist())
