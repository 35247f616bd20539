import itertools

import numpy as np
import pytest
from gulliver.search.correction import Correction, Likeness, fit_correction
from scipy.stats import multivariate_t
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel

LOSSES = (np.array([0.0, 0.1, 0.5]), np.array([0.0, 0.3]), np.array([0.0, 0.02, 0.04, 0.4]))
SHARE, NOISE, VARIANCE = 0.25, 0.03, 0.49


def recipes(count, seed=0):
    """Return different recipes, none of them the untouched network."""
    every = np.array(list(itertools.product(*(range(len(it)) for it in LOSSES))))[1:]
    return np.random.default_rng(seed).permutation(every)[:count]


def errors(count, seed=1):
    return np.random.default_rng(seed).normal(0.0, 0.4, count)


def correction(rungs, observed, share=SHARE, noise=NOISE):
    likeness = Likeness(LOSSES)
    one_hot = likeness.one_hot(rungs)
    return Correction(likeness, one_hot, likeness.covariances(one_hot, one_hot), observed, VARIANCE, share, noise)


def norm_of(recipe):
    return np.sqrt(sum(losses[rung] ** 2 for losses, rung in zip(LOSSES, recipe, strict=True)))


def additive(left, right):
    """Return what two recipes have in common: losses of the rungs that both take, over both norms."""
    shared = sum(losses[a] ** 2 for losses, a, b in zip(LOSSES, left, right, strict=True) if a == b)
    return shared / norm_of(left) / norm_of(right)


def near(left, right):
    """Return how near two recipes are: by the weights of the variables that differ."""
    most = [losses.max() for losses in LOSSES]
    weights = [4.0 * it / sum(most) + 0.5 / len(most) for it in most]
    return np.exp(-sum(weight for weight, a, b in zip(weights, left, right, strict=True) if a != b))


class ByDefinition(Kernel):
    """The covariance of two recipes, one pair after the other."""

    def __init__(self):
        pass

    def __call__(self, left, right=None, eval_gradient=False):
        right = left if right is None else right
        return np.array(
            [[SHARE * additive(a, b) + (1 - SHARE) * near(a, b) for b in right.astype(int)] for a in left.astype(int)]
        )

    def diag(self, recipes):
        return np.ones(len(recipes))

    def is_stationary(self):
        return False


def test_both_parts_of_the_covariance_are_those_of_their_definitions():
    rungs = recipes(10)
    likeness = Likeness(LOSSES)
    found = likeness.covariances(likeness.one_hot(rungs), likeness.one_hot(rungs[:4]))
    for part, definition in zip(found, (additive, near), strict=True):
        assert part == pytest.approx(np.array([[definition(a, b) for b in rungs[:4]] for a in rungs]))


def test_means_and_deviations_are_those_of_scikit_learns_gaussian_process():
    rungs, observed = recipes(9), errors(9)
    reference = GaussianProcessRegressor(ByDefinition(), alpha=NOISE, optimizer=None).fit(rungs, observed)
    means, deviations = reference.predict(recipes(23), return_std=True)
    found = correction(rungs, observed).predict(recipes(23))
    assert found[0] == pytest.approx(means, abs=1e-10)
    assert found[1] == pytest.approx(VARIANCE**0.5 * deviations, abs=1e-10)


def test_errors_of_rungs_are_the_posterior_means_of_their_coefficients():
    # The additive part is a linear model: errors = features @ coefficients, of prior variances share * loss^2, the
    # rest being correlated noise. Solved here by its normal equations, in the space of the coefficients.
    rungs, observed = recipes(9), errors(9)
    entries = [(variable, rung) for variable, losses in enumerate(LOSSES) for rung in range(1, len(losses))]
    features = np.array([[(it[variable] == rung) / norm_of(it) for variable, rung in entries] for it in rungs])
    noise = (1 - SHARE) * np.array([[near(a, b) for b in rungs] for a in rungs]) + NOISE * np.eye(9)
    precision = np.diag([1 / (SHARE * LOSSES[variable][rung] ** 2) for variable, rung in entries])
    weighted = features.T @ np.linalg.inv(noise)
    coefficients = np.linalg.solve(weighted @ features + precision, weighted @ observed)
    found = correction(rungs, observed).rung_errors()
    assert [len(it) for it in found] == [len(it) for it in LOSSES]
    assert [found[variable][rung] for variable, rung in entries] == pytest.approx(coefficients.tolist())
    assert [it[0] for it in found] == [0.0] * 3


