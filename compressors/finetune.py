"""Fine-tuning: a thinned network learns from the original one.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; no labels are needed.
"""

from collections.abc import Iterable, Iterator

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


def finetune(student: nn.Module, task: Task, settings: Finetune, progress: str = "fine-tuning") -> nn.Module:
    """Train the student in place to give the original's outputs; return it in evaluation mode.

    Raises InputError where the task has no training inputs.
    """
    if not isinstance(task, TrainingTask):
        raise InputError(f"the task {task.name} must have `training(epoch)` for its networks to be fine-tuned")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(_SEED)
        _learn(student, task, settings, progress)
    _lay_out(student, torch.contiguous_format)
    return student.eval()


def _learn(student: nn.Module, task: TrainingTask, settings: Finetune, progress: str) -> None:
    _lay_out(student.train(), torch.channels_last)
    steps = settings.epochs * sum(1 for _ in task.training(0))
    optimizer = torch.optim.SGD(
        student.parameters(), settings.learning_rate, _MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=0.1)
    for inputs in tqdm(_batches(task, settings.epochs), progress, steps, leave=False, unit="step"):
        loss = _distillation_loss(student, task.model, inputs, settings.temperature)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    model.to(memory_format=memory_format)  # type: ignore[call-overload]


def _batches(task: TrainingTask, epochs: int) -> Iterator[Inputs]:
    for epoch in range(epochs):
        batches: Iterable[Inputs] = task.training(epoch)
        for inputs in batches:
            yield tuple(_channels_last(tensor) for tensor in inputs)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _distillation_loss(student: nn.Module, teacher: nn.Module, inputs: Inputs, temperature: float) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            target = teacher(*inputs)
        output = student(*inputs)
    wanted = F.log_softmax(target.float() / temperature, -1)
    given = F.log_softmax(output.float() / temperature, -1)
    return F.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2
