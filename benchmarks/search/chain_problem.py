"""Synthetic searches of known truth: a chain of groups, each with choices of precision and kept share.

The true loss has what a search does not measure one by one, interactions of neighbours; what a search is given has
sensitivities with measurement noise, no interactions, and the exact latencies. Losses are additive up to interactions
of at most INTERACTION_SHARE of the geometric mean of both neighbours' losses, so that no loss is negative. Latencies
are kernel times by choice plus a boundary cost where neighbours' precisions differ.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gulliver.evaluators.factors import Costs, Factor, Rungs
from gulliver.search.problem import Problem
from gulliver.search.solve import Solution, pareto

# Time relative to float, and loss relative to the group's sensitivity to quantization, by precision.
PRECISION_TIME = {"float": 1.0, "int8": 0.5, "int4": 0.3}
PRECISION_LOSS = {"float": 0.0, "int8": 0.05, "int4": 1.0}
LEAST_KEPT = 0.3
# Part of a kernel's time that pruning does not save.
FIXED_TIME = 0.15
# Lognormal spreads (of the natural logarithm): between groups, between a group's own kernels, of measured losses.
SENSITIVITY_SIGMA, TIME_SIGMA, KERNEL_SIGMA, MEASUREMENT_SIGMA = 1.0, 0.7, 0.1, 0.3
INTERACTION_SHARE = 0.5
# Boundary costs relative to the mean float time of both neighbours.
LEAST_BOUNDARY, MOST_BOUNDARY = 0.02, 0.2
# With every group in float, and with every group at its most lossy choice, before interactions.
FLOAT_LATENCY_MS, GREATEST_LOSS = 10.0, 3.0


class Choice(NamedTuple):
    """One rung of every group."""

    precision: str
    kept: float


@dataclass(frozen=True)
class ChainProblem:
    """What a search is given, the truth that scores it, and the choice at each rung."""

    choices: tuple[Choice, ...]
    known: Problem
    truth: Problem

    def accuracy(self, rungs: Rungs) -> Costs:
        """Return shape (recipes,): the true accuracy, exp(-loss), of rungs of shape (recipes, groups)."""
        return np.exp(-self.truth.loss_of(rungs))


def chain_problem(groups: int, choices: int, seed: int) -> ChainProblem:
    """Draw a problem of 4 choices (float, int8, int8 of half the channels, int4) or of a multiple of 3.

    A multiple of 3 is every precision at evenly spaced kept shares from 1 down to LEAST_KEPT.
    """
    random = np.random.default_rng(seed)
    ladder = make_choices(choices)
    losses = _draw_losses(random, groups, ladder)
    noise = random.lognormal(0.0, MEASUREMENT_SIGMA, losses.shape)
    interactions = _draw_interactions(random, losses)
    latency = _draw_latencies(random, groups, ladder)
    names, sizes = tuple(f"group{at}" for at in range(groups)), (choices,) * groups
    return ChainProblem(
        choices=ladder,
        known=Problem(names, sizes, _single(losses * noise), latency),
        truth=Problem(names, sizes, (*_single(losses), *interactions), latency),
    )


def make_choices(count: int) -> tuple[Choice, ...]:
    """Return the choices from the least compressed; raises ValueError where there is no such number of them."""
    if count == 4:
        return Choice("float", 1.0), Choice("int8", 1.0), Choice("int8", 0.5), Choice("int4", 1.0)
    if count < 3 or count % 3:
        raise ValueError(f"the number of choices must be 4 or a multiple of 3, but is {count}")
    shares = np.linspace(1.0, LEAST_KEPT, count // 3)
    return tuple(Choice(precision, float(kept)) for precision in PRECISION_TIME for kept in shares)


def best_known_front(truth: Problem, budgets: int = 200) -> tuple[Solution, ...]:
    """Return the solutions of a dense ladder of budgets on the true loss, by rising latency."""
    return pareto(truth, budgets)


def _draw_losses(random: np.random.Generator, groups: int, choices: tuple[Choice, ...]) -> Costs:
    """Return shape (groups, choices): heavy-tailed between groups, growing with compression in each."""
    quantized = np.array([PRECISION_LOSS[choice.precision] for choice in choices])
    removed = np.array([(1 - choice.kept) ** 2 for choice in choices])
    sensitivity = random.lognormal(0.0, SENSITIVITY_SIGMA, (2, groups, 1))
    losses: Costs = sensitivity[0] * quantized + sensitivity[1] * removed
    return losses * GREATEST_LOSS / losses.max(axis=1).sum()


def _draw_interactions(random: np.random.Generator, losses: Costs) -> list[Factor]:
    shares = random.uniform(-INTERACTION_SHARE, INTERACTION_SHARE, len(losses) - 1)
    return [
        Factor((at, at + 1), share * np.sqrt(np.outer(losses[at], losses[at + 1]))) for at, share in enumerate(shares)
    ]


def _draw_latencies(random: np.random.Generator, groups: int, choices: tuple[Choice, ...]) -> tuple[Factor, ...]:
    saved = np.array([PRECISION_TIME[it.precision] * (FIXED_TIME + (1 - FIXED_TIME) * it.kept) for it in choices])
    times = random.lognormal(0.0, TIME_SIGMA, (groups, 1)) * saved
    times[:, 1:] *= random.lognormal(0.0, KERNEL_SIGMA, times[:, 1:].shape)
    times *= FLOAT_LATENCY_MS / times[:, 0].sum()
    precision = np.array([choice.precision for choice in choices])
    differs = precision[:, None] != precision[None]
    costs = random.uniform(LEAST_BOUNDARY, MOST_BOUNDARY, groups - 1) * (times[:-1, 0] + times[1:, 0]) / 2
    return (*_single(times), *(Factor((at, at + 1), cost * differs) for at, cost in enumerate(costs)))


def _single(tables: Costs) -> tuple[Factor, ...]:
    return tuple(Factor((at,), table) for at, table in enumerate(tables))
