import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.make_guide import make_guide
from gulliver.search.sensitivity import Sensitivities
from gulliver.search.settings import Budget, FinalistSettings, SearchSettings

UNTOUCHED_MS = 12.0


@pytest.fixture(scope="module")
def measured(space):
    """Return losses of each choice, and prices of a network that takes 12 ms where nothing is changed."""
    losses = {(it.name, rung): 0.1 * rung for it in space.dimensions for rung in range(1, it.rungs)}
    prices = (
        Factor((), np.array(2.0)),
        Factor((0,), np.array([6.0, 3.0])),
        Factor((0, 1), np.array([[4.0, 5.0], [5.0, 1.0]])),
    )
    return Sensitivities("direct", losses, {}), prices


def guide(space, measured, **settings):
    return make_guide(space, *measured, SearchSettings(**settings), original_score=0.9)


def test_the_problem_has_the_dimensions_of_the_space_with_their_losses_and_prices(space, measured):
    problem = guide(space, measured).problem
    assert problem.names == tuple(it.name for it in space.dimensions)
    assert problem.sizes == tuple(it.rungs for it in space.dimensions)
    rungs = np.zeros((2, len(problem.sizes)), dtype=int)
    rungs[1, :2] = 1
    assert problem.latency_ms_of(rungs).tolist() == [UNTOUCHED_MS, 2.0 + 3.0 + 1.0]
    assert problem.loss_of(rungs).tolist() == [0.0, 0.2]


def test_every_variable_stands_where_its_layer_is_in_the_network(space, measured):
    layers = list(space.graph.layers)
    positions = guide(space, measured).positions
    assert [layers[it] for it in positions] == [it.owner for it in space.dimensions]
    assert layers[positions[0]] == "stem.conv"


@pytest.mark.parametrize(
    ("budget", "highest_ms"),
    [
        (Budget(), UNTOUCHED_MS),
        (Budget(max_latency_ms=5.0), 5.0),
        (Budget(max_latency_ms=50.0), UNTOUCHED_MS),
    ],
)
def test_latencies_count_up_to_the_budgets_or_the_untouched_networks(space, measured, budget, highest_ms):
    assert guide(space, measured, budget=budget).highest_latency_ms == highest_ms


@pytest.mark.parametrize(
    ("finalists", "largest_drop"),
    [
        (FinalistSettings(recoverable_share=0.9), 0.2),
        (FinalistSettings(recoverable_share=0.9, other_drops=(0.01, 0.03)), 0.3),
        (FinalistSettings(finetune=None, recoverable_share=0.9), 0.02),
        (FinalistSettings(finetune=None, other_drops=(0.03,)), 0.03),
    ],
)
def test_scores_count_down_to_what_fine_tuning_leaves_the_largest_bar_of(space, measured, finalists, largest_drop):
    made = guide(space, measured, budget=Budget(max_drop=0.02), finalists=finalists)
    assert made.lowest_score == pytest.approx(0.9 - largest_drop)
    assert made.original_score == 0.9


def test_where_nothing_may_be_lost_fine_tuning_is_trusted_as_for_half_a_point(space, measured):
    made = guide(space, measured, budget=Budget(max_drop=0.0), finalists=FinalistSettings(recoverable_share=0.9))
    assert made.lowest_score == pytest.approx(0.9 - 0.05)


@pytest.mark.parametrize(
    "objectives", [("accuracy_search", "latency_ms"), ("size_bytes", "latency_ms", "accuracy_search")]
)
def test_the_score_is_found_among_the_objectives(space, measured, objectives):
    assert objectives[guide(space, measured, objectives=objectives).score_index] == "accuracy_search"
