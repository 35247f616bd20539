import numpy as np
import pytest
from gulliver.search.loss_link import LossLink, fit_loss_link

ORIGINAL, LOWEST, TYPICAL = 0.95, 0.55, 0.2
TRUE = LossLink({"precision": 0.5, "sparsity": 2.0}, scale=0.3, power=0.8, range=0.6)


def losses_of(count, seed=0):
    """Return the losses by methods of random recipes, a fifth of each caused by both methods together."""
    random = np.random.default_rng(seed)
    alone = [random.lognormal(np.log(0.1), 1.0, count) for _ in range(2)]
    return (
        (("precision",), alone[0]),
        (("precision", "sparsity"), 0.2 * (alone[0] + alone[1])),
        (("sparsity",), alone[1]),
    )


def fitted(count, truth=TRUE, seed=0):
    losses = losses_of(count, seed)
    return fit_loss_link(losses, ORIGINAL - truth.drop(truth.loss(losses)), ORIGINAL, LOWEST, TYPICAL)


def on_other_recipes(link):
    """Return the drops that the link predicts of other recipes, and the true ones."""
    losses = losses_of(200, seed=1)
    return link.drop(link.loss(losses)), TRUE.drop(TRUE.loss(losses))


def test_the_score_falls_by_the_curve_that_the_module_states():
    link = LossLink({"": 1.0}, scale=0.5, power=2.0, range=0.8)
    # exp(-(0.5 / 0.5)^2) and exp(-(1 / 0.5)^2).
    assert link.drop(np.array([0.0, 0.5, 1.0])).tolist() == pytest.approx(
        [0.0, 0.8 * (1 - np.exp(-1)), 0.8 * (1 - np.exp(-4))]
    )


def test_losses_are_weighted_by_method_and_by_the_geometric_mean_where_several_cause_them():
    link = LossLink({"precision": 0.5, "sparsity": 8.0}, 1.0, 1.0, 1.0)
    one = np.array([1.0])
    assert link.loss([(("precision",), one)]).tolist() == [0.5]
    assert link.loss([(("precision", "sparsity"), one)]).tolist() == pytest.approx([2.0])
    assert link.loss([(("precision",), one), (("sparsity",), 2 * one)]).tolist() == [16.5]


def test_a_loss_below_nothing_counts_for_nothing():
    link = LossLink({"precision": 1.0}, 1.0, 0.5, 1.0)
    assert link.loss([(("precision",), np.array([0.1])), (("precision",), np.array([-0.3]))]).tolist() == [0.0]


def test_before_any_trial_a_typical_loss_costs_a_guessed_part_of_what_matters():
    link = fit_loss_link(losses_of(0), np.empty(0), ORIGINAL, LOWEST, TYPICAL)
    assert (link.weights, link.scale, link.power) == ({"precision": 1.0, "sparsity": 1.0}, TYPICAL, 1.0)
    # What matters is 0.4 wide; the range is taken to be 1 + 1/e of it.
    assert link.range == pytest.approx(0.4 * (1 + np.exp(-1)))
    assert link.drop(np.array([TYPICAL]))[0] == pytest.approx(link.range * (1 - np.exp(-1)))


def test_parameters_that_made_the_scores_are_found_again():
    # So many that the guess hardly counts.
    link = fitted(20_000)
    predicted, wanted = on_other_recipes(link)
    assert predicted == pytest.approx(wanted, abs=0.01)
    assert (link.power, link.range) == pytest.approx((TRUE.power, TRUE.range), rel=0.02)
    # A common factor of all weights is the same as another scale.
    assert link.weights["sparsity"] / link.weights["precision"] == pytest.approx(4.0, rel=0.02)


def test_a_handful_of_trials_predicts_others_to_what_the_fit_takes_scores_to_be_exact_to():
    predicted, wanted = on_other_recipes(fitted(12))
    assert (np.abs(predicted - wanted) < 0.02 * wanted.max() + 0.25 * wanted).all()
    guessed, _ = on_other_recipes(fitted(0))
    assert np.abs(predicted - wanted).mean() < np.abs(guessed - wanted).mean()


@pytest.mark.parametrize(("count", "low", "high"), [(12, 1.3, 2.3), (200, 1.8, 2.2)])
def test_a_method_that_is_twice_as_harmful_is_noticed(count, low, high):
    truth = LossLink({"precision": 1.0, "sparsity": 2.0}, 0.3, 0.8, 0.6)
    weights = fitted(count, truth).weights
    assert low < weights["sparsity"] / weights["precision"] < high


@pytest.mark.parametrize("count", [0, 1, 3, 30])
def test_more_loss_never_scores_more(count):
    drops = fitted(count).drop(np.linspace(0.0, 50.0, 500))
    assert drops[0] == 0.0
    assert (np.diff(drops) >= 0).all()


@pytest.mark.parametrize("score", [ORIGINAL, ORIGINAL + 0.02, LOWEST - 0.4])
def test_scores_that_are_all_the_same_give_finite_numbers(score):
    losses = losses_of(20)
    link = fit_loss_link(losses, np.full(20, score), ORIGINAL, LOWEST, TYPICAL)
    drops = link.drop(link.loss(losses))
    assert np.isfinite([link.scale, link.power, link.range, *link.weights.values(), *drops]).all()
    assert abs(float(np.median(drops)) - (ORIGINAL - score)) < 0.1


def test_a_budget_of_nothing_and_losses_of_nothing_give_finite_numbers():
    losses = ((("precision",), np.zeros(3)),)
    link = fit_loss_link(losses, np.full(3, ORIGINAL), ORIGINAL, ORIGINAL, 1e-12)
    assert link.drop(link.loss(losses)).tolist() == [0.0] * 3
    assert np.isfinite(link.drop(np.array([1.0])))


def test_the_slopes_are_those_of_small_steps_of_each_logarithm():
    losses, step = losses_of(5), 1e-6
    extra = 0.4 * TRUE.range

    def drops(scale=0.0, power=0.0, grown=0.0, precision=0.0, sparsity=0.0):
        weights = {"precision": 0.5 * np.exp(precision), "sparsity": 2.0 * np.exp(sparsity)}
        moved = LossLink(weights, 0.3 * np.exp(scale), 0.8 * np.exp(power), TRUE.range - extra + extra * np.exp(grown))
        return moved.drop(moved.loss(losses))

    names = ("scale", "power", "grown", "precision", "sparsity")
    numeric = [(drops(**{name: step}) - drops(**{name: -step})) / (2 * step) for name in names]
    np.testing.assert_allclose(TRUE.slopes(losses, range_extra=0.4), np.stack(numeric, axis=1), rtol=1e-6)


def test_a_recipe_that_loses_nothing_stays_where_it_is():
    nothing = ((("precision",), np.zeros(1)), (("sparsity",), np.zeros(1)))
    assert TRUE.slopes(nothing, range_extra=0.4).tolist() == [[0.0] * 5]
