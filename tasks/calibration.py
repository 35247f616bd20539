"""How sure a classifier may be: its confidence, corrected by how often it is right.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2 (temperature scaling).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Logarithms of the temperatures that are looked at.
_LOWEST, _HIGHEST, _STEPS = -3.0, 3.0, 601


def calibrated_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return what logits of shape (samples, classes) are to be divided by for the labels to be the most likely."""
    temperatures = torch.linspace(_LOWEST, _HIGHEST, _STEPS, dtype=torch.float64).exp()
    surprises = [F.cross_entropy(logits.double() / it, labels) for it in temperatures]
    return float(temperatures[int(torch.stack(surprises).argmin())])
