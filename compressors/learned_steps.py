"""Quantization-aware training: steps between integer levels that are learned with the weights.

Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 1 to 3 and section 2.2.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from gulliver.compressors.quantize import QuantizedActivation, QuantizedLayer
from torch import Tensor, nn

_SMALLEST_STEP = 1e-8


class LearnedActivation(nn.Module):
    """Round as a QuantizedActivation does, with a step that has a gradient."""

    def __init__(self, quantizer: QuantizedActivation) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.step = nn.Parameter(torch.tensor(quantizer.scale))

    def forward(self, values: Tensor) -> Tensor:
        """Return the tensor of the same shape, rounded and clipped."""
        it = self.quantizer
        share = (values[0].numel() * it.highest_level) ** -0.5
        return _rounded(values, self.step, it.zero_point, it.lowest_level, it.highest_level, share)

    def settle(self) -> QuantizedActivation:
        """Return the quantizer with the step that was learned."""
        self.quantizer.scale = max(self.step.item(), _SMALLEST_STEP)
        return self.quantizer


class LearnedLayer(nn.Module):
    """Compute as a QuantizedLayer does, with steps that have gradients."""

    def __init__(self, quantized: QuantizedLayer) -> None:
        super().__init__()
        self.quantized = quantized
        self.steps = nn.Parameter(quantized.scales[: None if quantized.per_channel else 1].clone())

    def forward(self, values: Tensor) -> Tensor:
        """Return what the layer returns with its weights rounded."""
        rows = self.quantized.rows(self.quantized.layer.weight)
        levels = self.quantized.levels.along(rows)
        share = (rows.numel() // len(self.steps) * levels.highest_level) ** -0.5
        steps = self.steps.reshape(-1, *[1] * (rows.dim() - 1))
        bounds = levels.lowest_level, levels.highest_level
        return self.quantized.run(values, _rounded(rows, steps, levels.zero_points, *bounds, share))

    def settle(self) -> QuantizedLayer:
        """Return the layer with the steps that were learned."""
        self.quantized.scales.copy_(self.steps.detach().clamp_min(_SMALLEST_STEP))
        return self.quantized


@contextmanager
def learned_steps(model: nn.Module) -> Iterator[nn.Module]:
    """Give the network, while the context lasts, steps that are parameters; what they learned stays in its scales."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedActivation):
            model.set_submodule(name, LearnedActivation(module))
        elif isinstance(module, QuantizedLayer):
            model.set_submodule(name, LearnedLayer(module))
    yield model
    with torch.no_grad():
        for name, module in list(model.named_modules()):
            if isinstance(module, LearnedActivation | LearnedLayer):
                model.set_submodule(name, module.settle())


def _rounded(values: Tensor, step: Tensor, zero_point: int | Tensor, lowest: int, highest: int, share: float) -> Tensor:
    """Round with gradients that go straight through; the step's is scaled by its `share` (section 2.2)."""
    step = step.clamp_min(_SMALLEST_STEP)
    step = step * share + (step - step * share).detach()
    levels = (values / step + zero_point).clamp(lowest, highest)
    levels = levels + (levels.round() - levels).detach()
    return (levels - zero_point) * step
