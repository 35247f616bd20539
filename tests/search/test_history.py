import numpy as np
from gulliver.search.history import History

# Three recipes of two variables; the second failed, the third is not scored yet.
HISTORY = History(np.array([[0, 1], [2, 0], [1, 1]]), np.array([0.9, -np.inf, np.nan]))


def test_recipes_that_failed_or_are_not_scored_yet_are_held_but_not_scored():
    assert HISTORY.holds(np.array([[2, 0], [1, 1], [1, 0]])).tolist() == [True, True, False]
    assert HISTORY.scored.rungs.tolist() == [[0, 1]]
    assert HISTORY.scored.scores.tolist() == [0.9]


def test_the_first_that_was_not_tried_is_found_where_there_is_one():
    assert HISTORY.first_untried(np.array([[1, 1], [1, 2], [0, 0]])).tolist() == [1, 2]
    assert HISTORY.first_untried(HISTORY.rungs) is None
    assert HISTORY.first_untried(HISTORY.rungs[:0]) is None


def test_keys_do_not_depend_on_how_rungs_lie_in_memory():
    turned = History(np.asfortranarray(HISTORY.rungs).astype(np.int16), HISTORY.scores)
    assert turned.keys == HISTORY.keys
    assert len(set(HISTORY.keys)) == 3


def test_histories_are_joined_and_cut_in_the_order_of_trials():
    joined = HISTORY.followed_by(History(np.array([[3, 3]]), np.array([0.8])))
    assert joined.first(1).rungs.tolist() == [[0, 1]]
    assert joined.last(2).rungs.tolist() == [[1, 1], [3, 3]]
    assert joined.last(1).scores.tolist() == [0.8]
