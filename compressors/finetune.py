"""Fine-tuning: a thinned network learns from the original one, and no labels are needed."""

import copy
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from gulliver.compressors.distillation import Distance, Lesson, last_layer, mean_distance, reading
from gulliver.compressors.optimizers import Optimizer, muon_step
from gulliver.spaces.recipe import MUON, Finetune
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Inputs, Task, TrainingTask
from torch import Tensor, nn
from tqdm import tqdm

# Hears of the student, in evaluation mode, before the first epoch of a stage and after each.
Watch = Callable[[str, int, nn.Module], None]

_SEED = 0
# Batches that tell how far a student is from the original.
_LOOKED_AT = 4


@dataclass(frozen=True)
class Recovery:
    """A few steps of fine-tuning on the calibration inputs, enough to tell which candidates will recover."""

    steps: int = 24
    learning_rate: float = 0.1
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"`trial.finetune.steps >= 0` must hold, but it is {self.steps}")
        if not self.learning_rate > 0 or not self.temperature > 0:
            raise InputError("`trial.finetune.learning_rate` and `trial.finetune.temperature` must be above zero")


class _Learner:
    """A student with its optimizer; weights that are zero stay zero."""

    def __init__(
        self, student: nn.Module, steps: int, learning_rate: float, share: float | None = None, clipped: bool = False
    ) -> None:
        self.student = student
        _lay_out(student.train(), torch.channels_last)
        self.optimizer = Optimizer(student, steps, learning_rate, share, clipped)
        weights = [it for it in student.parameters() if it.dim() > 1]
        self._zeros = [(it, it.detach() != 0) for it in weights if (it == 0).any()]

    def learn(self, lessons: Iterable[Lesson], distance: Distance) -> None:
        """Take one step a lesson."""
        with torch.enable_grad():
            for lesson in lessons:
                self.optimizer.step(distance(self.student, lesson))
                self._restore_zeros()

    def state(self) -> dict[str, Any]:
        """Return all that going on needs, as plain tensors and numbers."""
        return copy.deepcopy({"student": self.student.state_dict(), "optimizer": self.optimizer.state()})

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.student.load_state_dict(state["student"])
        self.optimizer.load(state["optimizer"])

    def finish(self) -> nn.Module:
        """Return the student in evaluation mode."""
        _lay_out(self.student, torch.contiguous_format)
        return self.student.eval()

    def _restore_zeros(self) -> None:
        with torch.no_grad():
            for weight, mask in self._zeros:
                weight.mul_(mask)


@dataclass
class _Progress:
    """How far fine-tuning has come: the next epoch, and the epoch and weights of the least distance so far."""

    epoch: int = 0
    best_epoch: int = -1
    best_distance: float = float("inf")
    best_student: dict[str, Any] | None = None


