"""What every choice alone would cost, estimated from one backward pass through the original network.

A choice changes a layer's output by some difference; to second order the Kullback-Leibler divergence that this
causes is half the mean square of (gradient . difference), the gradient being that of the log-likelihood of a label
drawn from the network's own softmax (Fisher information; Theis et al., "Faster gaze prediction with dense networks
and Fisher pruning", 2018, equation 8; Molchanov et al., "Importance estimation for neural network pruning", CVPR
2019, section 3.1, drops the channels' own gates likewise). The differences take one call of the one layer.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from gulliver.compressors.calibrators import Histogram, Range, calibrated_range
from gulliver.compressors.compress import Original, first_samples
from gulliver.compressors.decompose import split_layer
from gulliver.compressors.distillation import class_dimension, variance
from gulliver.compressors.drawn_loss import drawn_loss
from gulliver.compressors.layer_inputs import as_memory_holds
from gulliver.compressors.quantize import QuantizedActivation, QuantizedLayer
from gulliver.compressors.semi_structured import halved_weights
from gulliver.spaces.layer_graph import ChannelGroup, Layer
from gulliver.spaces.plain import why_not_plain
from gulliver.spaces.recipe import IN_FOURS, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import group_ratio, removed_channels
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Task
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

# For what layers see, which is as large as all activations of all samples together.
MEMORY_BYTES = 1 << 30
_BYTES_PER_VALUE = 4
_SILENT_SECONDS = 2.0
_SEED = 0


@dataclass(frozen=True)
class _Seen:
    """A layer's input, and the gradient with respect to its output, on the samples of a batch."""

    samples: int
    values: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class _Change:
    """What a recipe does to one layer and to the channels that it reads."""

    layer: str
    choice: LayerRecipe
    removed: tuple[int, ...]


class TaylorLoss:
    """Estimates the divergence of recipes that are plain or 2:4: their effects are added up sample by sample.

    It is in nats where outputs are logits, and else the squared error relative to the outputs' variance.

    Exact to second order in small changes, up to the draw of the labels; batch norms are taken to stay as they are.
    Layers may fold other dimensions into the samples', behind it. What a choice does to its layer is kept for the next
    recipe that has it there, so that recipes of two choices cost little beside those of one. What the layers see is
    not: where it takes more than `memory_bytes`, they are seen in groups, with a backward pass for each.
    """

    def __init__(self, original: Original, samples: int, memory_bytes: int = MEMORY_BYTES) -> None:
        self._original, self._memory_bytes = original, memory_bytes
        self._inputs, outputs = first_samples(original, samples)
        self._samples = [len(its) for its in outputs]
        self._effects: dict[_Change, Tensor] = {}
        self._seen: dict[str, list[_Seen]] = {}

    def losses(self, recipes: Sequence[Recipe]) -> Iterator[float]:
        """Return the estimates of recipes, each group of layers seen once; raises InputError as for a single one."""
        self._find(change for recipe in recipes for change in self._changes(recipe))
        return map(self, recipes)

    def __call__(self, recipe: Recipe) -> float:
        """Return the estimate; raises InputError for a recipe that is neither plain nor 2:4."""
        changes = self._changes(recipe)
        self._find(changes)
        effects = torch.zeros(sum(self._samples))
        for change in changes:
            effects += self._effects[change]
        return float(0.5 * effects.double().square().mean())

    def _changes(self, recipe: Recipe) -> list[_Change]:
        if reason := why_not_plain(_without_fours(recipe)):
            raise InputError(f"the loss of plain choices alone can be estimated, but {reason}")
        removed = dict(_removed_inputs(self._original, recipe))
        return [
            _Change(name, replace(choice, sparsify=_fours(choice)), removed.get(name, ()))
            for name, choice in recipe.layers.items()
            if choice.is_semi_structured or choice.decompose or choice.quantize or name in removed
        ]

    def _find(self, changes: Iterable[_Change]) -> None:
        """Keep by how much each change alters the log-likelihood of each sample, to first order."""
        missing: dict[str, list[_Change]] = defaultdict(list)
        for change in dict.fromkeys(changes):
            if change not in self._effects:
                missing[change.layer].append(change)
        with tqdm(None, "gradients", sum(map(len, missing.values())), leave=False, delay=_SILENT_SECONDS) as bar:
            for layers in self._groups:
                for change in (it for name in layers for it in missing.get(name, ())):
                    self._effects[change] = self._effect(change, self._look(layers)[change.layer])
                    bar.update()

    def _look(self, layers: tuple[str, ...]) -> dict[str, list[_Seen]]:
        """Return what these layers see of each batch, and keep it in place of what others did."""
        if self._seen.keys() != {*layers}:
            self._seen = {}
            given = zip(self._inputs, self._samples, strict=True)
            batches = [_observe(self._original, layers, inputs, samples) for inputs, samples in given]
            self._seen = {name: [batch[name] for batch in batches] for name in layers}
        return self._seen

    def _effect(self, change: _Change, seen: Sequence[_Seen]) -> Tensor:
        """Return shape (samples,): the gradient along what the change does to the layer's output on the same inputs."""
        layer = self._original.task.model.get_submodule(change.layer)
        thinned = self._in_fours(change.layer) if change.choice.is_semi_structured else layer
        with torch.no_grad():
            compressed = _compressed(change.layer, thinned, change.choice)
            return torch.cat([_effect_on(layer, compressed, change, batch) for batch in seen])

    def _in_fours(self, name: str) -> nn.Module:
        model, calibration = self._original.task.model, self._original.calibration
        weights = halved_weights(model, model, [name], {}, calibration, self._original.halved_for(calibration))
        layer = copy.deepcopy(model.get_submodule(name))
        layer.weight = nn.Parameter(weights[name])
        return layer

    @cached_property
    def _groups(self) -> list[tuple[str, ...]]:
        """The layers in their order, as many at a time as see no more than the bytes that there are for it."""
        sizes = {name: self._bytes(layer) for name, layer in self._original.graph.layers.items()}
        return [*as_memory_holds(sizes, self._memory_bytes)]

    def _bytes(self, layer: Layer) -> int:
        """Return what a layer's inputs and its outputs' gradients take on all samples."""
        of_example = len(self._original.task.example_inputs[0])
        values = prod(layer.input_shape) + prod(layer.output_shape)
        return _BYTES_PER_VALUE * values * sum(self._samples) // of_example


