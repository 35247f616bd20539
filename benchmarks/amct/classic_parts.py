"""What each part of the benchmark makes of one classic network: a model to measure, or a simulated one's accuracy.

All choices are made on the calibration inputs and the search split.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from gulliver.compressors.compress import Original, compress, read_original
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.evaluators.accuracy import score
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.api import search
from gulliver.search.settings import Budget, FinalistSettings, TrialSettings
from gulliver.search.tracking import TrackingSettings
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Finetune, LayerRecipe, Quantize, Recipe
from gulliver.spaces.shapes import channels_after
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions

from benchmarks.amct.classic_tasks import NETWORKS, ClassicNetwork
from benchmarks.search.environments import python_of

BATCH = 32
RATIO = 0.3
MAX_DROP = 0.005
TRIAL_SAMPLES = 2000
# Whatever the other parts may spend: a step of rounded training takes five times as long as one of fine-tuning.
QAT_EPOCHS, QAT_BATCHES = 2, 150
RANKS = (0.75, 0.5, 0.33, 0.2, 0.12)
MODEL = "model.xml"
CALIBRATORS = (Quantize(), Quantize(calibrator="mse", weight_scales="mse"), Quantize(calibrator="percentile"))
FOUR_BITS = Quantize(4, 4, calibrator="mse", weight_scales="mse")


@dataclass(frozen=True)
class Effort:
    """What a part may spend: fine-tuning of one network, and the trials and finalists of a search."""

    epochs: int
    batches: int
    trials: int
    finalists: int


@dataclass(frozen=True)
class Made:
    """What a part says of its network; the accuracies are those of one that is simulated only."""

    note: str
    accuracy_search: float | None = None
    accuracy_test: float | None = None


@dataclass(frozen=True)
class Job:
    """One network for one part: what it may spend, the folder that it writes to, and that of the original."""

    network: str
    task: ClassicNetwork
    effort: Effort
    out: Path
    originals: Path

    @cached_property
    def original(self) -> Original:
        """The trained network with all that is computed of it once."""
        return read_original(self.task)

    @property
    def finetune(self) -> Finetune:
        """Fine-tuning at the learning rate that the network was trained with."""
        rate = NETWORKS[self.network][1].learning_rate
        return Finetune(self.effort.epochs, learning_rate=rate, batches_per_epoch=self.effort.batches)

    def recipe(self, choices: Mapping[str, LayerRecipe], finetune: Finetune | None = None) -> Recipe:
        """Return a recipe that leaves all other layers as they are."""
        return Recipe({name: choices.get(name, LayerRecipe()) for name in self.original.graph.layers}, finetune)

    def save(self, recipe: Recipe, name: str = MODEL, half: bool = True) -> None:
        """Export the recipe's network."""
        model = to_openvino(compress(self.original, recipe), self.task.example_inputs, BATCH)
        save_openvino(model, self.out / name, half)


def original(job: Job) -> Made:
    """Export the trained network with weights of 32 bits, and of 16 for bf16."""
    untouched = job.recipe({})
    job.save(untouched, "float32.xml", half=False)
    job.save(untouched, "bfloat16.xml")
    return Made("")


def int8(job: Job) -> Made:
    """Quantize all layers after training, with the calibrator that does best on the search split."""

    def recipe(choice: Quantize) -> Recipe:
        return job.recipe(dict.fromkeys(job.original.graph.layers, LayerRecipe(quantize=choice)))

    accuracies = {it: score(job.task, compress(job.original, recipe(it)), "search") for it in CALIBRATORS}
    best = max(CALIBRATORS, key=lambda it: accuracies[it])
    job.save(recipe(best))
    return Made(f"{best.calibrator} of {', '.join(f'{it.calibrator} {accuracies[it]:.4f}' for it in CALIBRATORS)}")


