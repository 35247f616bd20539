"""What one trial costs beside its scoring: python -m benchmarks.search.proposal_speed.

CPU and wall-clock milliseconds, medians and the quartiles of CPU time, on a chain of 150 groups of 4 choices
(benchmarks/search/chain_problem.py):

- propose: `Proposer.propose` after so many scored trials, half of them random and half moves of the first ladder;
- propose and read trials: the same through Optuna's sampler, which reads all trials of a study in memory first;
- propose and solve again: where the number of trials has doubled, a proposal waits for a new ladder, once;
- price: the modelled latency of one recipe, from its tables;
- ask and tell: a random trial of search/study.py, of about as many choices, scored at no cost;
- journal and MLflow: what is written of a trial before it is told, and after;
- trial, all in: from one logged trial of the default sampler to the next in a search of so many trials, scored at no
  cost: the proposal, the study on the disk, the journal, the front and its area, and MLflow;
- trial, beside its scoring: the same while MLflow's thread works; CPU time of the search's own thread, scoring taken
  off.

Waits for the disk are in the wall-clock time alone. Writes benchmarks/results/proposal_speed.csv.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from gulliver.evaluators.factors import Factor
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.guide import Guide
from gulliver.search.history import History
from gulliver.search.journal import Journal, Scores
from gulliver.search.metrics import Progress, progress_of
from gulliver.search.moves import Neighbourhood, all_moves
from gulliver.search.problem import Problem
from gulliver.search.proposer import EXACT_SOLVE, Proposer
from gulliver.search.samplers import Random
from gulliver.search.settings import SearchSettings
from gulliver.search.solving_sampler import PROPOSED_BY, SolvingSampler
from gulliver.search.study import Candidate, Study, open_study
from gulliver.search.tracking import Tracker, TrackingSettings
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space, untouched
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from torch import nn

from benchmarks.record import write_table
from benchmarks.search.chain_problem import chain_problem

VARIABLES, CHOICES = 150, 4
# Odd, since after even numbers a proposal may be a step of the ladder, which costs nothing.
TRIALS = (13, 101, 1001)
REPEATS, STORED = 15, 20
# What else the machine does comes and goes within a second or two.
ALL_IN = 100
# Of matrix products, which hold no lock. A recipe of 150 groups takes longer on a tenth of a search split.
SCORING_S = 0.1
Step = Callable[[int], Any]


@dataclass(frozen=True)
class Result:
    """One line of the table: medians of the repeats, and how far a shared machine spreads them."""

    step: str
    variables: int
    trials: int
    repeats: int
    cpu_ms: float
    cpu_ms_lower_quartile: float
    cpu_ms_upper_quartile: float
    wall_ms: float


def measure(name: str, trials: int, repeats: int, step: Step) -> Result:
    """Return the median times of `step`, which is given the number of the repeat."""
    times = []
    for repeat in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        step(repeat)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return summary_of(name, VARIABLES, trials, np.array(times))


def proposing() -> Iterator[Result]:
    """Yield the lines of the proposer."""
    chain = chain_problem(VARIABLES, CHOICES, seed=0)
    guide = Guide(chain.known, tuple(range(VARIABLES)), 1.0, 0.5, 10.0)
    proposer = Proposer(guide)
    rungs = make_rungs(guide, TRIALS[-1])
    scores = chain.accuracy(rungs)
    for trials in TRIALS:
        history = History(rungs[:trials], scores[:trials])

        def propose(repeat: int, history: History = history) -> None:
            # A new history each time, as a sampler makes it: nothing is known of it yet.
            proposer.propose(replace(history), proposer.exact_first, np.random.default_rng(repeat))

        def solve_again(repeat: int, propose: Step = propose) -> None:
            guide.solved_again.clear()
            propose(repeat)

        yield measure("propose and solve again", trials, 3, solve_again)
        yield measure("propose", trials, REPEATS, propose)
    study = study_in_memory(guide, rungs, scores)
    trial, sampler = study.ask(), SolvingSampler(proposer, seed=0)
    frozen = study.get_trials(deepcopy=False)[trial.number]
    space = sampler.infer_relative_search_space(study, frozen)
    yield measure(
        "propose and read trials", TRIALS[-1], REPEATS, lambda repeat: sampler.sample_relative(study, frozen, space)
    )
    yield measure("price", 0, 200, lambda repeat: guide.problem.latency_ms_of(rungs[repeat : repeat + 1]))


def make_rungs(guide: Guide, count: int) -> Any:
    """Return shape (count, variables): random recipes and moves of the ladder's, in turn."""
    random = np.random.default_rng(0)
    ladder = np.array([it.rungs for it in guide.ladder])
    moved, _ = all_moves(Neighbourhood(guide.problem.sizes, guide.positions), ladder, count, random)
    drawn = random.integers(0, CHOICES, (count, VARIABLES))
    return np.where(np.arange(count)[:, None] % 2, drawn, random.permutation(moved)[:count])


