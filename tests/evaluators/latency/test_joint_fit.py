import numpy as np
import pytest
from gulliver.evaluators.latency.joint_fit import Member, fit_jointly

# Small beside 1, where the robust loss is that of least squares.
AT, SCATTER = 0.01, 0.1
MEASURED = Member(["rate"], lambda point: (point - AT) / SCATTER)
SILENT = Member(["rate"], lambda point: 0.0 * point)


def test_times_and_prior_are_weighed_by_their_variances():
    # Measured 0.01 with variance 0.01, prior 0 with variance 1, whatever part of it is in common.
    for share in (0.0, 0.4, 1.0):
        found = fit_jointly({"it": MEASURED}, lambda _, share=share: share)
        assert found["it"] == pytest.approx(AT / (1 + SCATTER**2), rel=1e-3)


def test_a_time_draws_the_less_the_farther_off_it_is():
    # The loss is log(1 + residual^2): one at 100 scatters draws as 1 / 100, and four at u draw back as 4 u.
    member = Member(["rate"], lambda point: (point - np.array([0, 0, 0, 0, 1])) / 0.01)
    assert fit_jointly({"it": member}, lambda _: 0.0)["it"] == pytest.approx(0.01 / 400, rel=1e-2)


def test_times_that_are_all_far_off_are_no_outliers():
    # Two at 200 scatters draw by 10 * 2 / 200 in all, as the prior does at 0.1 already; at 20 it draws by 1 / 20.
    member = Member(["rate"], lambda point: 10 * np.repeat(point - 20, 2))
    assert fit_jointly({"it": member}, lambda _: 0.0)["it"] == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_one_without_times_is_drawn_to_the_others_by_the_share(share):
    found = fit_jointly({"one": MEASURED, "other": SILENT}, lambda _: share)
    assert found["other"] == pytest.approx(share * found["one"], rel=1e-3, abs=1e-12)


def test_coordinates_of_other_names_share_nothing():
    other = Member(["launch", "rate"], lambda point: 0.0 * point)
    found = fit_jointly({"one": MEASURED, "other": other}, lambda name: 0.4 if name == "rate" else 0.9)
    assert found["other"][0] == 0.0
    assert found["other"][1] == pytest.approx(0.4 * found["one"][0], rel=1e-3)


def test_slopes_are_those_of_the_residuals():
    curved = Member(["a", "b"], lambda point: np.array([point[0] ** 2, point[0] * point[1], 3.0]))
    assert curved.slope(np.array([2.0, 5.0])) == pytest.approx(np.array([[4, 0], [5, 2], [0, 0]]), abs=1e-4)