def nncf_int8(job: Job) -> Made:
    """Quantize with NNCF and the same calibration inputs."""
    calibration = job.out / "calibration.npy"
    images = torch.cat([images for (images,) in job.task.calibration()])
    np.save(calibration, images.reshape(-1, BATCH, *images.shape[1:]).numpy())
    script = Path(__file__).parent / "nncf_int8.py"
    arguments = [str(job.originals / "float32.xml"), str(calibration), str(job.out / MODEL)]
    command = [str(python_of("nncf")), str(script), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    calibration.unlink()
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return Made("defaults")


def channels(job: Job) -> Made:
    """Remove the same share of every group's channels, then fine-tune."""
    space = Space(job.original.graph, CpuOpenvino(batch=BATCH).capabilities)
    recipes = (space.uniform(hundredths / 100, quantized=False) for hundredths in range(30, 76))
    recipe = next(it for it in recipes if removed_share(job.original.graph, it) >= RATIO)
    job.save(replace(recipe, finetune=job.finetune))
    return Made(f"{removed_share(job.original.graph, recipe):.1%} of the channels that can be removed")


def removed_share(graph: LayerGraph, recipe: Recipe) -> float:
    """Return the share that is gone of the output channels of all layers that can lose some."""
    left = channels_after(graph, recipe)
    names = [name for group in graph.channel_groups if not group.not_prunable for name in group.layers]
    return 1 - sum(left[name].outputs for name in names) / sum(graph.layers[name].out_channels for name in names)


def sparsity(job: Job) -> Made:
    """Search among the shares of channels to remove alone."""
    return _search(job, SpaceOptions(bits=(), ranks=()))


def decomposition(job: Job) -> Made:
    """Search among ranks alone."""
    return _search(job, SpaceOptions(bits=(), max_ratio=0.0, ranks=RANKS))


def joint(job: Job) -> Made:
    """Search among all that the target runs, the ranks of `decomposition` among it."""
    return _search(job, SpaceOptions(ranks=RANKS))


def _search(job: Job, space: SpaceOptions) -> Made:
    result = search(
        job.task,
        CpuOpenvino(batch=BATCH),
        Budget(max_drop=MAX_DROP),
        job.effort.trials,
        out=job.out / "search",
        tracking=TrackingSettings(enabled=False),
        space=space,
        trial=TrialSettings(samples=TRIAL_SAMPLES),
        finalists=FinalistSettings(count=job.effort.finalists, finetune=job.finetune),
    )
    chosen = result.best
    assert chosen.model_path is not None
    for suffix in (".xml", ".bin"):
        shutil.copy(chosen.model_path.with_suffix(suffix), (job.out / MODEL).with_suffix(suffix))
    chosen.recipe.save(job.out / "recipe.yaml")
    promising = sum(it.likely_drop <= MAX_DROP for it in result.finalists)
    note = f"{promising} of {len(result.finalists)} finalists likely to lose no more, front of {len(result.front)}"
    return Made(f"{note}; likely {100 * chosen.likely_drop:.2f} points")


def int4_qat(job: Job) -> Made:
    """Train all layers but the first and the last with 4-bit weights and activations; those two have 8 bits.

    So do Esser et al., "Learned Step Size Quantization", section 2.3.
    """
    names = list(job.original.graph.layers)
    eight = replace(FOUR_BITS, weight_bits=8, activation_bits=8)
    choices = {name: LayerRecipe(quantize=eight if name in (names[0], names[-1]) else FOUR_BITS) for name in names}
    before = score(job.task, compress(job.original, job.recipe(choices)), "search")
    finetune = replace(job.finetune, epochs=QAT_EPOCHS, batches_per_epoch=QAT_BATCHES, quantization_aware=True)
    model = compress(job.original, job.recipe(choices, finetune))
    search_accuracy, test_accuracy = (score(job.task, model, split) for split in ("search", "test"))
    return Made(f"simulated; {before:.4f} on the search split before training", search_accuracy, test_accuracy)


PARTS: dict[str, Callable[[Job], Made]] = {
    it.__name__: it for it in (original, int8, nncf_int8, channels, sparsity, decomposition, joint, int4_qat)
}
EFFORTLESS = ("original", "int8", "nncf_int8")
SEARCHED = ("sparsity", "decomposition", "joint")
