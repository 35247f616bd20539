import math

import pytest
import torch
from gulliver.compressors.compress import compress
from gulliver.compressors.finetune import Recovery
from gulliver.evaluators.accuracy import Accuracy, score
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe, Sparsify
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


def test_an_empty_split_is_refused():
    with pytest.raises(InputError, match=r"^the test split of task given must have a sample, but has 0$"):
        score(Scores([]), None, "test")


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
