"""Bias correction: take back the mean that rounding adds to a layer's outputs.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2,
with the means taken on calibration inputs.
"""

from collections.abc import Iterable, Sequence

import torch
from gulliver.compressors.layer_inputs import CompressibleLayer, calls_of, outputs_as_rows
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn


def correct_biases(
    quantized: nn.Module, exact: nn.Module, names: Sequence[str], calibration: Iterable[Inputs]
) -> nn.Module:
    """Shift in place the biases of the named layers, one after the other, to give the exact network's mean outputs.

    In the quantized network a layer is the `layer` of the module of its name.
    """
    for name in names:
        layer = quantized.get_submodule(f"{name}.layer")
        assert isinstance(layer, CompressibleLayer)
        shift = _mean_outputs(exact, name, layer, calibration) - _mean_outputs(quantized, name, layer, calibration)
        bias = shift if layer.bias is None else layer.bias.detach() + shift
        layer.bias = nn.Parameter(bias)
    return quantized


def _mean_outputs(
    model: nn.Module, name: str, layer: nn.Conv1d | nn.Conv2d | nn.Linear, calibration: Iterable[Inputs]
) -> Tensor:
    sums, count = torch.zeros(len(layer.weight), dtype=torch.float64), 0
    for _, outputs in calls_of(model, name, calibration):
        rows = outputs_as_rows(layer, outputs)
        sums += rows.double().sum(0)
        count += len(rows)
    return (sums / count).float()
