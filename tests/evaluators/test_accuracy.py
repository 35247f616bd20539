import math

import pytest
import torch
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import compress, read_original
from gulliver.compressors.finetune import Recovery
from gulliver.evaluators.accuracy import (
    Accuracy,
    check_task,
    expected_scores,
    paired_standard_error,
    sample_scores,
    score,
)
from gulliver.spaces.recipe import Decompose, Finetune, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.tasks.digits_cnn import DigitsCNN
from gulliver.tasks.errors import InputError


class Scores:
    """A task whose scores are given."""

    name = "given"

    def __init__(self, scores):
        self.given = torch.tensor(scores)

    def size(self, split):
        return len(self.given)

    def scores(self, model, split, start, stop):
        return self.given[start:stop]

    model, example_inputs, calibration = None, (), list


class Expecting(Scores):
    """A task that also tells what scores are to be expected."""

    def expected_scores(self, model, split, start, stop):
        assert not torch.is_grad_enabled()
        return 1 - self.given[start:stop]


class Metric:
    """A task whose metric is one number of the whole split."""

    name = "metric"
    model, example_inputs, calibration = None, (), list

    def metric(self, model, split):
        assert not torch.is_grad_enabled()
        return {"search": 31, "test": 32}[split]


def same(original, choice=None):
    return Recipe({name: choice or LayerRecipe() for name in original.graph.layers})


@pytest.mark.parametrize("split", ["search", "test"])
def test_the_score_is_the_mean_of_the_tasks_own_scores(split, digits):
    wanted = digits.scores(digits.model, split, 0, digits.size(split)).mean().item()
    assert score(digits, digits.model, split) == pytest.approx(wanted)


def test_the_score_of_a_slice_is_the_mean_of_that_slice(digits):
    small = DigitsCNN(search_samples=50)
    assert score(small, digits.model, "search") == pytest.approx(
        digits.scores(digits.model, "search", 0, 50).mean().item()
    )


def test_the_mean_is_taken_in_double_precision():
    assert score(Scores([1.0] * 3 + [0.1]), None, "search") == pytest.approx(3.1 / 4, abs=1e-9)
    assert math.isnan(score(Scores([1.0, float("nan")]), None, "search"))


def test_a_metric_is_taken_as_it_is():
    assert score(Metric(), None, "search") == 31.0
    assert score(Metric(), None, "test") == 32.0


def test_an_empty_split_is_refused_and_one_sample_is_enough():
    with pytest.raises(InputError, match=r"^the test split of task given must have a sample, but has 0$"):
        score(Scores([]), None, "test")
    assert score(Scores([0.25]), None, "test") == 0.25


def test_samples_are_scored_from_one_to_another_or_to_the_last_where_the_metric_is_their_mean():
    task = Scores([0.5, 1.0, 0.0, 0.25])
    assert sample_scores(task, None, "search", 1, 3).tolist() == [1.0, 0.0]
    assert sample_scores(task, None, "search", 1).tolist() == [1.0, 0.0, 0.25]
    assert sample_scores(Metric(), None, "search") is None


def test_the_standard_error_of_a_lost_mean_is_that_of_the_differences():
    # Differences of 1, 0 and 1 have a variance of 1/3, and their mean a third of that.
    scores, others = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 1.0, 1.0])
    assert paired_standard_error(scores, others) == pytest.approx(1 / 3)
    assert paired_standard_error(scores[:1], others[:1]) == 0.0
    assert paired_standard_error(None, others) == paired_standard_error(scores, None) == 0.0


def test_a_task_that_cannot_be_scored_is_refused():
    class Unscored:
        name = "mute"
        model, example_inputs, calibration = None, (), list

    with pytest.raises(
        InputError, match=r"^the task mute must have `size` and `scores`, or `metric`, to be scored by$"
    ):
        check_task(Unscored())
    for task in (Scores([1.0]), Metric()):
        check_task(task)


def test_accuracy_is_the_score_of_the_compressed_network_on_the_search_split(digits_original):
    evaluator = Accuracy(digits_original)
    assert (evaluator.name, evaluator.direction) == ("accuracy_search", "maximize")
    task = digits_original.task
    assert evaluator(same(digits_original)) == pytest.approx(score(task, task.model, "search"))
    recipe = same(digits_original, LayerRecipe(quantize=Quantize(2, 4)))
    assert evaluator(recipe) == score(task, compress(digits_original, recipe), "search")
    assert evaluator(recipe) < evaluator(same(digits_original, LayerRecipe(quantize=Quantize())))


def test_a_few_steps_of_recovery_bring_accuracy_back(digits_original):
    prunable = {
        name for group in digits_original.graph.channel_groups if not group.not_prunable for name in group.layers
    }
    recipe = Recipe(
        {name: LayerRecipe(Sparsify(0.5) if name in prunable else None) for name in digits_original.graph.layers}
    )
    assert Accuracy(digits_original, Recovery())(recipe) > Accuracy(digits_original)(recipe) + 0.02


def test_training_with_rounding_does_not_lead_away_where_batch_norms_are_folded(digits_original, capfd):
    choices = dict.fromkeys(digits_original.graph.layers, LayerRecipe(quantize=Quantize()))
    compress(digits_original, Recipe(choices, Finetune(2, quantization_aware=True)))
    assert "undone" not in capfd.readouterr().err


class Counted(Candidates):
    """Candidates that count the networks that they are asked for."""

    def __init__(self, original):
        super().__init__(original, memory_bytes=1 << 20)
        self.asked = 0

    def network(self, recipe):
        self.asked += 1
        return super().network(recipe)


def thinned(original):
    layers = dict(same(original).layers)
    return Recipe(layers | {"stages.0.0.conv1": LayerRecipe(Sparsify(0.5), Decompose(4), Quantize(4, 8))})


def test_candidates_give_the_same_accuracy(digits_original):
    candidates = Counted(digits_original)
    quick, slow = Accuracy(digits_original, candidates=candidates), Accuracy(digits_original)
    recipes = [
        thinned(digits_original),
        *(same(digits_original, LayerRecipe(quantize=Quantize(it, 8))) for it in (2, 3)),
    ]
    assert [quick(recipe) for recipe in recipes] == [slow(recipe) for recipe in recipes]
    assert candidates.asked == 3
    assert len({slow(recipe) for recipe in recipes}) == 3


@pytest.mark.parametrize(("recovery", "asked"), [(None, 2), (Recovery(steps=0), 2), (Recovery(steps=1), 1)])
def test_candidates_are_asked_only_where_nothing_is_recovered(recovery, asked, digits_original):
    candidates = Counted(digits_original)
    evaluator = Accuracy(digits_original, recovery, samples=50, candidates=candidates)
    for recipe in (thinned(digits_original), same(digits_original, LayerRecipe(quantize=Quantize()))):
        assert evaluator(recipe) == Accuracy(digits_original, recovery, samples=50)(recipe)
    assert candidates.asked == asked


def test_candidates_of_another_original_are_refused(digits, digits_original):
    with pytest.raises(
        InputError, match=r"^the candidates must be of the original that is scored, but are of another$"
    ):
        Accuracy(digits_original, candidates=Candidates(read_original(digits)))


def test_expected_scores_are_none_where_the_task_does_not_tell():
    assert expected_scores(Expecting([0.0, 0.25]), None, "search").tolist() == [1.0, 0.75]
    assert expected_scores(Scores([0.0, 1.0]), None, "search") is None
    assert expected_scores(Metric(), None, "search") is None
