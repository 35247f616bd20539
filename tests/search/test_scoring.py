import pytest
from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.search.incumbents import Incumbents
from gulliver.search.journal import Journal
from gulliver.search.scoring import Scoring
from gulliver.search.settings import Race, SearchSettings, TrialSettings
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


@pytest.mark.parametrize("race", [None, Race()])
def test_the_untouched_network_is_scored_once_and_others_each_for_themselves(tmp_path, monkeypatch, race):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = Counted(epochs=1, training_samples=100, search_samples=40)
    original = read_original(task)
    settings = SearchSettings(trials=2, trial=TrialSettings(None, race=race))
    incumbents = Incumbents(Journal(tmp_path / "scores.jsonl"), tmp_path / "samples")
    scoring = Scoring(original, CHIP, CHIP.latency, settings, incumbents)
    task.scored = 0
    baseline = scoring.baseline_accuracy
    scores = scoring.score(untouched(original.graph))
    assert (scores.accuracy_search, scores.samples, task.scored) == (baseline, 40, 1)
    scoring.score(Recipe({name: LayerRecipe(quantize=Quantize()) for name in original.graph.layers}))
    assert task.scored == 2
