from dataclasses import dataclass, replace

import pytest
from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.search.incumbents import Incumbents
from gulliver.search.journal import Journal, Scores
from gulliver.search.samplers import Random
from gulliver.search.scoring import Scoring
from gulliver.search.settings import Budget, FinalistSettings, Race, SearchSettings, TrialSettings
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from gulliver.spaces.space import untouched
from gulliver.tasks.digits_cnn import DigitsCNN

CHIP = ChipTarget("ascend_910b2", batch=4)


class Counted(DigitsCNN):
    """Counts how often a network is scored."""

    scored = 0

    def scores(self, model, split, start, stop):
        self.scored += 1
        return super().scores(model, split, start, stop)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return read_original(Counted(epochs=1, training_samples=100, search_samples=40))


@pytest.mark.parametrize("race", [None, Race()])
def test_the_untouched_network_is_scored_once_and_others_each_for_themselves(tmp_path, original, race):
    task = original.task
    settings = SearchSettings(trials=2, trial=TrialSettings(None, race=race))
    incumbents = Incumbents(Journal(tmp_path / "scores.jsonl"), tmp_path / "samples")
    scoring = Scoring(original, CHIP, CHIP.latency, settings, incumbents)
    task.scored = 0
    baseline = scoring.baseline_accuracy
    scores = scoring.score(untouched(original.graph))
    assert (scores.accuracy_search, scores.samples, task.scored) == (baseline, 40, 1)
    scoring.score(Recipe({name: LayerRecipe(quantize=Quantize()) for name in original.graph.layers}))
    assert task.scored == 2


@pytest.mark.parametrize(
    ("budget", "missed"),
    [
        (Budget(max_drop=0.1), {"max_drop": -0.05}),
        (Budget(max_drop=0.02, max_latency_ms=2.0), {"max_drop": 0.03, "max_latency_ms": 0.5}),
        (Budget(max_drop=0.05, max_size_bytes=8000), {"max_drop": 0.0, "max_size_bytes": -0.25}),
    ],
)
def test_constraints_tell_by_how_much_each_entry_of_the_budget_is_missed(original, budget, missed):
    settings = SearchSettings(budget=budget, finalists=FinalistSettings(finetune=None))
    scoring = Scoring(original, CHIP, CHIP.latency, settings)
    scores = Scores(scoring.baseline_accuracy - 0.05, latency_ms=3.0, size_bytes=6000)
    assert scoring.constraints(scores) == pytest.approx(missed)


@dataclass
class Asked:
    """Incumbents that note what a recipe is paired by, and have none."""

    costs: dict[str, float] | None = None
    by_accuracy: bool | None = None

    def rival(self, costs, bar, by_accuracy):
        self.costs, self.by_accuracy, self.least = costs, by_accuracy, bar.least_mean

    def keep(self, key, raced, rival):
        assert rival is None


@pytest.mark.parametrize(
    ("settings", "names", "by_accuracy"),
    [
        ({}, {"latency_ms"}, True),
        ({"budget": Budget(max_size_bytes=9000)}, {"latency_ms", "size_bytes"}, True),
        ({"objectives": ("accuracy_search", "size_bytes"), "sampler": Random()}, {"size_bytes"}, True),
        ({"objectives": ("latency_ms", "size_bytes"), "sampler": Random()}, {"latency_ms", "size_bytes"}, False),
    ],
)
def test_a_recipe_is_raced_by_the_costs_that_the_search_is_about(original, settings, names, by_accuracy):
    asked = Asked()
    scoring = Scoring(original, CHIP, CHIP.latency, SearchSettings(**settings), asked)
    scores = scoring.score(untouched(original.graph))
    assert asked.costs == {name: getattr(scores, name) for name in names}
    assert asked.by_accuracy is by_accuracy
    assert asked.least == pytest.approx(scoring.baseline_accuracy - scoring.settings.largest_drop)


def test_a_metric_that_is_no_mean_is_never_raced(original):
    class Judged(DigitsCNN):
        def metric(self, model, split):
            return 0.75

    judged = replace(original, task=Judged(epochs=1, training_samples=100, search_samples=40))
    scores = Scoring(judged, CHIP, CHIP.latency, SearchSettings(), Asked()).score(untouched(original.graph))
    assert (scores.accuracy_search, scores.samples, scores.dropped) == (0.75, 0, False)
