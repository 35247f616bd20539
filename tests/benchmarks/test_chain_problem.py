import numpy as np
import pytest

from benchmarks.search.chain_problem import (
    INTERACTION_SHARE,
    LEAST_BOUNDARY,
    MEASUREMENT_SIGMA,
    MOST_BOUNDARY,
    Choice,
    best_known_front,
    chain_problem,
    make_choices,
)

GROUPS = 300


@pytest.fixture(scope="module")
def chain():
    return chain_problem(GROUPS, 4, seed=0)


def tables(factors, axes):
    return np.array([factor.table for factor in factors if len(factor.variables) == axes])


def test_four_choices_are_the_usual_ones_and_more_are_a_grid():
    four = (Choice("float", 1.0), Choice("int8", 1.0), Choice("int8", 0.5), Choice("int4", 1.0))
    assert chain_problem(2, 4, seed=0).choices == make_choices(4) == four
    assert make_choices(24)[::8] == (Choice("float", 1.0), Choice("int8", 1.0), Choice("int4", 1.0))
    assert make_choices(24)[7].kept == pytest.approx(0.3)
    with pytest.raises(ValueError, match="multiple of 3, but is 5"):
        make_choices(5)


def test_the_uncompressed_network_loses_nothing_in_ten_ms(chain):
    floats = np.zeros((1, GROUPS), dtype=int)
    assert chain.truth.loss_of(floats)[0] == chain.known.loss_of(floats)[0] == 0.0
    assert chain.accuracy(floats)[0] == 1.0
    assert chain.truth.latency_ms_of(floats)[0] == pytest.approx(10.0)


def test_losses_grow_with_compression_and_have_a_heavy_tail(chain):
    losses = tables(chain.truth.loss, 1)
    assert (losses[:, 1] > 0).all()
    assert (losses[:, 2] > losses[:, 1]).all()
    assert (losses[:, 3] > losses[:, 1]).all()
    assert losses.max(axis=1).sum() == pytest.approx(3.0)
    # Of a lognormal of sigma 1, the mean is exp(1/2) = 1.65 medians.
    assert losses[:, 3].mean() / np.median(losses[:, 3]) == pytest.approx(1.65, abs=0.25)


def test_interactions_are_a_share_of_both_losses_of_either_sign_and_never_make_a_gain(chain):
    losses, interactions = tables(chain.truth.loss, 1), tables(chain.truth.loss, 2)
    shares = interactions[:, 3, 3] / np.sqrt(losses[:-1, 3] * losses[1:, 3])
    assert np.abs(shares).max() <= INTERACTION_SHARE
    assert 0.35 < (shares > 0).mean() < 0.65
    rungs = np.random.default_rng(0).integers(0, 4, (1000, GROUPS))
    assert (chain.truth.loss_of(rungs) >= 0).all()
    assert ((chain.accuracy(rungs) > 0) & (chain.accuracy(rungs) <= 1)).all()


def test_a_search_knows_the_latency_exactly_and_the_losses_one_by_one_with_noise(chain):
    assert chain.known.latency_ms is chain.truth.latency_ms
    assert not len(tables(chain.known.loss, 2))
    noise = np.log(tables(chain.known.loss, 1)[:, 1:] / tables(chain.truth.loss, 1)[:, 1:])
    assert noise.std() == pytest.approx(MEASUREMENT_SIGMA, rel=0.1)
    assert noise.mean() == pytest.approx(0.0, abs=0.03)


def test_a_boundary_costs_a_share_of_the_kernels_beside_it_where_precisions_differ(chain):
    times, costs = tables(chain.truth.latency_ms, 1), tables(chain.truth.latency_ms, 2)
    share = costs[:, 0, 1] / ((times[:-1, 0] + times[1:, 0]) / 2)
    assert share.min() >= LEAST_BOUNDARY
    assert share.max() <= MOST_BOUNDARY
    assert (costs[:, 1, 2] == 0).all()
    assert (costs[:, 1, 3] == costs[:, 0, 1]).all()


def test_a_seed_draws_the_same_problem_again(chain):
    again, other = chain_problem(GROUPS, 4, seed=0), chain_problem(GROUPS, 4, seed=1)
    rungs = np.random.default_rng(0).integers(0, 4, (5, GROUPS))
    assert (again.known.loss_of(rungs) == chain.known.loss_of(rungs)).all()
    assert (other.known.loss_of(rungs) != chain.known.loss_of(rungs)).all()


def test_no_random_recipe_beats_the_best_known_front():
    chain = chain_problem(8, 4, seed=0)
    front = best_known_front(chain.truth, budgets=30)
    rungs = np.random.default_rng(0).integers(0, 4, (5000, 8))
    losses, latencies = chain.truth.loss_of(rungs), chain.truth.latency_ms_of(rungs)
    for slower in front:
        assert losses[latencies <= slower.latency_ms].min(initial=np.inf) >= slower.loss - 1e-12
    assert front[-1].latency_ms == pytest.approx(10.0)
