import pytest
import torch
from gulliver.search.bootstrap import drop_interval


def test_the_interval_of_right_answers_is_that_of_the_normal_approximation_where_it_holds():
    # 60 of 2000 samples lost and 20 won: mean 0.02, standard deviation (0.04 - 0.02**2) ** 0.5 = 0.199.
    original, scores = torch.ones(2000), torch.ones(2000)
    scores[:60], original[60:80] = 0.0, 0.0
    error = 0.199 / 2000**0.5
    expected = (0.02 - 1.96 * error, 0.02 + 1.96 * error)
    assert drop_interval(original, scores) == pytest.approx(expected, abs=0.25 * error)


def test_the_interval_is_that_of_the_differences_not_of_the_two_scores():
    noise = torch.randn(500, generator=torch.Generator().manual_seed(0)).double()
    low, high = drop_interval(noise + 0.25, noise)
    assert (low, high) == pytest.approx((0.25, 0.25))


def test_the_interval_holds_the_true_drop_as_often_as_it_says():
    # Exponential differences of mean 1; 88 to 99 of 100 leave out 0.7% of the binomial distribution of 95%.
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(100):
        differences = -torch.log(torch.rand(200, generator=generator)).double()
        low, high = drop_interval(differences, torch.zeros(200).double())
        held += low <= 1.0 <= high
    assert 88 <= held <= 99


def test_the_same_scores_give_the_same_interval():
    scores = torch.arange(50).double()
    assert drop_interval(torch.zeros(50), scores) == drop_interval(torch.zeros(50), scores)


@pytest.mark.parametrize("scores", [None, torch.ones(1)])
def test_without_samples_to_draw_from_there_is_no_interval(scores):
    assert drop_interval(scores, scores) is None
    assert drop_interval(torch.ones(2), torch.ones(2)) == (0.0, 0.0)


def test_a_score_that_is_not_a_number_has_no_interval():
    assert drop_interval(torch.ones(3), torch.tensor([1.0, torch.nan, 1.0])) is None
