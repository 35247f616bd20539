"""Samplers: which recipe is tried next. Each is made anew for every trial, so that a search can be resumed."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import optuna
from gulliver.search.guide import Guide
from gulliver.search.proposer import Proposer
from gulliver.search.solving_sampler import SolvingSampler
from gulliver.tasks.errors import InputError


class Sampler(Protocol):
    """Settings from which an Optuna sampler is made; a guided one is given what the sensitivity pass found."""

    guided: ClassVar[bool]

    def make(self, seed: int, guide: Guide | None) -> optuna.samplers.BaseSampler:
        """Return a sampler whose randomness comes from the seed alone."""


@dataclass(frozen=True)
class Solve:
    """Exact solves over the measured sensitivities, then local moves that the trials' scores guide.

    The first `exact_first` trials are solutions from all over the ladder of latencies.
    """

    exact_first: int = 4
    guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.exact_first < 1:
            raise InputError(f"`sampler.exact_first >= 1` must hold, but it is {self.exact_first}")

    def make(self, seed: int, guide: Guide | None) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        assert guide is not None, "a guided sampler is given a guide"
        return SolvingSampler(Proposer(guide, self.exact_first), seed)


@dataclass(frozen=True)
class Tpe:
    """Multivariate tree-structured Parzen estimator (Bergstra et al. 2011; multi-objective: Ozaki et al. 2022)."""

    startup_trials: int = 12
    candidates: int = 24
    guided: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key, least in (("startup_trials", 0), ("candidates", 1)):
            if getattr(self, key) < least:
                raise InputError(f"`sampler.{key} >= {least}` must hold, but it is {getattr(self, key)}")

    def make(self, seed: int, guide: Guide | None = None) -> optuna.samplers.BaseSampler:
        """Return the sampler; pending trials of the batch are taken for bad ones, so that batches spread out."""
        return optuna.samplers.TPESampler(
            n_startup_trials=self.startup_trials,
            n_ei_candidates=self.candidates,
            multivariate=True,
            constant_liar=True,
            seed=seed,
        )


@dataclass(frozen=True)
class Nsga2:
    """The genetic algorithm NSGA-II (Deb et al. 2002)."""

    population: int = 24
    guided: ClassVar[bool] = False

    def __post_init__(self) -> None:
        # Each child has two parents.
        if self.population < 2:
            raise InputError(f"`sampler.population >= 2` must hold, but it is {self.population}")

    def make(self, seed: int, guide: Guide | None = None) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        return optuna.samplers.NSGAIISampler(population_size=self.population, seed=seed)


@dataclass(frozen=True)
class Random:
    """Independent uniform draws."""

    guided: ClassVar[bool] = False

    def make(self, seed: int, guide: Guide | None = None) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        return optuna.samplers.RandomSampler(seed=seed)