def finetune(
    student: nn.Module,
    task: Task,
    settings: Finetune,
    stage: str = "fine-tuning",
    rounded: bool = False,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> nn.Module:
    """Train the student in place to give the original's outputs; return it in evaluation mode.

    It runs in bfloat16 where that is faster, which is too coarse for a network that is `rounded`; such a one has no
    batch norms either, so that its gradients are clipped. With a `checkpoint`, a run that was interrupted goes on after
    its last whole epoch, and ends as if it had not been. Every epoch takes as many batches as the first has, or fewer
    where it has fewer. Training that leads away from the original is undone, and a line says so. Raises InputError
    where the task has no training inputs in an epoch, or the checkpoint is of another network or settings.
    """
    if not isinstance(task, TrainingTask):
        raise InputError(f"the task {task.name} must have `training(epoch)` for its networks to be fine-tuned")
    distance = _distance(task, settings, rounded)
    with torch.random.fork_rng(devices=[]):
        batches, first = _look_ahead(task, settings, distance.features_layer)
        before, untrained = mean_distance(student, first, distance), copy.deepcopy(student.state_dict())
        share = muon_step(settings.learning_rate, before) if settings.optimizer == MUON else None
        learner = _Learner(student, settings.epochs * batches, settings.learning_rate, share, clipped=rounded)
        _Course(task, settings, stage, batches, distance, checkpoint, watch).take(learner)
        # Where a distance is no number, neither is the student.
        if not mean_distance(student, first, distance) <= before:
            student.load_state_dict(untrained)
            tqdm.write(f"{stage} led away from the original and is undone; try a lower learning_rate", sys.stderr)
        return learner.finish()


@dataclass(frozen=True)
class _Course:
    """One stage of fine-tuning: what its epochs teach, where they are kept, and who hears of them."""

    task: TrainingTask
    settings: Finetune
    stage: str
    batches: int
    distance: Distance
    checkpoint: Path | None
    watch: Watch | None

    def take(self, learner: _Learner) -> None:
        """Learn through the epochs that are left; with a patience, end at the nearest student."""
        reached = _resume(learner, self.settings, self.checkpoint)
        with tqdm(
            None, self.stage, self.settings.epochs * self.batches, leave=False, unit="step", mininterval=0.5
        ) as bar:
            bar.update(reached.epoch * self.batches)
            if reached.epoch == 0:
                self._tell(learner, reached)
            while reached.epoch < self.settings.epochs and not _is_stuck(reached, self.settings):
                self._learn(learner, reached.epoch, bar)
                self._note(learner, reached)
                _save(learner, reached, self.settings, self.checkpoint)
                self._tell(learner, reached)
        if reached.best_student is not None:
            learner.student.load_state_dict(reached.best_student)

    def _learn(self, learner: _Learner, epoch: int, bar: Any) -> None:
        torch.manual_seed(_SEED + epoch)
        lessons = _lessons(self.task, _drawn(self.task, epoch, self.batches), self.distance.features_layer)
        learner.learn(_shown(lessons, bar), self.distance)

    def _note(self, learner: _Learner, reached: _Progress) -> None:
        """Count the epoch; with a patience, keep the student nearest to the original on the calibration inputs."""
        if self.settings.patience is not None:
            lessons = _lessons(self.task, self.task.calibration(), self.distance.features_layer)
            found = mean_distance(learner.student, lessons, self.distance)
            if found < reached.best_distance:
                reached.best_epoch, reached.best_distance = reached.epoch, found
                reached.best_student = copy.deepcopy(learner.student.state_dict())
        reached.epoch += 1

    def _tell(self, learner: _Learner, reached: _Progress) -> None:
        if self.watch is not None:
            self.watch(self.stage, reached.epoch, learner.student.eval())
            learner.student.train()


def _distance(task: Task, settings: Finetune, rounded: bool) -> Distance:
    layer = last_layer(task.model) if settings.feature_weight else None
    half = not rounded and _is_faster_in_half(task.model)
    return Distance(task, settings.temperature, half, layer, settings.feature_weight)


def _look_ahead(task: TrainingTask, settings: Finetune, layer: str | None) -> tuple[int, list[Lesson]]:
    """Return how many batches an epoch has, and the lessons of the first of them."""
    batches = _drawn(task, 0, settings.batches_per_epoch)
    first = list(_lessons(task, itertools.islice(batches, _LOOKED_AT), layer))
    return len(first) + sum(1 for _ in batches), first


def _drawn(task: TrainingTask, epoch: int, most: int | None) -> Iterator[Inputs]:
    """Yield the first batches of an epoch; raises InputError where it has none."""
    batches = itertools.islice(task.training(epoch), most)
    first = next(batches, None)
    if first is None:
        raise InputError(
            f"`training(epoch)` of the task {task.name} must give batches anew, but epoch {epoch} has none"
        )
    yield first
    yield from batches


def recover(
    student: nn.Module, task: Task, inputs: Sequence[Inputs], outputs: Sequence[Tensor], settings: Recovery
) -> nn.Module:
    """Train the student in place for a few steps to give these outputs of the task; return it in evaluation mode."""
    lessons = (Lesson(*pair) for pair in itertools.cycle(zip(inputs, outputs, strict=True)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        learner = _Learner(student, settings.steps, settings.learning_rate)
        learner.learn(itertools.islice(lessons, settings.steps), Distance(task, settings.temperature))
        return learner.finish()


def _lessons(task: Task, batches: Iterable[Inputs], layer: str | None) -> Iterator[Lesson]:
    for inputs in batches:
        with torch.no_grad(), _half(task.model), reading(task.model, layer) as read:
            outputs = task.model(*inputs)
        yield Lesson(inputs, outputs, read[0] if read else None)


def _half(model: nn.Module) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=_is_faster_in_half(model))


def _is_faster_in_half(model: nn.Module) -> bool:
    # torch trains depthwise convolutions twice as fast in float32, even on a CPU with bfloat16 instructions.
    return not any(getattr(module, "groups", 1) > 1 for module in model.modules())


def _shown(lessons: Iterable[Lesson], bar: Any) -> Iterator[Lesson]:
    for lesson in lessons:
        yield lesson
        bar.update()


def _is_stuck(reached: _Progress, settings: Finetune) -> bool:
    return settings.patience is not None and reached.epoch - 1 - reached.best_epoch >= settings.patience


def _save(learner: _Learner, reached: _Progress, settings: Finetune, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        state = learner.state() | {"settings": asdict(settings), "reached": dict(vars(reached))}
        write_atomically(checkpoint, lambda path: torch.save(state, path))


def _resume(learner: _Learner, settings: Finetune, checkpoint: Path | None) -> _Progress:
    """Return how far the checkpoint's run had come, the learner set to it; no checkpoint is no way at all."""
    if checkpoint is None or not checkpoint.exists():
        return _Progress()
    try:
        state = torch.load(checkpoint, weights_only=True)
        made_with = state["settings"]
        if made_with == asdict(settings):
            learner.load(state)
            return _Progress(**state["reached"])
    except (RuntimeError, EOFError, TypeError, ValueError, LookupError, OSError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{checkpoint} is no checkpoint of this fine-tuning: {reason}; delete or move it") from error
    raise InputError(f"{checkpoint} must be of the same settings ({asdict(settings)}), but is of {made_with}")


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
