"""The exported network itself: its accuracy is what the target computes, not what the simulation does."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class OpenvinoModule(nn.Module):
    """An exported network as a module, for a task to score.

    Inputs of any batch size run in pieces of the file's own, because a kernel may differ by batch size.
    """

    def __init__(self, path: Path, float_type: str) -> None:
        super().__init__()
        import openvino

        hint = {"float32": "f32", "bfloat16": "bf16"}[float_type]
        self._compiled: Any = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        self._batch = int(self._compiled.inputs[0].shape[0])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the first output, of shape (batch, ...)."""
        size = len(inputs[0])
        pieces = [
            self._run([it[start : start + self._batch] for it in inputs]) for start in range(0, size, self._batch)
        ]
        return torch.cat(pieces)[:size]

    def _run(self, inputs: list[Tensor]) -> Tensor:
        missing = self._batch - len(inputs[0])
        whole = [torch.cat([it, it[-1:].expand(missing, *it.shape[1:])]) if missing else it for it in inputs]
        outputs = self._compiled([it.contiguous().numpy() for it in whole])
        return torch.from_numpy(outputs[0].copy())