def test_a_recipe_that_was_tried_is_less_uncertain_by_what_its_noise_leaves():
    rungs = recipes(2)
    _, deviations = correction(rungs[:1], errors(1)).predict(rungs)
    # With one observation of variance 1 + noise, noise / (1 + noise) of the variance is left where it was made.
    assert deviations[0] == pytest.approx((VARIANCE * NOISE / (1 + NOISE)) ** 0.5)
    assert deviations[0] < deviations[1] < VARIANCE**0.5


def test_a_rung_that_disappointed_is_expected_to_disappoint_in_other_recipes():
    tried, others = np.array([[2, 0, 0]]), np.array([[2, 1, 2], [0, 1, 2]])
    means, _ = correction(tried, np.array([1.0])).predict(others)
    assert means[0] > means[1] > 0


def test_the_settings_are_those_of_the_greatest_marginal_likelihood():
    # Where every rung has an error of its own the additive part explains them, where neighbours err alike the other.
    rungs, random = recipes(23), np.random.default_rng(0)
    rung_errors = [random.normal(0.0, losses) for losses in LOSSES]
    by_rung = [sum(it[rung] for it, rung in zip(rung_errors, row, strict=True)) / norm_of(row) for row in rungs]
    by_nearness = np.linalg.cholesky([[near(a, b) for b in rungs] for a in rungs]) @ random.normal(size=23)
    shares = []
    for observed in (np.array(by_rung), by_nearness):
        likelihoods = {}
        for share, noise in itertools.product((0.25, 0.75), (0.03, 0.3)):
            kernel = [[share * additive(a, b) + (1 - share) * near(a, b) for b in rungs] for a in rungs]
            shape = 0.35**2 * (np.array(kernel) + noise * np.eye(23))
            likelihoods[share, noise] = multivariate_t(shape=shape, df=2).logpdf(observed)
        fitted = fit_correction(Likeness(LOSSES), rungs, observed)
        assert (fitted.additive_share, fitted.noise) == max(likelihoods, key=likelihoods.get)
        shares.append(fitted.additive_share)
    assert shares == [0.75, 0.25]


def test_likelihoods_of_settings_differ_as_those_of_the_t_distribution_do():
    rungs, observed = recipes(9), errors(9)
    differences = []
    for share, noise in ((0.25, 0.03), (0.75, 0.3)):
        given = correction(rungs, observed, share, noise)
        kernel = share * given.covariances[0] + (1 - share) * given.covariances[1] + noise * np.eye(9)
        variance = (given.squared_errors() + 2 * 0.35**2) / (9 + 2)
        wanted = multivariate_t(shape=0.35**2 * kernel, df=2).logpdf(observed)
        fitted = Correction(given.likeness, given.one_hot, given.covariances, observed, variance, share, noise)
        differences.append(fitted.log_likelihood() - wanted)
    assert differences[0] == pytest.approx(differences[1])


def test_the_variance_is_shrunk_to_the_guess_by_as_much_as_two_trials_weigh():
    rungs = recipes(4)
    fitted = fit_correction(Likeness(LOSSES), rungs, np.zeros(4))
    assert fitted.variance == pytest.approx(0.35**2 * 2 / (4 + 2))
    wild = fit_correction(Likeness(LOSSES), rungs, errors(4) * 100)
    assert wild.variance == pytest.approx((wild.squared_errors() + 2 * 0.35**2) / 6)


def test_before_any_trial_nothing_is_corrected_and_everything_as_uncertain():
    fitted = fit_correction(Likeness(LOSSES), np.empty((0, 3), dtype=int), np.empty(0))
    means, deviations = fitted.predict(recipes(3))
    assert means.tolist() == [0.0] * 3
    assert deviations == pytest.approx([0.35] * 3)
    assert [it.tolist() for it in fitted.rung_errors()] == [[0.0] * len(it) for it in LOSSES]


@pytest.mark.parametrize("losses", [(np.zeros(3), np.zeros(2)), (np.zeros(1),)])
def test_choices_that_lose_nothing_and_a_recipe_tried_twice_give_finite_numbers(losses):
    rungs = np.zeros((3, len(losses)), dtype=int)
    fitted = fit_correction(Likeness(losses), rungs, np.array([0.0, 1.0, -1.0]))
    means, deviations = fitted.predict(rungs)
    assert np.isfinite([*means, *deviations]).all()
    assert all(np.isfinite(it).all() for it in fitted.rung_errors())
