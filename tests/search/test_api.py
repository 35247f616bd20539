"""The Python interface on a network and a task of a user's own, written as the README says."""

import gulliver.compressors
import pytest
import torch
from gulliver.compressors.finetune import Recovery
from gulliver.evaluators.accuracy import score
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search import Budget, search
from gulliver.search.settings import FinalistSettings, TrialSettings
from gulliver.search.tracking import TrackingSettings
from gulliver.spaces.recipe_file import read_recipe
from gulliver.tasks.errors import InputError
from torch import nn

QUICK = {
    "target": CpuOpenvino(batch=16, calibration_networks=1, kernel_repetitions=3, repetitions=5),
    "trials": 3,
    "trial": TrialSettings(Recovery(steps=2)),
    "finalists": FinalistSettings(count=1),
    "tracking": TrackingSettings(enabled=False),
}


class Stripes:
    """Tell horizontal stripes from vertical ones; no training data, so nothing is fine-tuned."""

    name = "stripes"
    example_inputs = (torch.zeros(1, 1, 8, 8),)

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 2),
        ).eval()

    def calibration(self):
        return [(self._images("calibration"),)]

    def _images(self, split):
        generator = torch.Generator().manual_seed(len(split))
        return torch.randn(40, 1, 8, 8, generator=generator)

    def _right(self, model, split):
        images = self._images(split)
        return (model(images).argmax(1) == self.model(images).argmax(1)).float()


class ScoredStripes(Stripes):
    def size(self, split):
        return 40

    def scores(self, model, split, start, stop):
        return self._right(model, split)[start:stop]


class MetricStripes(Stripes):
    def metric(self, model, split):
        return self._right(model, split).mean().item()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("make", [ScoredStripes, MetricStripes])
def test_a_network_of_ones_own_is_searched_and_its_recipe_saved_and_applied(make, tmp_path, capsys):
    task = make()
    result = search(task, budget=Budget(max_drop=0.5), seed=1, out=tmp_path / "run", **QUICK)
    assert result.within_budget
    assert [it.scores.latency_ms for it in result.front] == sorted(it.scores.latency_ms for it in result.front)
    assert "stripes has no `training(epoch)`: finalists are not fine-tuned" in capsys.readouterr().out
    result.best.recipe.save(tmp_path / "best.yaml")
    recipe = read_recipe(tmp_path / "best.yaml")
    assert recipe == result.best.recipe
    network = gulliver.compressors.apply(task, recipe)
    assert isinstance(network, nn.Module)
    assert score(task, network, "test") == pytest.approx(result.best.measured.accuracy_test, abs=0.05)


def test_without_a_finalist_within_the_budget_the_closest_is_handed_over_and_what_binds_is_named(tmp_path):
    budget = Budget(max_drop=1.0, max_latency_ms=1e-6)
    result = search(ScoredStripes(), budget=budget, out=tmp_path / "run", **QUICK)
    assert not result.within_budget
    assert result.binding_layers
    # Every recipe keeps the accuracy bar of 1, so that the fastest of all known says what latency to ask for.
    assert [line.split(":")[0] for line in result.explanation] == [
        "The budget is not met on the test split",
        "Least latency at the accuracy bar",
        "What binds",
        "What helps most",
    ]
    assert "budget.max_latency_ms=" in result.explanation[-1]
    assert (tmp_path / "run" / "recipes" / "best.yaml").exists()


def test_a_task_without_a_score_is_refused(tmp_path):
    with pytest.raises(InputError, match="the task stripes must have `size` and `scores`, or `metric`"):
        search(Stripes(), out=tmp_path / "run", **QUICK)


def test_an_unknown_target_is_refused_with_the_choices(tmp_path):
    with pytest.raises(InputError, match=r"Available options in 'target': .*cpu_openvino"):
        search(ScoredStripes(), target="tpu", out=tmp_path / "run")