def study_in_memory(guide: Guide, rungs: Any, scores: Any) -> optuna.Study:
    """Return a study whose trials these are."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    problem = guide.problem
    latencies_ms = problem.latency_ms_of(rungs)
    distributions = {
        name: optuna.distributions.IntDistribution(0, size - 1)
        for name, size in zip(problem.names, problem.sizes, strict=True)
    }
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=dict(zip(problem.names, row.tolist(), strict=True)),
                distributions=distributions,
                values=[float(score), float(latency_ms)],
                user_attrs={PROPOSED_BY: EXACT_SOLVE},
            )
            for row, score, latency_ms in zip(rungs, scores, latencies_ms, strict=True)
        ]
    )
    return study


class Chain(nn.Module):
    """Layers of which each has a precision, and all but the ends a rank and channels to remove."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(layers)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return a map of the shape of the images."""
        features: torch.Tensor = self.layers(images)
        return features


def make_space() -> Space:
    """Return a space of 150 choices."""
    graph = trace(Chain(VARIABLES // 3).eval(), (torch.zeros(1, 32, 4, 4),))
    space = Space(graph, CpuOpenvino().capabilities, SpaceOptions(ranks=(0.5,)))
    assert VARIABLES - 3 <= len(space.dimensions) <= VARIABLES
    return space


def storing(folder: Path) -> Iterator[Result]:
    """Yield the lines of the study, the journal and MLflow."""
    space = make_space()
    settings = SearchSettings(trials=STORED, batch=1, sampler=Random())
    scores = Scores(0.9, 5.0, 1000.0)
    journal = Journal(folder / "scores.jsonl")

    def score(recipe: Recipe) -> Scores:
        return scores

    study = open_study(folder / "study.log", space, settings, journal, score, lambda scores: {"max_drop": -0.1})
    yield ask_and_tell(study)
    recipe = untouched(space.graph)
    yield measure("journal", 0, STORED, lambda repeat: journal.add(f"other{repeat}", scores))
    tracker = Tracker(TrackingSettings(), folder / "out")
    tracker.start("speed", {"trials": STORED})
    summary = {"hypervolume": 0.5, "front_size": 10.0, "fastest_latency_ms": 2.0}

    def log(repeat: int) -> None:
        tracker.log_trial(Candidate(repeat, recipe, scores, 0.0, "test"), summary)
        tracker.wait()

    yield measure("mlflow", 0, STORED, log)


def ask_and_tell(study: Study) -> Result:
    """Return the time from one told trial to the next."""
    told: list[tuple[float, float]] = []
    study.run(lambda candidate: told.append((time.process_time(), time.perf_counter())))
    return medians("ask and tell", len(study.space.dimensions), STORED, told)


def medians(step: str, variables: int, trials: int, times: list[tuple[float, float]]) -> Result:
    """Return the medians of what passed between these times, CPU and wall-clock."""
    return summary_of(step, variables, trials, np.diff(times, axis=0))


def summary_of(step: str, variables: int, trials: int, times_s: Any) -> Result:
    """Return the medians of times of shape (repeats, 2), CPU and wall-clock, with the quartiles of the first."""
    lower, cpu_ms, upper = (1e3 * np.quantile(times_s[:, 0], (0.25, 0.5, 0.75))).round(3).tolist()
    wall_ms = round(1e3 * float(np.median(times_s[:, 1])), 3)
    return Result(step, variables, trials, len(times_s), cpu_ms, lower, upper, wall_ms)


@dataclass
class Log:
    """Logs trials as a search does."""

    tracker: Tracker
    progress: Progress

    def add(self, candidate: Candidate) -> None:
        """Log one trial more."""
        self.progress = self.progress.after(candidate)
        self.tracker.log_trial(candidate, self.progress.metrics(baseline_accuracy=1.0))


def searching(folder: Path) -> Iterator[Result]:
    """Yield the lines of a search that has made TRIALS[-1] trials."""
    space = make_space()
    guide = Guide(make_problem(space), tuple(range(len(space.dimensions))), 1.0, 0.5, 10.0)
    settings = SearchSettings(trials=TRIALS[-1], batch=1)
    journal, tracker = Journal(folder / "scores.jsonl"), Tracker(TrackingSettings(), folder / "out")
    study = open_study(folder / "study.log", space, settings, journal, score_of, lambda scores: {}, guide)
    study.run(lambda candidate: None)
    tracker.start("speed", {"trials": TRIALS[-1]})
    log = Log(tracker, progress_of(study.candidates(), settings.objectives))
    yield all_in(longer(study), log)
    yield beside_scoring(longer(study), log)


def longer(study: Study) -> Study:
    """Return the study with ALL_IN trials to make."""
    return replace(study, settings=replace(study.settings, trials=len(study.candidates()) + ALL_IN))


def all_in(study: Study, log: Log) -> Result:
    """Return the time from one logged trial to the next."""
    trials, times = len(study.candidates()), []

    def told(candidate: Candidate) -> None:
        log.add(candidate)
        log.tracker.wait()
        times.append((time.process_time(), time.perf_counter()))

    study.run(told)
    return medians("trial, all in", len(study.space.dimensions), trials, times)


def beside_scoring(study: Study, log: Log) -> Result:
    """Return the time from one trial that is told to the next, less what scoring takes; CPU time of this thread."""
    trials, times, scoring_s, matrix = len(study.candidates()), [], np.zeros(2), torch.rand(1024, 1024)

    def score_slowly(recipe: Recipe) -> Scores:
        begun_s = own_times_s()
        while time.perf_counter() < begun_s[1] + SCORING_S:
            matrix @ matrix
        scoring_s[:] += own_times_s() - begun_s
        return score_of(recipe)

    def told(candidate: Candidate) -> None:
        log.add(candidate)
        times.append(tuple(own_times_s() - scoring_s))

    replace(study, score=score_slowly).run(told)
    return medians("trial, beside its scoring", len(study.space.dimensions), trials, times)


def own_times_s() -> Any:
    """Return shape (2,): this thread's CPU time, and the wall-clock's."""
    return np.array([time.thread_time(), time.perf_counter()])


def make_problem(space: Space) -> Problem:
    """Return losses and latencies of a space's rungs: each dimension's own, and latencies where neighbours differ."""
    random = np.random.default_rng(0)
    sizes = tuple(it.rungs for it in space.dimensions)
    shares = [np.arange(size) / (size - 1) for size in sizes]
    losses, times_ms = random.lognormal(-6.0, 1.0, len(sizes)), random.lognormal(0.0, 0.5, len(sizes))
    times_ms *= 10.0 / times_ms.sum()
    loss = tuple(Factor((at,), losses[at] * share**2) for at, share in enumerate(shares))
    alone = tuple(Factor((at,), times_ms[at] * (1 - 0.6 * share)) for at, share in enumerate(shares))
    between = tuple(
        Factor((at, at + 1), 0.005 * np.abs(np.subtract.outer(shares[at], shares[at + 1])))
        for at in range(len(sizes) - 1)
    )
    return Problem(tuple(it.name for it in space.dimensions), sizes, loss, alone + between)


def score_of(recipe: Recipe) -> Scores:
    """Return scores that cost nothing: every choice of a layer saves time and costs accuracy, each its own share."""
    lost = saved = 0.0
    for at, layer in enumerate(recipe.layers.values()):
        removed = layer.sparsify.ratio if layer.sparsify else 0.0
        bits = layer.quantize.weight_bits if layer.quantize else 16
        saved += 0.5 * removed + 0.02 * (16 - bits) + 0.1 * (layer.decompose is not None)
        lost += (1 + at % 7) * (0.2 * removed**2 + (16 - bits) ** 2 / 5000 + 0.03 * (layer.decompose is not None))
    return Scores(float(np.exp(-lost / 50)), 10.0 - 0.15 * saved, 1000.0)


def results() -> Iterator[Result]:
    """Yield the table's lines."""
    yield from proposing()
    with tempfile.TemporaryDirectory() as folder:
        yield from storing(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from searching(Path(folder))


def main() -> None:
    """Measure everything and write the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("numpy", "scipy", "optuna", "mlflow")}
    write_table("proposal_speed", list(results()), versions)


if __name__ == "__main__":
    main()
