import math
from types import SimpleNamespace

import pytest
import torch
from gulliver.compressors.distillation import Distance, Lesson, class_dimension, similarity_difference
from torch import nn

SILENT = SimpleNamespace(name="silent")


def distance(given, wanted, task=SILENT, temperature=1.0):
    return Distance(task, temperature, half=False)(nn.Identity(), Lesson((given,), wanted)).item()


def saying(dimension):
    task = SimpleNamespace(name="saying", model=None, example_inputs=None, calibration=list)
    task.class_dimension = dimension
    return task


@pytest.mark.parametrize(
    ("shape", "dimension"),
    [((8, 10), 1), ((8, 2), 1), ((8, 7, 10), 2), ((8, 1), None), ((8, 7, 1), None), ((8,), None), ((8, 5, 4, 4), None)],
)
def test_outputs_are_logits_along_the_last_of_two_or_three_dimensions_unless_there_is_one_and_else_values(
    shape, dimension
):
    assert class_dimension(SILENT, torch.zeros(shape)) == dimension


@pytest.mark.parametrize("dimension", [None, 1, 2])
def test_a_task_may_say_what_its_outputs_are(dimension):
    assert class_dimension(saying(dimension), torch.zeros(8, 5, 4)) == dimension


def test_logits_are_compared_as_probabilities_by_hand():
    wanted, given = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    # Probabilities of 3/4 and 1/4 that are taken for halves.
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distance(given, wanted) == pytest.approx(by_hand)
    assert distance(given + 7, wanted) == pytest.approx(by_hand), "what all logits have in common is no difference"
    # Softened by half: of roots, sqrt(3) to 1.
    root = 3**0.5 / (1 + 3**0.5)
    softened = root * math.log(2 * root) + (1 - root) * math.log(2 * (1 - root))
    assert distance(given, wanted, temperature=2.0) == pytest.approx(4 * softened)


def test_logits_of_each_pixel_are_compared_along_the_classes_that_the_task_names():
    torch.manual_seed(0)
    given, wanted = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    as_rows = [it.movedim(1, -1).reshape(-1, 3) for it in (given, wanted)]
    assert distance(given, wanted, saying(1)) == pytest.approx(distance(*as_rows), rel=1e-5)


def test_values_are_compared_by_their_error_relative_to_their_variance():
    # The values 0 and 4 have a variance of 4.
    wanted = torch.tensor([[0.0], [4.0]])
    assert distance(2 * wanted + 3, wanted) == pytest.approx(math.log(1 + (3**2 + 7**2) / 2 / 4))
    assert distance(torch.zeros(8, 4) + 1, torch.zeros(8, 4), saying(None)) > 20, "values without variance agree"


def test_similarities_are_those_by_hand():
    given, wanted = torch.tensor([[3.0, 0], [0, 4]]), torch.tensor([[1.0], [1.0]])
    # Rows of the products: (9, 0), (0, 16) and (1, 1), (1, 1), each of length one.
    half = 0.5**0.5
    by_hand = (2 * (1 - half) ** 2 + 2 * half**2) / 4
    assert similarity_difference(given, wanted).item() == pytest.approx(by_hand)
