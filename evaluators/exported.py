"""The exported network itself: its accuracy is what the target computes, not what the simulation does."""

from pathlib import Path
from typing import Any

import torch
from gulliver.evaluators.accuracy import score
from gulliver.tasks.protocol import Split, Task
from torch import Tensor, nn


class OpenvinoModule(nn.Module):
    """An exported network as a module, for a task to score; any batch size."""

    def __init__(self, path: Path, float_type: str) -> None:
        super().__init__()
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({port: [-1, *list(port.partial_shape)[1:]] for port in model.inputs})
        hint = {"float32": "f32", "bfloat16": "bf16"}[float_type]
        self._compiled: Any = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the first output, of shape (batch, ...)."""
        outputs = self._compiled([tensor.contiguous().numpy() for tensor in inputs])
        return torch.from_numpy(outputs[0].copy())


def score_exported(task: Task, path: Path, float_type: str, split: Split) -> float:
    """Return the score of the exported network on the split, its float layers in `float_type`."""
    return score(task, OpenvinoModule(path, float_type), split)
