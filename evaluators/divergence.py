"""How far a compressed network's outputs are from the original's: continuous where an accuracy moves in steps.

The loss of one choice alone, measured so, predicts what it costs among others (Dong et al., HAWQ, ICCV 2019, ranks
layers by a loss of second order; Li et al., BRECQ, ICLR 2021, by the squared error of outputs).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from gulliver.compressors.distillation import variance
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn
from torch.nn import functional as F

Divergence = Callable[[Tensor, Tensor], Tensor]


def kl_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """Return shape (samples,): Kullback and Leibler's divergence of the softmax over the last dimension, in nats."""
    wanted, given = (F.log_softmax(logits.float(), -1) for logits in (reference, outputs))
    nats = F.kl_div(given, wanted, reduction="none", log_target=True).sum(-1)
    return nats.reshape(len(nats), -1).mean(1)


def squared_error(reference: Tensor, outputs: Tensor) -> Tensor:
    """Return shape (samples,): the mean squared error, relative to the variance of all that the reference holds."""
    error = ((outputs.float() - reference.float()) ** 2).reshape(len(outputs), -1).mean(1)
    return error / variance(reference)


DIVERGENCES: Mapping[str, Divergence] = {"kl": kl_divergence, "squared_error": squared_error}


def mean_divergence(
    network: nn.Module, inputs: Sequence[Inputs], references: Sequence[Tensor], divergence: Divergence
) -> float:
    """Return the mean over all samples of the divergence of the network's outputs from the references."""
    with torch.inference_mode():
        values = [divergence(wanted, network(*given)) for given, wanted in zip(inputs, references, strict=True)]
    return float(torch.cat(values).double().mean())
