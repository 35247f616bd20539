"""Samplers: which recipe is tried next. Each is made anew for every trial, so that a search can be resumed."""

from dataclasses import dataclass
from typing import Protocol

import optuna


class Sampler(Protocol):
    """Settings from which an Optuna sampler is made."""

    def make(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a sampler whose randomness comes from the seed alone."""


@dataclass(frozen=True)
class Tpe:
    """Multivariate tree-structured Parzen estimator (Bergstra et al. 2011; multi-objective: Ozaki et al. 2022)."""

    startup_trials: int = 12
    candidates: int = 24

    def make(self, seed: int) -> optuna.samplers.BaseSampler:
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

    def make(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        return optuna.samplers.NSGAIISampler(population_size=self.population, seed=seed)


@dataclass(frozen=True)
class Random:
    """Independent uniform draws."""

    def make(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        return optuna.samplers.RandomSampler(seed=seed)
