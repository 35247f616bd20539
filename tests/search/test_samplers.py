import optuna
import pytest
from gulliver.search.samplers import Nsga2, Random, Solve, Tpe
from gulliver.search.settings import SearchSettings
from gulliver.search.solving_sampler import SolvingSampler
from gulliver.tasks.errors import InputError


@pytest.mark.parametrize(
    ("sampler", "made"),
    [
        (Tpe(), optuna.samplers.TPESampler),
        (Nsga2(), optuna.samplers.NSGAIISampler),
        (Random(), optuna.samplers.RandomSampler),
    ],
)
def test_an_unguided_sampler_is_optunas_and_needs_no_guide(sampler, made):
    assert isinstance(sampler.make(seed=0, guide=None), made)
    assert not sampler.guided


def test_a_guided_sampler_is_given_the_guide(guide):
    assert isinstance(Solve().make(seed=0, guide=guide), SolvingSampler)
    assert Solve.guided


def test_a_search_must_begin_with_an_exact_solution():
    with pytest.raises(InputError, match=r"`sampler\.exact_first >= 1` must hold, but it is 0"):
        Solve(exact_first=0)


@pytest.mark.parametrize(
    ("sampler", "setting", "message"),
    [
        (Nsga2, {"population": 1}, "`sampler.population >= 2` must hold, but it is 1"),
        (Tpe, {"candidates": 0}, "`sampler.candidates >= 1` must hold, but it is 0"),
        (Tpe, {"startup_trials": -1}, "`sampler.startup_trials >= 0` must hold, but it is -1"),
    ],
)
def test_settings_that_optunas_samplers_cannot_work_with_are_refused(sampler, setting, message):
    with pytest.raises(InputError) as caught:
        sampler(**setting)
    assert str(caught.value) == message


@pytest.mark.parametrize("missing", ["accuracy_search", "latency_ms"])
def test_a_guided_search_needs_the_objectives_that_its_guide_is_about(missing):
    objectives = tuple({"accuracy_search", "latency_ms", "size_bytes"} - {missing})
    with pytest.raises(InputError, match="objectives must hold accuracy_search and latency_ms for sampler=solve"):
        SearchSettings(objectives=objectives)
    assert SearchSettings(objectives=objectives, sampler=Random()).objectives == objectives
