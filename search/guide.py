"""What is known before the first trial: the problem with its predicted losses, and which scores count."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from gulliver.evaluators.factors import Costs, Factor, Rungs, TableSum
from gulliver.search.correction import Likeness
from gulliver.search.problem import Problem
from gulliver.search.solve import Solution, pareto

_LADDER = 48


@dataclass(frozen=True)
class Guide:
    """A problem to solve again and again, and the corner of the objectives that a front is measured from.

    `positions` order the variables as the network runs; `original_score` is that of the untouched network, and
    scores below `lowest_score` or latencies above `highest_latency_ms` count for nothing. `score_index` says which of
    the study's objectives is the score. `solved_again` keeps what is solved, by the scores and keys of the trials that
    it is solved for, and `priced` the latencies of tried recipes by their keys.
    """

    problem: Problem
    positions: tuple[int, ...]
    original_score: float
    lowest_score: float
    highest_latency_ms: float
    score_index: int = 0
    solved_again: dict[tuple[bytes, ...], tuple[Solution, ...]] = field(default_factory=dict, repr=False)
    priced: dict[bytes, float] = field(default_factory=dict, repr=False)

    @cached_property
    def ladder(self) -> tuple[Solution, ...]:
        """The recipes of least predicted loss for many latencies, fastest first."""
        return pareto(self.problem, _LADDER)

    def latencies_ms_of(self, rungs: Rungs, keys: Sequence[bytes]) -> Costs:
        """Return shape (recipes,): the modelled latencies, looked up once for each recipe that has this key."""
        new = [place for place, key in enumerate(keys) if key not in self.priced]
        self.priced.update(zip([keys[it] for it in new], self.problem.latency_ms_of(rungs[new]).tolist(), strict=True))
        return np.array([self.priced[key] for key in keys], dtype=float)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Each variable's method: what its name says before the slash, nothing where there is none."""
        return tuple(name.rpartition("/")[0] for name in self.problem.names)

    def methods_of(self, factor: Factor) -> tuple[str, ...]:
        """Return the methods that cause the factor's losses, each once."""
        return tuple(sorted({self.methods[it] for it in factor.variables}))

    def losses_by_method(self, rungs: Rungs) -> tuple[tuple[tuple[str, ...], Costs], ...]:
        """Return the predicted losses of shape (recipes,), those of factors over the same methods added up."""
        return tuple((methods, tables.at(rungs)) for methods, tables in self._tables_by_method.items())

    @cached_property
    def _tables_by_method(self) -> dict[tuple[str, ...], TableSum]:
        factors: dict[tuple[str, ...], list[Factor]] = defaultdict(list)
        for factor in self.problem.loss:
            factors[self.methods_of(factor)].append(factor)
        return {methods: TableSum(some) for methods, some in sorted(factors.items())}

    @cached_property
    def rung_losses(self) -> tuple[Costs, ...]:
        """For each variable, the predicted loss of each of its rungs alone."""
        losses = [np.zeros(size) for size in self.problem.sizes]
        for factor in self.problem.loss:
            if len(factor.variables) == 1:
                losses[factor.variables[0]] = losses[factor.variables[0]] + factor.table
        return tuple(losses)

    @cached_property
    def likeness(self) -> Likeness:
        """How alike recipes are, by the losses of each variable's rungs."""
        return Likeness(self.rung_losses)


def as_rungs(solutions: Sequence[Solution]) -> Rungs:
    """Return shape (solutions, variables): the rungs of all solutions."""
    return np.array([it.rungs for it in solutions], dtype=np.intp)
