"""What every choice alone would cost, estimated from one backward pass through the original network.

A choice changes a layer's output by some difference; to second order the Kullback-Leibler divergence that this
causes is half the mean square of (gradient . difference), the gradient being that of the log-likelihood of a label
drawn from the network's own softmax (Fisher information; Theis et al., "Faster gaze prediction with dense networks
and Fisher pruning", 2018, equation 8; Molchanov et al., "Importance estimation for neural network pruning", CVPR
2019, section 3.1, drops the channels' own gates likewise). The differences take one call of the one layer.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from gulliver.compressors.calibrators import Histogram, Range, calibrated_range
from gulliver.compressors.compress import Original, first_samples
from gulliver.compressors.decompose import split_layer
from gulliver.compressors.distillation import class_dimension, variance
from gulliver.compressors.drawn_loss import drawn_loss
from gulliver.compressors.quantize import QuantizedActivation, QuantizedLayer
from gulliver.compressors.semi_structured import halved_weights
from gulliver.spaces.layer_graph import ChannelGroup
from gulliver.spaces.plain import why_not_plain
from gulliver.spaces.recipe import IN_FOURS, LayerRecipe, Quantize, Recipe
from gulliver.spaces.shapes import group_ratio, removed_channels
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Task
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_SEED = 0


@dataclass(frozen=True)
class _Seen:
    """A layer's input, and the gradient with respect to its output, on all samples."""

    values: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class _Batch:
    """What every layer sees of so many samples."""

    samples: int
    seen: Mapping[str, _Seen]


class TaylorLoss:
    """Estimates the divergence of recipes that are plain or 2:4: their effects are added up sample by sample.

    It is in nats where outputs are logits, and else the squared error relative to the outputs' variance.

    Exact to second order in small changes, up to the draw of the labels; batch norms are taken to stay as they are.
    Layers may fold other dimensions into the samples', behind it. What a choice does to its layer is kept for the next
    recipe that has it there, so that recipes of two choices cost little beside those of one.
    """

    def __init__(self, original: Original, samples: int) -> None:
        self._original = original
        inputs, outputs = first_samples(original, samples)
        self._batches = [
            _Batch(len(its), _observe(original, given)) for given, its in zip(inputs, outputs, strict=True)
        ]
        self._effects: dict[tuple[object, ...], Tensor] = {}

    def __call__(self, recipe: Recipe) -> float:
        """Return the estimate; raises InputError for a recipe that is neither plain nor 2:4."""
        if reason := why_not_plain(_without_fours(recipe)):
            raise InputError(f"the loss of plain choices alone can be estimated, but {reason}")
        effects = torch.zeros(sum(batch.samples for batch in self._batches))
        removed = dict(_removed_inputs(self._original, recipe))
        for name, choice in recipe.layers.items():
            if choice.decompose or choice.quantize or choice.sparsify == IN_FOURS or name in removed:
                effects += self._effect(name, choice, removed.get(name, ()))
        return float(0.5 * effects.double().square().mean())

    def _effect(self, name: str, choice: LayerRecipe, removed: tuple[int, ...]) -> Tensor:
        """Return shape (samples,): by how much the layer changes the log-likelihood of each, to first order."""
        key = (name, choice.sparsify == IN_FOURS, choice.decompose, choice.quantize, removed)
        if key not in self._effects:
            layer = self._original.task.model.get_submodule(name)
            compressed = _compressed(name, self._in_fours(name) if choice.sparsify == IN_FOURS else layer, choice)
            parts = (
                _effect(layer, compressed, choice.quantize, batch.seen[name], removed).reshape(batch.samples, -1)
                for batch in self._batches
            )
            self._effects[key] = torch.cat([it.sum(1) for it in parts])
        return self._effects[key]

    def _in_fours(self, name: str) -> nn.Module:
        model, calibration = self._original.task.model, self._original.calibration
        weights = halved_weights(model, model, [name], {}, calibration, self._original.halved_for(calibration))
        layer = copy.deepcopy(model.get_submodule(name))
        layer.weight = nn.Parameter(weights[name])
        return layer


