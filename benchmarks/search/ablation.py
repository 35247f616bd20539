"""What each method adds, and joint against staged search: python -m benchmarks.search.ablation.

On the space of exhaustive_truth.py, whose every recipe was scored. Methods are added one by one, the variables of the
others held at rung 0; staged search gives each method a third of the evaluations, one after the other, and fixes what
the recipe of the best score for its time chose before. The gap is that of the whole space, the guide's direct losses
not counted: all rows have them alike.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import optuna
import torch
from gulliver.compressors.compress import read_original
from gulliver.evaluators.factors import Factor, Rungs
from gulliver.search.guide import Guide
from gulliver.search.problem import Problem
from gulliver.search.sensitivity import SensitivitySettings

from benchmarks.record import write_table
from benchmarks.search.digits_truth import StoredDigitsCNN, read_truth
from benchmarks.search.exhaustive_truth import make_case
from benchmarks.search.front_gap import Case, Row, run

EVALUATIONS = 60
SEEDS = 10
STAGES = ("precision", "sparsity", "rank")
# The accuracy that a stage may give up of what the one before had, to be as fast as it can.
STAGE_DROP = 0.01


def restricted(case: Case, methods: Sequence[str], base: Sequence[int], fallback: bool = True) -> Case:
    """Return the case in which only these methods' variables move, the others staying where `base` has them.

    Without `fallback` a layer that has a quantized form is never left in floating point.
    """
    problem = case.guide.problem
    allowed = [
        list(range(1 if method == "precision" and not fallback else 0, size)) if method in methods else [rung]
        for method, size, rung in zip(case.guide.methods, problem.sizes, base, strict=True)
    ]
    smaller = Problem(
        problem.names,
        tuple(len(rungs) for rungs in allowed),
        *(tuple(_slice(it, allowed) for it in factors) for factors in (problem.loss, problem.latency_ms)),
    )
    guide: Guide = replace(case.guide, problem=smaller, solved_again={})
    return replace(case, guide=guide, scores=lambda rungs: case.scores(_rungs(rungs, allowed)))


def _slice(factor: Factor, allowed: Sequence[Sequence[int]]) -> Factor:
    return Factor(factor.variables, factor.table[np.ix_(*(allowed[it] for it in factor.variables))])


def _rungs(rungs: Rungs, allowed: Sequence[Sequence[int]]) -> Rungs:
    return np.stack([np.array(of)[rungs[:, at]] for at, of in enumerate(allowed)], axis=1)


def tried(case: Case, methods: Sequence[str], base: Sequence[int], count: int, seed: int, fallback: bool) -> Rungs:
    """Return shape (count, variables): what a search of these methods tried, as rungs of the whole space."""
    smaller = restricted(case, methods, base, fallback)
    found = run(smaller, "solve", count, seed)
    lowest = [1 if method == "precision" and not fallback and method in methods else 0 for method in case.guide.methods]
    moved = np.array([method in methods for method in case.guide.methods])
    return np.where(moved, found + lowest, np.array(base))


def staged(case: Case, seed: int) -> Rungs:
    """Return what three searches tried, each of one method, each beginning where the one before ended."""
    base = [0] * len(case.guide.problem.names)
    everything = []
    for stage, method in enumerate(STAGES):
        found = tried(case, [method], base, EVALUATIONS // len(STAGES), seed * len(STAGES) + stage, True)
        everything.append(found)
        scores, latencies_ms = case.scores(found), case.guide.problem.latency_ms_of(found)
        good = scores >= scores[0] - STAGE_DROP
        base = found[np.argmin(np.where(good, latencies_ms, np.inf))].tolist()
    return np.concatenate(everything)


def ablation_rows(case: Case) -> list[Row]:
    """Return a row for each set of methods, and for staged search."""
    base = [0] * len(case.guide.problem.names)
    sets = {
        "bits, no fallback": (["precision"], False),
        "bits and fallback": (["precision"], True),
        "bits, sparsity, no fallback": (["precision", "sparsity"], False),
        "bits, sparsity, rank, no fallback": (["precision", "sparsity", "rank"], False),
        "bits, sparsity, rank and fallback: joint": (["precision", "sparsity", "rank"], True),
    }
    made = []
    for name, (methods, fallback) in sets.items():
        found = [tried(case, methods, base, EVALUATIONS, seed, fallback) for seed in range(SEEDS)]
        made.append(_row(case, name, found))
    return [*made, _row(case, "bits, then sparsity, then rank: staged", [staged(case, seed) for seed in range(SEEDS)])]


def _row(case: Case, name: str, found: Sequence[Rungs]) -> Row:
    low, middle, high = np.percentile([case.gap(it) for it in found], (25, 50, 75)).round(4).tolist()
    return Row(case.name, name, EVALUATIONS, False, len(found), middle, low, high)


def main() -> None:
    """Run the ablation and write benchmarks/results/ablation.csv."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    case = make_case(read_original(StoredDigitsCNN()), read_truth(), SensitivitySettings("direct", pairs=12), 0)
    write_table("ablation", ablation_rows(case), {name: version(name) for name in ("optuna", "torch", "numpy")})


if __name__ == "__main__":
    main()
