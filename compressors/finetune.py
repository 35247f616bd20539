"""Fine-tuning: a thinned network learns from the original one.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; no labels are needed.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from gulliver.spaces.recipe import Finetune
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Inputs, Task, TrainingTask
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

_MOMENTUM = 0.9
_WEIGHT_DECAY = 1e-4
_SEED = 0


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


def finetune(
    student: nn.Module, task: Task, settings: Finetune, progress: str = "fine-tuning", half: bool = True
) -> nn.Module:
    """Train the student in place to give the original's outputs; return it in evaluation mode.

    It runs in bfloat16 where `half`, which is too coarse for a network that is rounded.
    Raises InputError where the task has no training inputs.
    """
    if not isinstance(task, TrainingTask):
        raise InputError(f"the task {task.name} must have `training(epoch)` for its networks to be fine-tuned")
    steps = settings.epochs * sum(1 for _ in itertools.islice(task.training(0), settings.batches_per_epoch))
    pairs = _training_pairs(task, settings)
    shown = tqdm(pairs, progress, steps, leave=False, unit="step", mininterval=0.5)
    return _distil(student, shown, steps, settings.learning_rate, settings.temperature, half)


def recover(student: nn.Module, inputs: Sequence[Inputs], outputs: Sequence[Tensor], settings: Recovery) -> nn.Module:
    """Train the student in place for a few steps to give these outputs; return it in evaluation mode."""
    pairs = itertools.islice(itertools.cycle(zip(inputs, outputs, strict=True)), settings.steps)
    return _distil(student, pairs, settings.steps, settings.learning_rate, settings.temperature)


def _distil(
    student: nn.Module,
    pairs: Iterable[tuple[Inputs, Tensor]],
    steps: int,
    learning_rate: float,
    temperature: float,
    half: bool = True,
) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(_SEED)
        _lay_out(student.train(), torch.channels_last)
        optimizer = torch.optim.SGD(
            student.parameters(), learning_rate, _MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
        )
        total = max(steps, 3)
        # A tenth of the steps to rise, but two at least: OneCycleLR divides by zero where a phase has a single step.
        zeros = [(it, it.detach() != 0) for it in student.parameters() if it.dim() > 1 and (it == 0).any()]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total, pct_start=max(0.1, 2 / total))
        for inputs, outputs in pairs:
            loss = _loss(student, inputs, outputs, temperature, half)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _restore_zeros(zeros)
            schedule.step()
        _lay_out(student, torch.contiguous_format)
    return student.eval()


def _restore_zeros(masks: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Keep weights at zero that were zero before: sparsity must outlast learning."""
    with torch.no_grad():
        for weight, mask in masks:
            weight.mul_(mask)


def _training_pairs(task: TrainingTask, settings: Finetune) -> Iterator[tuple[Inputs, Tensor]]:
    for epoch in range(settings.epochs):
        for inputs in itertools.islice(task.training(epoch), settings.batches_per_epoch):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                outputs = task.model(*inputs)
            yield inputs, outputs


def _loss(student: nn.Module, inputs: Inputs, outputs: Tensor, temperature: float, half: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        given = student(*(_channels_last(tensor) for tensor in inputs))
    wanted = F.log_softmax(outputs.float() / temperature, -1)
    given = F.log_softmax(given.float() / temperature, -1)
    return F.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