def _observe(original: Original, layers: Sequence[str], inputs: tuple[Tensor, ...], samples: int) -> dict[str, _Seen]:
    """Return what these layers see of the inputs, so many samples; the model's own parameters get no gradients."""
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

    handles = [keep(name) for name in layers]
    try:
        with torch.enable_grad():
            loss = _loss(original.task, model(*(it.clone() for it in inputs)))
            gradients = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: _Seen(samples, values[name], torch.zeros_like(outputs[name]) if gradient is None else gradient)
        for name, gradient in zip(outputs, gradients, strict=True)
    }


def _loss(task: Task, outputs: Tensor) -> Tensor:
    """Return a loss whose squared changes are on average twice the divergence, or relative squared error."""
    classes = class_dimension(task, outputs)
    loss = drawn_loss(outputs, classes, torch.Generator().manual_seed(_SEED))
    if classes is not None:
        return loss
    return loss / math.sqrt(float(variance(outputs.detach())))


def _effect_on(layer: nn.Module, compressed: nn.Module, change: _Change, seen: _Seen) -> Tensor:
    changed, quantize = seen.values, change.choice.quantize
    if change.removed:
        channel_dimension = -1 if isinstance(layer, nn.Linear) else 1
        changed = changed.index_fill(channel_dimension, torch.tensor(change.removed), 0.0)
    if quantize:
        changed = QuantizedActivation(*_range(changed, quantize), quantize.activation_bits)(changed)
    difference: Tensor = compressed(changed) - layer(seen.values)
    return (difference * seen.gradient).reshape(seen.samples, -1).sum(1)


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
        parts = [QuantizedLayer(part, Quantize(choice.quantize.weight_bits)) for part in parts]  # type: ignore[arg-type]
    return nn.Sequential(*parts)


def _fours(choice: LayerRecipe) -> Sparsify | None:
    return IN_FOURS if choice.is_semi_structured else None


def _without_fours(recipe: Recipe) -> Recipe:
    layers = {name: replace(it, sparsify=None) if it.is_semi_structured else it for name, it in recipe.layers.items()}
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
