"""What fine-tuning takes its steps with: stochastic gradient descent, or Muon for the weights of layers.

Muon makes all directions of a step alike in length, so that the few steps of a fine-tuning also reach the directions
whose gradients are small. Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
Without batch norms, gradients may grow with every step that they make too long, unless they are clipped. Source: Brock
et al., "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021, section 4.1.
"""

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any, Protocol

import torch
from gulliver.compressors.layer_inputs import CompressibleLayer
from torch import Tensor, nn

_MOMENTUM = 0.9
_WEIGHT_DECAY = 1e-4
_STEP_SHARE = 0.25
_GRADIENT_SHARE = 0.1
_LEAST_NORM = 1e-3


class _HasState(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def muon_step(learning_rate: float, distance: float) -> float:
    """Return the norm of Muon's steps, as a share of a weight's norm, for a student with so much distance to go.

    Gradients make its steps no shorter, so the distance does: near its minimum a divergence grows as the square of how
    far the weights are from there.
    """
    return _STEP_SHARE * learning_rate * sqrt(max(distance, 0.0))


def clip_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Shorten in place gradients longer than a tenth of what they move, row by row of a weight (equation 3)."""
    for parameter in parameters:
        if parameter.grad is not None:
            most = _GRADIENT_SHARE * _row_norms(parameter.detach()).clamp_min(_LEAST_NORM)
            norms = _row_norms(parameter.grad).clamp_min(torch.finfo(most.dtype).tiny)
            parameter.grad.mul_((most / norms).clamp_max(1.0))


class Optimizer:
    """The steps of a network's training, whose size rises over the first of them and falls to nothing with the last.

    With a `share` the weights of layers are moved by Muon, by such a share of their norms at the most. Where `clipped`,
    no gradient is longer than a tenth of what it moves.
    """

    def __init__(
        self, network: nn.Module, steps: int, learning_rate: float, share: float | None = None, clipped: bool = False
    ) -> None:
        self._matrices = [] if share is None else [_Matrix(it, share) for it in _matrix_weights(network)]
        in_matrices = {id(it.weight) for it in self._matrices}
        others = [it for it in network.parameters() if id(it) not in in_matrices]
        self._optimizers: list[torch.optim.Optimizer] = []
        if others:
            self._optimizers.append(
                torch.optim.SGD(others, learning_rate, _MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True)
            )
        if self._matrices:
            groups = [it.group for it in self._matrices]
            self._optimizers.append(torch.optim.Muon(groups, momentum=_MOMENTUM, weight_decay=0.0))
        self._network, self._clipped = network, clipped
        self._schedules = [_schedule(it, max(steps, 3)) for it in self._optimizers]

    def step(self, loss: Tensor) -> None:
        """Move the parameters down the loss's gradient."""
        self._network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clipped:
            clip_gradients(self._network.parameters())
        for matrix in self._matrices:
            matrix.read_gradient()
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()

    def state(self) -> list[dict[str, Any]]:
        """Return all that going on needs beside the parameters, as plain tensors and numbers."""
        return [part.state_dict() for part in self._parts()]

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from such a state."""
        for part, state in zip(self._parts(), states, strict=True):
            part.load_state_dict(state)

    def _parts(self) -> list[_HasState]:
        return [*self._optimizers, *self._schedules]


class _Matrix:
    """A layer's weight as torch's Muon wants it: two dimensions, a row an output channel, the same memory.

    `group` is a group of parameters for that optimizer, moved by a `share` of its norm.
    """

    def __init__(self, weight: nn.Parameter, share: float) -> None:
        self.weight = weight
        # Where channels come last in memory, they must in the view.
        self._channels_last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        rows = self._in_memory_order(weight.detach()).view(len(weight), -1)
        self._rows = nn.Parameter(rows)
        # Muon's own step has the norm of the square root of the number of rows, however many columns there are.
        self.group = {"params": [self._rows], "lr": share * float(rows.norm()) / sqrt(len(rows))}

    def read_gradient(self) -> None:
        """Take over the gradient of the weight."""
        gradient = self.weight.grad
        self._rows.grad = None if gradient is None else self._in_memory_order(gradient).reshape(self._rows.shape)

    def _in_memory_order(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(1, -1) if self._channels_last else tensor


def _row_norms(tensor: Tensor) -> Tensor:
    """Return the norms of a tensor's rows, of all of it where it has one dimension, to be broadcast with it."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.dim())) or None, keepdim=True)
    return norms


def _matrix_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that map all inputs of a layer to its outputs; those of grouped convolutions do not."""
    layers = (it for it in network.modules() if isinstance(it, CompressibleLayer) and getattr(it, "groups", 1) == 1)
    weights = {id(weight): weight for it in layers if isinstance(weight := it.weight, nn.Parameter)}
    # A share of nothing would be no step.
    return [it for it in weights.values() if it.requires_grad and it.any()]


def _schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    # A tenth of the steps to rise, but two at least: OneCycleLR divides by zero where a phase has a single step.
    highest = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, steps, pct_start=max(0.1, 2 / steps))
