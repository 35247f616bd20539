"""Tasks and spaces at the edge: each ends with a result, or with one line where nothing can be searched."""

import json

import optuna
import pytest
import torch
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search import Budget, search
from gulliver.search.metrics import best_metrics
from gulliver.search.run_directory import RunDirectory
from gulliver.search.samplers import Random
from gulliver.search.settings import FinalistSettings, Race, TrialSettings
from gulliver.search.tracking import TrackingSettings
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from torch import nn

QUICK = {
    "target": CpuOpenvino(batch=16, calibration_networks=1, kernel_repetitions=3, repetitions=5),
    "budget": Budget(max_drop=1.0),
    "trials": 4,
    "trial": TrialSettings(None, race=Race(first_slice=4)),
    "finalists": FinalistSettings(count=1, finetune=None),
    "tracking": TrackingSettings(enabled=False),
}
TWO_RECIPES = SpaceOptions(bits=((8, 8),), max_ratio=0.0, ranks=())


class Signs:
    """Tell by its sum whether an image is bright; scores are what `judge` makes of how far outputs moved."""

    name = "signs"
    example_inputs = (torch.zeros(1, 1, 8, 8),)

    def __init__(self, *layers, samples=10, judge=lambda moved: (moved < 0.5).float()):
        torch.manual_seed(0)
        self.model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2)).eval()
        self.model(self.example_inputs[0])
        self.samples, self.judge = samples, judge

    def calibration(self):
        return [(self._images("calibration"),)]

    def size(self, split):
        return self.samples

    def scores(self, model, split, start, stop):
        images = self._images(split)[start:stop]
        return self.judge((model(images) - self.model(images)).abs().amax(1))

    def _images(self, split):
        return torch.randn(max(self.samples, 16), 1, 8, 8, generator=torch.Generator().manual_seed(len(split)))


def convolutions():
    return nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def scored(out):
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def test_an_empty_space_is_refused(tmp_path):
    space = SpaceOptions(bits=(), max_ratio=0.0, ranks=())
    with pytest.raises(InputError, match="the space is empty: nothing that `space` allows can run on this target"):
        search(Signs(), space=space, out=tmp_path / "run", **QUICK)


def test_one_layer_with_a_single_choice_is_searched_and_no_recipe_scored_twice(tmp_path):
    result = search(Signs(), space=TWO_RECIPES, out=tmp_path / "run", **QUICK)
    assert result.within_budget
    assert result.summary["trials"] == 4
    assert len(scored(tmp_path / "run")) == 2


def test_a_search_whose_trials_all_score_alike_says_nothing_of_ranks_and_its_summary_is_json(tmp_path):
    result = search(Signs(), space=TWO_RECIPES, out=tmp_path / "run", **QUICK)
    # JSON has no NaN, which Python writes and reads all the same.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["rank_correlation"] == {"direct": None, "gradient": None}
    assert not any("rank_correlation" in name for name in best_metrics(result))


def test_a_folder_that_holds_another_search_is_left_as_it_is(tmp_path):
    held = {"task": "another"}
    RunDirectory(tmp_path).claim(held)
    with pytest.raises(InputError, match=r"holds a search with .*; choose another `out`"):
        search(Signs(), space=TWO_RECIPES, out=tmp_path, **QUICK)
    assert json.loads((tmp_path / "settings.json").read_text()) == held
    assert not (tmp_path / "seconds.json").exists()


def test_a_network_of_one_layer_and_a_task_of_ten_samples_are_searched(tmp_path):
    result = search(Signs(), out=tmp_path / "run", **QUICK)
    assert result.within_budget
    assert all(set(it.recipe.layers) == {"1"} for it in result.front)
    assert max(it["samples"] for it in scored(tmp_path / "run")) == 10


def test_a_task_of_one_sample_is_searched_without_an_interval(tmp_path):
    result = search(Signs(samples=1), space=TWO_RECIPES, out=tmp_path / "run", **QUICK)
    assert result.best.measured.drop_test_low is None
    assert "drop_test_low" not in result.best.recipe.found_for.measured


def test_a_constant_score_makes_the_fastest_recipe_the_front(tmp_path):
    result = search(Signs(judge=lambda moved: torch.full_like(moved, 0.5)), out=tmp_path / "run", **QUICK)
    assert result.within_budget
    assert [it.scores.latency_ms for it in result.front] == [min(it["latency_ms"] for it in scored(tmp_path / "run"))]


def test_candidates_whose_scores_are_not_numbers_fail_with_their_recipe_and_the_search_goes_on(tmp_path):
    def judge(moved):
        # On this network 8 bits move outputs by some 0.002, and fewer channels by 0.05 and more.
        return torch.where(moved < 0.03, 1 - moved, torch.nan)

    # The default sampler is not tempted by what breaks here, and a race may end before the sample that breaks.
    settings = QUICK | {"trials": 12, "sampler": Random(), "trial": TrialSettings(None, race=None)}
    result = search(Signs(*convolutions(), judge=judge), out=tmp_path / "run", **settings)
    assert result.within_budget
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "run" / "study.log")))
    study = optuna.load_study(study_name="gulliver", storage=storage)
    failed = study.get_trials(states=(TrialState.FAIL,))
    assert failed
    assert len(failed) + result.summary["trials"] == 12
    broken = {it["key"] for it in scored(tmp_path / "run") if it["accuracy_search"] != it["accuracy_search"]}
    assert {it.user_attrs["key"] for it in failed} == broken
    assert not broken & {it.recipe.key for it in result.front}


def test_a_task_whose_own_network_has_no_score_is_refused(tmp_path):
    with pytest.raises(InputError, match="the score of signs's own network must be a finite number, but is nan"):
        search(Signs(judge=lambda moved: moved * torch.nan), space=TWO_RECIPES, out=tmp_path / "run", **QUICK)


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="the search split of task signs must have a sample, but has 0"):
        search(Signs(samples=0), space=TWO_RECIPES, out=tmp_path / "run", **QUICK)
