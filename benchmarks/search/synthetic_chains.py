"""Samplers on synthetic chains of 60 and 200 groups: python -m benchmarks.search.synthetic_chains.

The problems are those of chain_problem.py, drawn with seeds 0, 1 and 2. What a search is given, measured losses with
noise and without the neighbours' interactions, is not counted as evaluations: for 60 groups of 4 choices it is 180
short ones, or one backward pass. The best known front is the exact solve of the true losses.
"""

from importlib.metadata import version

import numpy as np
import optuna
from gulliver.search.guide import Guide

from benchmarks.record import write_table
from benchmarks.search.chain_problem import best_known_front, chain_problem
from benchmarks.search.front_gap import Case, Row, exact_solve_rows, rows

LENGTHS = (60, 200)
EVALUATIONS = (20, 40, 60, 100, 200, 1000)
CHOICES = 4
PROBLEMS = 3
# The true losses of all groups at their most lossy choice are 3 in all.
LOWEST_SCORE = float(np.exp(-3.0))


def chain_case(groups: int, seed: int) -> Case:
    """Return the case of one chain."""
    problem = chain_problem(groups, CHOICES, seed)
    untouched = np.zeros((1, groups), dtype=np.intp)
    slowest_ms = float(problem.truth.latency_ms_of(untouched)[0])
    guide = Guide(problem.known, tuple(range(groups)), 1.0, LOWEST_SCORE, slowest_ms)
    best = [(it.latency_ms, float(np.exp(-it.loss))) for it in best_known_front(problem.truth)]
    return Case(f"chain {groups}x{CHOICES}, problem {seed}", guide, problem.accuracy, best, groups * (CHOICES - 1))


def chain_rows(groups: int, seed: int) -> list[Row]:
    """Return the rows of all samplers on one chain; those that fit a model only as far as they take minutes."""
    case = chain_case(groups, seed)
    short, shorter = EVALUATIONS[:-1], EVALUATIONS[:-2]
    made = rows(case, "solve", short, False, 1) + exact_solve_rows(case, shorter, False)
    made += rows(case, "nsga2", EVALUATIONS, False, 1) + rows(case, "random", EVALUATIONS, False, 1)
    return made + rows(case, "tpe", shorter, False, 1)


def main() -> None:
    """Run all chains and write benchmarks/results/synthetic_chains.csv."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = [row for groups in LENGTHS for seed in range(PROBLEMS) for row in chain_rows(groups, seed)]
    write_table("synthetic_chains", made, {name: version(name) for name in ("optuna", "numpy", "scipy")})


if __name__ == "__main__":
    main()
