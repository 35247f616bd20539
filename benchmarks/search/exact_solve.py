"""How long the exact solve of a ladder of budgets takes, and how far from the least loss it may be.

python -m benchmarks.search.exact_solve solves chains with interactions and boundary costs (chain_problem.py) and a
residual network (residual_problem.py) for BUDGETS budgets at once, with OMP_NUM_THREADS=1. The gap is how far the loss
is above the solver's own lower bound, relative to the loss. The mixed-integer program, which is for wider frontiers
than these, solves one of the short chains too. Writes benchmarks/results/exact_solve.csv.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from gulliver.search.assignment import Assignment
from gulliver.search.dynamic_program import dynamic_program
from gulliver.search.elimination import elimination_order, frontier_size
from gulliver.search.integer_program import integer_program
from gulliver.search.problem import Problem
from gulliver.search.solve import ladder

from benchmarks.record import write_table
from benchmarks.search.chain_problem import chain_problem
from benchmarks.search.residual_problem import residual_problem

BUDGETS = 24
SEEDS = (0, 1, 2)
SECONDS_A_BUDGET = 20.0
PROVEN = 1e-9
Solver = Callable[[Problem, Sequence[float]], tuple[Assignment | None, ...]]


@dataclass(frozen=True)
class Result:
    """One line of the table: one solver on one problem, all budgets."""

    problem: str
    seed: int
    solver: str
    variables: int
    frontier_cells: int
    budgets: int
    cpu_s: float
    mean_gap_percent: float
    worst_gap_percent: float
    proven_optimal: int


def by_dynamic_program(problem: Problem, budgets_ms: Sequence[float]) -> tuple[Assignment | None, ...]:
    """Choose the order and solve."""
    return dynamic_program(problem, budgets_ms, elimination_order(problem))


def by_integer_program(problem: Problem, budgets_ms: Sequence[float]) -> tuple[Assignment | None, ...]:
    """Solve within the time limit."""
    return integer_program(problem, budgets_ms, SECONDS_A_BUDGET)


def measure(name: str, seed: int, problem: Problem, solver_name: str, solver: Solver) -> Result:
    """Solve the whole ladder once."""
    budgets_ms = ladder(problem, BUDGETS)
    start = time.process_time()
    found = solver(problem, budgets_ms)
    seconds = time.process_time() - start
    gaps = [relative_gap(problem, assignment) for assignment in found]
    return Result(
        problem=name,
        seed=seed,
        solver=solver_name,
        variables=len(problem.sizes),
        frontier_cells=frontier_size(problem, elimination_order(problem)),
        budgets=BUDGETS,
        cpu_s=round(seconds, 2),
        mean_gap_percent=round(100 * float(np.mean(gaps)), 5),
        worst_gap_percent=round(100 * max(gaps), 5),
        proven_optimal=sum(bool(gap <= PROVEN) for gap in gaps),
    )


def relative_gap(problem: Problem, assignment: Assignment | None) -> float:
    """Return how much of the loss could be saved at most; 0 of no loss, infinite if nothing was found."""
    if assignment is None:
        return float("inf")
    loss = float(problem.loss_of(np.array([assignment.rungs]))[0])
    return 0.0 if loss == assignment.lower_bound else (loss - assignment.lower_bound) / abs(loss)


def results() -> Iterator[Result]:
    """Yield the table's lines."""
    for seed in SEEDS:
        chains = {f"chain {n}x{k}": chain_problem(n, k, seed).truth for n, k in ((60, 4), (200, 4), (200, 24))}
        for name, problem in {**chains, "residual, 50 layers": residual_problem(seed)}.items():
            yield measure(name, seed, problem, "dynamic program", by_dynamic_program)
    short = chain_problem(60, 4, SEEDS[0]).truth
    yield measure("chain 60x4", SEEDS[0], short, "mixed-integer program", by_integer_program)


def main() -> None:
    """Measure everything and write the table."""
    write_table("exact_solve", list(results()), {"numpy": version("numpy"), "scipy": version("scipy")})


if __name__ == "__main__":
    main()
