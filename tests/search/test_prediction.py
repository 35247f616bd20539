import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.correction import Correction, Likeness
from gulliver.search.guide import Guide
from gulliver.search.history import History
from gulliver.search.loss_link import LossLink
from gulliver.search.prediction import Prediction, fit
from gulliver.search.problem import Problem

from benchmarks.search.chain_problem import chain_problem

GROUPS = 12
CHAIN = chain_problem(GROUPS, 4, seed=0)


def guide_of(problem, highest_latency_ms=10.0):
    return Guide(problem, tuple(range(len(problem.sizes))), 1.0, 0.5, highest_latency_ms)


GUIDE = guide_of(CHAIN.known)


def random_history(count, seed=0):
    rungs = np.random.default_rng(seed).integers(0, 4, (count, GROUPS))
    return History(rungs, CHAIN.accuracy(rungs))


def two_variables(names=("precision/0", "precision/1")):
    """Return a problem of two rungs each: the second loses 1, and takes 1 ms where the first takes 2."""
    loss = tuple(Factor((it,), np.array([0.0, 1.0])) for it in range(2))
    latency_ms = tuple(Factor((it,), np.array([2.0, 1.0])) for it in range(2))
    return Problem(tuple(names), (2, 2), loss, latency_ms)


def prediction_of(guide, rungs, errors, link=None):
    likeness = Likeness(guide.rung_losses)
    one_hot = likeness.one_hot(rungs)
    covariances = likeness.covariances(one_hot, one_hot)
    link = link or LossLink({"": 1.0, "precision": 1.0}, 1.0, 0.5, 1.0)
    return Prediction(guide, link, Correction(likeness, one_hot, covariances, errors, 0.1, 0.75, 0.03))


def test_a_score_is_the_original_less_the_corrected_drop():
    rungs = random_history(6).rungs
    prediction = prediction_of(GUIDE, rungs, np.zeros(6))
    means, deviations = prediction.scores(rungs)
    # Of a link of scale 1, power 1/2 and range 1; an error of 1 is the drop, and 1% of the range.
    drops = 1 - np.exp(-(CHAIN.known.loss_of(rungs) ** 0.5))
    assert means == pytest.approx(1.0 - drops)
    assert deviations == pytest.approx((drops + 0.01) * prediction.correction.predict(rungs)[1])
    disappointed = prediction_of(GUIDE, rungs, np.full(6, 0.2))
    assert disappointed.scores(rungs)[0] == pytest.approx(
        1.0 - drops - (drops + 0.01) * disappointed.correction.predict(rungs)[0]
    )


def test_relative_errors_of_drops_are_moved_into_the_losses_of_rungs():
    # Two variables tried one at a time, so that each error is one rung's: norm and loss are equal, and an error of
    # the drop of 10% is one of 20% of the loss where drops grow with its square root.
    problem = two_variables()
    guide = guide_of(problem, 4.0)
    rungs = np.array([[1, 0], [0, 1]])
    prediction = prediction_of(guide, rungs, np.array([0.1, 0.0]))
    errors = [it[1] for it in prediction.correction.rung_errors()]
    corrected = prediction.corrected_problem(History(rungs, np.zeros(2)))
    assert corrected.loss_of(rungs).tolist() == pytest.approx([1.0 + 2 * errors[0], 1.0 + 2 * errors[1]])
    # Nearly the whole error is the rung's, the rest is the prior's and the noise's.
    assert 0.06 < errors[0] < 0.1
    assert corrected.loss_of(np.zeros((1, 2), dtype=int)).tolist() == [0.0]
    assert corrected.latency_ms is problem.latency_ms
    assert (corrected.names, corrected.sizes) == (problem.names, problem.sizes)


def test_the_corrected_problem_does_not_depend_on_the_unit_of_losses():
    rungs, errors = random_history(9).rungs, np.random.default_rng(0).normal(0.0, 0.3, 9)
    corrected = []
    for unit in (1.0, 1e-3):
        tables = tuple(Factor(it.variables, unit * it.table) for it in CHAIN.known.loss)
        guide = guide_of(Problem(CHAIN.known.names, CHAIN.known.sizes, tables, CHAIN.known.latency_ms))
        prediction = prediction_of(guide, rungs, errors)
        corrected.append(prediction.corrected_problem(History(rungs, errors)).loss_of(rungs) / unit)
    assert corrected[0] == pytest.approx(corrected[1])
    assert np.abs(corrected[0] - CHAIN.known.loss_of(rungs)).max() > 0.01


def test_losses_are_weighted_by_method_and_never_lose_more_than_half_by_a_correction():
    guide = guide_of(two_variables(("precision/a", "sparsity/a")), 4.0)
    rungs = np.array([[1, 0], [0, 1], [1, 1]])
    link = LossLink({"precision": 1.0, "sparsity": 3.0}, 1.0, 1.0, 1.0)
    weighted = prediction_of(guide, rungs, np.zeros(3), link).corrected_problem(History(rungs, np.zeros(3)))
    assert weighted.loss_of(rungs).tolist() == [1.0, 3.0, 4.0]
    lucky = prediction_of(guide, rungs, np.full(3, -20.0), link).corrected_problem(History(rungs, np.zeros(3)))
    assert lucky.loss_of(rungs).tolist() == [0.5, 1.5, 2.0]


def test_a_prediction_improves_with_what_was_tried():
    others, errors = random_history(200, seed=1), []
    for count in (0, 10, 100):
        means, _ = fit(GUIDE, random_history(count)).scores(others.rungs)
        errors.append(float(np.abs(means - others.scores).mean()))
    assert errors == sorted(errors, reverse=True)


def test_most_scores_are_within_two_of_the_deviations_that_are_stated():
    others = random_history(200, seed=1)
    means, deviations = fit(GUIDE, random_history(40)).scores(others.rungs)
    assert (np.abs(means - others.scores) < 2 * deviations).mean() > 0.8
