"""A loss to differentiate at a network's own outputs, where their distance to themselves has no gradient.

The square of its gradient is on average the curvature of that distance (the Fisher information; Kunstner et al.,
"Limitations of the Empirical Fisher Approximation", NeurIPS 2019, section 2), and needs no labels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def drawn_loss(outputs: Tensor, classes: int | None, generator: torch.Generator) -> Tensor:
    """Return the sum over samples of the loss for what is drawn from the outputs.

    They are logits along the dimension `classes`, and labels are drawn; values where it is None, and signs are.
    """
    if classes is None:
        return _of_values(outputs, generator)
    return _of_logits(outputs.movedim(classes, -1), generator)


def _of_logits(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the sum of negative log-likelihoods of labels drawn from the network's own distribution.

    Where a sample has several labels, it is scaled so that the mean of their divergences is estimated, not the sum.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    labels = torch.multinomial(flat.detach().float().softmax(-1), 1, generator=generator).flatten()
    return F.cross_entropy(flat, labels, reduction="sum") * math.sqrt(len(logits) / len(flat))


def _of_values(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return a sum of values with signs drawn, scaled so that their mean squared error is estimated.

    A difference d of a sample's n values has an effect on it whose square is 2 |d|^2 / n on average.
    """
    signs = 2 * torch.randint(2, values.shape, generator=generator) - 1
    return (signs * values).sum() * math.sqrt(2 * len(values) / values.numel())
