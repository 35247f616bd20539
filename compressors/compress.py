"""Apply a recipe: sparsify, decompose, fine-tune, quantize, in this order."""

import copy
import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from gulliver.compressors.batch_norm import reestimate_batch_norms
from gulliver.compressors.criteria import CRITERIA, group_sparsify
from gulliver.compressors.decompose import decompose
from gulliver.compressors.fallback import Reasons, applicable
from gulliver.compressors.finetune import Recovery, Watch, finetune, recover
from gulliver.compressors.learned_steps import learned_steps
from gulliver.compressors.quantize import quantize
from gulliver.compressors.reconstruct import reconstruct
from gulliver.compressors.semi_structured import sparsify_in_fours
from gulliver.compressors.sparsify import Ranking, rank_channels, removed_indices, sparsify
from gulliver.compressors.store import Store
from gulliver.compressors.unstructured import sparsify_anywhere
from gulliver.spaces.channel_groups import dependent_groups
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.network_identity import check_names, check_recipe, network_hash, tensor_bytes
from gulliver.spaces.recipe import SGD, Finetune, Recipe
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Task
from torch import Tensor, fx, nn

Calibration = tuple[tuple[Tensor, ...], ...]
_HALVED_BYTES = 256 << 20
_WANTED_BYTES = 256 << 20


@dataclass(frozen=True)
class Original:
    """A task's network with all that is computed of it once, however many recipes are applied."""

    task: Task
    network: str
    graph: LayerGraph
    ranking: Ranking
    calibration: Calibration
    outputs: tuple[Tensor, ...]

    def applicable(self, recipe: Recipe) -> tuple[Recipe, Reasons]:
        """Return the recipe without what layers of this network cannot take, and by layer what is left out and why.

        Raises InputError where the recipe is for another network.
        """
        check_names(recipe, self.graph, self.network)
        return applicable(recipe, self.task.model, self.graph)

    def ranking_for(self, recipe: Recipe) -> Ranking:
        """Return each group's channels, least important first, by the criterion that the recipe names for it."""
        criteria = {group.name: group_sparsify(group, recipe).criterion for group in self.graph.channel_groups}
        for criterion in set(criteria.values()) - self._rankings.keys():
            self._rankings[criterion] = CRITERIA[criterion](self.task, self.graph, self.calibration)
        return {name: order for name in criteria if (order := self._rankings[criteria[name]].get(name)) is not None}

    def halved_for(self, calibration: Calibration) -> Store:
        """Return where 2:4 weights are kept that were made with these calibration inputs, if they are its own."""
        return self._halved if calibration is self.calibration else Store(0)

    def wanted_for(self, calibration: Calibration) -> Store:
        """Return where the layers' outputs on these calibration inputs are kept, if they are its own."""
        return self._wanted if calibration is self.calibration else Store(0)

    @cached_property
    def _wanted(self) -> Store:
        return Store(_WANTED_BYTES)

    @cached_property
    def _halved(self) -> Store:
        return Store(_HALVED_BYTES)

    @cached_property
    def calibration_digest(self) -> str:
        """Return 16 hexadecimal digits of the values of all calibration inputs."""
        digest = hashlib.sha256()
        for tensor in itertools.chain.from_iterable(self.calibration):
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()[:16]

    @cached_property
    def _rankings(self) -> dict[str, Ranking]:
        """The rankings by the criteria that were asked for so far."""
        return {"magnitude": self.ranking}


def read_original(task: Task) -> Original:
    """Trace the task's network, rank its channels, and run it on the calibration inputs.

    Raises InputError where it cannot be traced, returns something else than one tensor, or is not in float32.
    """
    calibration = tuple(task.calibration())
    with torch.no_grad():
        outputs = tuple(task.model(*inputs) for inputs in calibration)
    _check_types(task, outputs)
    dependent = dependent_groups(task.model, task.example_inputs)
    return Original(
        task=task,
        network=network_hash(task.model),
        graph=trace(task.model, task.example_inputs, dependent),
        ranking=rank_channels(task.model, task.example_inputs, dependent),
        calibration=calibration,
        outputs=outputs,
    )