def _observe(original: Original, inputs: tuple[Tensor, ...]) -> dict[str, _Seen]:
    """Return what every layer sees of the inputs; the model's own parameters get no gradients."""
    model = original.task.model
    values: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> RemovableHandle:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # A gradient may have to start here, since frozen weights ask for none.
            values[name], outputs[name] = given[0].detach(), output.requires_grad_()
            # What follows in place, as some activations do, is not to change what is kept.
            return output.clone()

        return model.get_submodule(name).register_forward_hook(hook)

    handles = [keep(name) for name in original.graph.layers]
    try:
        with torch.enable_grad():
            loss = _loss(original.task, model(*(it.clone() for it in inputs)))
            gradients = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: _Seen(values[name], torch.zeros_like(outputs[name]) if gradient is None else gradient)
        for name, gradient in zip(outputs, gradients, strict=True)
    }


def _loss(task: Task, outputs: Tensor) -> Tensor:
    """Return a loss whose squared changes are on average twice the divergence, or relative squared error."""
    classes = class_dimension(task, outputs)
    loss = drawn_loss(outputs, classes, torch.Generator().manual_seed(_SEED))
    if classes is not None:
        return loss
    return loss / math.sqrt(float(variance(outputs.detach())))


def _effect(
    layer: nn.Module, compressed: nn.Module, quantize: Quantize | None, seen: _Seen, removed: Sequence[int]
) -> Tensor:
    """Return the gradient times the difference that the compressed layer makes to the output on the same inputs."""
    with torch.no_grad():
        changed = seen.values
        if removed:
            channel_dimension = -1 if isinstance(layer, nn.Linear) else 1
            changed = changed.index_fill(channel_dimension, torch.tensor(removed), 0.0)
        if quantize:
            changed = QuantizedActivation(*_range(changed, quantize), quantize.activation_bits)(changed)
        difference: Tensor = compressed(changed) - layer(seen.values)
        return difference * seen.gradient


def _range(values: Tensor, choice: Quantize) -> Range:
    """Return the range that the choice's calibrator finds for these values alone."""
    lowest, highest = (bound.item() for bound in torch.aminmax(values))
    if choice.calibrator == "min_max":
        return lowest, highest
    histogram = Histogram.empty(lowest, highest)
    histogram.add(values)
    return calibrated_range(histogram, choice)


def _compressed(name: str, layer: nn.Module, choice: LayerRecipe) -> nn.Module:
    parts: list[nn.Module] = [layer]
    if choice.decompose:
        parts = list(split_layer(name, layer, choice.decompose.rank, choice.decompose).children())
    if choice.quantize:
        parts = [QuantizedLayer(part, choice.quantize.weight_bits) for part in parts]  # type: ignore[arg-type]
    return nn.Sequential(*parts)


def _without_fours(recipe: Recipe) -> Recipe:
    layers = {
        name: replace(choice, sparsify=None) if choice.sparsify == IN_FOURS else choice
        for name, choice in recipe.layers.items()
    }
    return replace(recipe, layers=layers)


def _removed_inputs(original: Original, recipe: Recipe) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every layer that loses input channels, with their indices."""
    gone: dict[str, set[int]] = {}
    for group in original.graph.channel_groups:
        for module, indices in _gone_from(group, original, recipe):
            gone.setdefault(module, set()).update(indices)
    for module, indices in gone.items():
        yield module, tuple(sorted(indices))


def _gone_from(group: ChannelGroup, original: Original, recipe: Recipe) -> Iterator[tuple[str, set[int]]]:
    count = removed_channels(group.channels, group_ratio(group, recipe))
    channels = original.ranking[group.name][:count] if count else ()
    for coupling in group.couplings:
        if channels and coupling.side == "in" and coupling.module in original.graph.layers:
            yield coupling.module, {index for channel in channels for index in coupling.indices[channel]}
