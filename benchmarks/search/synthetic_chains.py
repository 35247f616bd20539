"""Samplers on synthetic chains of 60 and 200 groups: python -m benchmarks.search.synthetic_chains [--samplers solve].

The problems are those of chain_problem.py, drawn with seeds 0, 1 and 2. What a search is given, measured losses with
noise and without the neighbours' interactions, is not counted as evaluations: for 60 groups of 4 choices it is 180
short ones, or one backward pass. The best known front is the exact solve of the true losses.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
import optuna
from gulliver.search.guide import Guide

from benchmarks.record import names_among, write_table
from benchmarks.search.chain_problem import best_known_front, chain_problem
from benchmarks.search.front_gap import Case, Row, exact_solve_rows, rows

LENGTHS = (60, 200)
EVALUATIONS = (20, 40, 60, 100, 200, 1000)
EXACT_ALONE = "exact solve alone"
# After how many evaluations each is looked at; those that fit a model of every recipe only as far as they take minutes.
SAMPLERS: Mapping[str, Sequence[int]] = {
    "solve": EVALUATIONS,
    EXACT_ALONE: EVALUATIONS[:-2],
    "nsga2": EVALUATIONS,
    "random": EVALUATIONS,
    "tpe": EVALUATIONS[:-2],
}
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


def chain_rows(groups: int, seed: int, samplers: Sequence[str]) -> list[Row]:
    """Return the rows of the samplers on one chain."""
    case = chain_case(groups, seed)
    return [
        row
        for sampler in samplers
        for row in (
            exact_solve_rows(case, SAMPLERS[sampler], False)
            if sampler == EXACT_ALONE
            else rows(case, sampler, SAMPLERS[sampler], False, 1)
        )
    ]


def main() -> None:
    """Run all chains, and write benchmarks/results/synthetic_chains.csv; rows of samplers that are left out stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", type=names_among(SAMPLERS), default=list(SAMPLERS), help=",".join(SAMPLERS))
    samplers = parser.parse_args().samplers
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = [row for groups in LENGTHS for seed in range(PROBLEMS) for row in chain_rows(groups, seed, samplers)]
    versions = {name: version(name) for name in ("optuna", "numpy", "scipy")}
    write_table("synthetic_chains", made, versions, key=("case", "sampler"))


if __name__ == "__main__":
    main()