def _check_types(task: Task, outputs: Iterable[object]) -> None:
    for it in outputs:
        if not isinstance(it, Tensor):
            raise InputError(f"the network of {task.name} must return one tensor, but returns a {type(it).__name__}")
    for name, parameter in task.model.named_parameters():
        if parameter.dtype != torch.float32:
            given = str(parameter.dtype).removeprefix("torch.")
            raise InputError(f"the network of {task.name} must be in float32, but {name} is in {given}")


def first_samples(original: Original, samples: int) -> tuple[Calibration, tuple[Tensor, ...]]:
    """Return the first calibration inputs and the original's outputs for them, no more samples than asked."""
    inputs: list[tuple[Tensor, ...]] = []
    outputs: list[Tensor] = []
    for given, wanted in zip(original.calibration, original.outputs, strict=True):
        left = samples - sum(len(it) for it in outputs)
        if left > 0:
            inputs.append(tuple(tensor[:left] for tensor in given))
            outputs.append(wanted[:left])
    return tuple(inputs), tuple(outputs)


def apply(task: Task, recipe: Recipe) -> nn.Module:
    """Return the task's network as the recipe wants it, the original untouched; see `compress`.

    Raises InputError, which names the layer and the rule, where the recipe is for another network.
    """
    return compress(read_original(task), recipe)


def compress(
    original: Original,
    recipe: Recipe,
    calibration: Calibration | None = None,
    recovery: Recovery | None = None,
    checkpoints: Path | None = None,
    watch: Watch | None = None,
) -> fx.GraphModule:
    """Return the network as the recipe wants it, fine-tuned if the recipe says so.

    What a layer cannot take is not done to it; `Original.applicable` says what that is, and why.
    `calibration` replaces the task's calibration inputs where less will do, as for a timing; `recovery` trains a
    thinned network for a few steps, to tell early what fine-tuning would make of it. `checkpoints` is a folder of this
    recipe's own, from which fine-tuning that was interrupted goes on; `watch` hears how far it has come.
    """
    recipe, _ = original.applicable(recipe)
    calibration = original.calibration if calibration is None else calibration
    thinned = thin(original, recipe, calibration)
    if recipe.finetune is not None and (is_thinned(recipe) or not recipe.finetune.quantization_aware):
        finetune(thinned, original.task, recipe.finetune, checkpoint=_file(checkpoints, "thinned.pt"), watch=watch)
    elif recovery is not None and recovery.steps and is_thinned(recipe):
        recover(thinned, original.task, original.calibration, original.outputs, recovery)
        reestimate_batch_norms(thinned, calibration)
    quantized = quantize(thinned, recipe, calibration)
    if recipe.finetune is not None and recipe.finetune.quantization_aware:
        learn_rounding(quantized, original.task, recipe.finetune, _file(checkpoints, "rounded.pt"), watch)
    return quantized


def _file(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def learn_rounding(
    quantized: fx.GraphModule,
    task: Task,
    settings: Finetune,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> fx.GraphModule:
    """Train a quantized network in place, the steps between its levels with its weights."""
    # Without batch norms, which are folded, a network bears a tenth of the learning rate.
    slower = replace(settings, learning_rate=settings.learning_rate / 10, optimizer=SGD)
    with learned_steps(quantized):
        finetune(
            quantized, task, slower, "quantization-aware training", rounded=True, checkpoint=checkpoint, watch=watch
        )
    return quantized


def is_thinned(recipe: Recipe) -> bool:
    """Say whether the recipe removes channels or weights, or splits layers anywhere."""
    return any(choice.sparsify or choice.decompose for choice in recipe.layers.values())


def thin(original: Original, recipe: Recipe, calibration: Calibration) -> nn.Module:
    """Return the network in floating point with channels removed and layers split, batch norms re-estimated."""
    check_recipe(recipe, original.graph, original.network)
    model = copy.deepcopy(original.task.model).eval()
    if not is_thinned(recipe):
        return model
    ranking = original.ranking_for(recipe)
    sparsify(model, original.graph, recipe, ranking)
    removed = removed_indices(original.graph, recipe, ranking)
    wanted = original.wanted_for(calibration)
    reconstruct(model, original.task.model, original.graph, recipe, removed, calibration, wanted)
    sparsify_in_fours(model, original.task.model, recipe, removed, calibration, original.halved_for(calibration))
    sparsify_anywhere(model, recipe, calibration)
    decompose(model, recipe, calibration)
    return reestimate_batch_norms(model, calibration)
