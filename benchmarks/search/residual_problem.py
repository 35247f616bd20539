"""A synthetic search over a residual network: tied channels, and a precision and a rank for every layer.

Each stage has one group of channels that all its blocks add to, each block a group of inner channels between its two
layers. A layer's time depends on the channels that it reads and writes, its precision and its rank; a change of
precision costs time on the way to the next layer and around a block, and loss where neighbouring layers interact.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
from gulliver.evaluators.factors import Costs, Factor
from gulliver.search.problem import Problem

STAGES, BLOCKS_PER_STAGE, LAYERS_PER_BLOCK = 5, 5, 2
KEPT_SHARES = (1.0, 0.88, 0.76, 0.64, 0.52, 0.4)
PRECISION_TIME = (1.0, 0.5, 0.3)
PRECISION_LOSS = (0.0, 0.05, 1.0)
RANK_TIME = (1.0, 0.8, 0.65)
RANK_LOSS = (0.0, 0.2, 1.0)
# Relative to the layer's time; and in units of the median sensitivity.
BOUNDARY_SHARE, INTERACTION = 0.1, 0.2


@dataclass(frozen=True)
class _Draft:
    """A problem as it grows."""

    random: np.random.Generator
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    loss: list[Factor] = field(default_factory=list)
    latency_ms: list[Factor] = field(default_factory=list)

    def variable(self, name: str, losses: Costs) -> int:
        """Add a variable whose sensitivity is drawn, and return its index."""
        self.names.append(name)
        self.sizes.append(len(losses))
        self.loss.append(Factor((len(self.names) - 1,), self.random.lognormal(0.0, 1.0) * losses))
        return len(self.names) - 1


@dataclass(frozen=True)
class _Layer:
    """Variables of one layer."""

    inputs: int
    outputs: int
    precision: int
    rank: int


def residual_problem(seed: int) -> Problem:
    """Draw a network of STAGES * BLOCKS_PER_STAGE blocks of two layers."""
    draft = _Draft(np.random.default_rng(seed))
    kept_loss = 3 * (1 - np.array(KEPT_SHARES)) ** 2
    stages = [draft.variable(f"stage{stage}", kept_loss) for stage in range(STAGES)]
    layers: list[_Layer] = []
    for at in range(STAGES * BLOCKS_PER_STAGE):
        inner = draft.variable(f"block{at}.inner", kept_loss)
        stage = stages[at // BLOCKS_PER_STAGE]
        layers += [_layer(draft, f"block{at}.0", stages[max(at - 1, 0) // BLOCKS_PER_STAGE], inner)]
        layers += [_layer(draft, f"block{at}.1", inner, stage)]
    for before, after in itertools.pairwise(layers):
        _boundary(draft, before, after)
        interaction = INTERACTION * draft.random.uniform(-1, 1) * np.outer(PRECISION_LOSS, PRECISION_LOSS)
        draft.loss.append(Factor((before.precision, after.precision), interaction))
    # Around a block: what its first layer reads is added to what its second layer writes.
    for before, after in itertools.pairwise(layers[1::2]):
        _boundary(draft, before, after)
    return Problem(tuple(draft.names), tuple(draft.sizes), tuple(draft.loss), tuple(draft.latency_ms))


def _layer(draft: _Draft, name: str, inputs: int, outputs: int) -> _Layer:
    precision = draft.variable(f"{name}.precision", np.array(PRECISION_LOSS))
    rank = draft.variable(f"{name}.rank", np.array(RANK_LOSS))
    time = np.einsum("a,b,c,d->abcd", KEPT_SHARES, KEPT_SHARES, PRECISION_TIME, RANK_TIME)
    time *= draft.random.lognormal(0.0, 0.5) * draft.random.lognormal(0.0, 0.1, time.shape)
    draft.latency_ms.append(Factor((inputs, outputs, precision, rank), time))
    return _Layer(inputs, outputs, precision, rank)


def _boundary(draft: _Draft, before: _Layer, after: _Layer) -> None:
    cost = BOUNDARY_SHARE * draft.random.lognormal(0.0, 0.5)
    table = cost * np.einsum("a,bc->abc", KEPT_SHARES, 1 - np.eye(len(PRECISION_TIME)))
    draft.latency_ms.append(Factor((before.outputs, before.precision, after.precision), table))
