import numpy as np
import pytest
from gulliver.search.moves import MOVES, Neighbourhood, all_moves, change_one, change_segment, trade

SIZES, POSITIONS = (3, 1, 4, 2, 5), (0, 0, 1, 2, 1)
NEIGHBOURHOOD = Neighbourhood(SIZES, POSITIONS)
ARCHIVE = np.array([[0, 0, 3, 1, 2], [2, 0, 0, 0, 4], [1, 0, 1, 1, 0]])
COUNT = 400


def random(seed=0):
    return np.random.default_rng(seed)


def steps_from_a_member(row):
    """Return the changes of each variable, from every member that the row may have come from."""
    return [row - member for member in ARCHIVE]


def test_one_variable_goes_to_another_rung_that_it_has():
    made = change_one(NEIGHBOURHOOD, ARCHIVE, COUNT, random())
    assert made.shape == (COUNT, len(SIZES))
    for row in made:
        # The members differ from each other in three variables and more, so the nearest is the one that was changed.
        changed = min((np.flatnonzero(it) for it in steps_from_a_member(row)), key=len)
        assert len(changed) <= 1
    changed_rows = [row for row in made if not (row == ARCHIVE).all(1).any()]
    # A variable of one rung, one in five of those drawn, stays where it is: 320 of 400, 8 being a standard deviation.
    assert 320 - 4 * 8 < len(changed_rows) < 320 + 4 * 8
    assert {tuple(row) for row in changed_rows} == {
        (*member[:column], rung, *member[column + 1 :])
        for member in map(tuple, ARCHIVE)
        for column, size in enumerate(SIZES)
        for rung in range(size)
        if rung != member[column]
    }


def test_one_stretch_of_the_network_is_as_in_another_member():
    positions = np.array(POSITIONS)
    possible = set()
    for member in ARCHIVE:
        for other in ARCHIVE:
            for first in range(3):
                for last in range(first, 3):
                    inside = (first <= positions) & (positions <= last)
                    possible.add(tuple(np.where(inside, other, member).tolist()))
    made = change_segment(NEIGHBOURHOOD, ARCHIVE, COUNT, random())
    assert {tuple(row.tolist()) for row in made} == possible


def test_two_variables_are_traded_one_up_and_one_down():
    middle = np.array([[2, 2, 2]])
    made = trade(Neighbourhood((5, 5, 5), (0, 1, 2)), middle, COUNT, random())
    assert {tuple((row - middle[0]).tolist()) for row in made} == {
        (1, -1, 0),
        (1, 0, -1),
        (0, 1, -1),
        (-1, 1, 0),
        (-1, 0, 1),
        (0, -1, 1),
    }


def test_a_variable_at_its_last_rung_is_not_traded_beyond_it():
    ends = np.array([[0, 4, 2]])
    made = trade(Neighbourhood((5, 5, 5), (0, 1, 2)), ends, COUNT, random())
    # The first cannot go down, nor the second up.
    assert {tuple((row - ends[0]).tolist()) for row in made} == {
        (1, -1, 0),
        (1, 0, -1),
        (0, 0, -1),
        (0, 0, 0),
        (0, 0, 1),
        (0, -1, 1),
    }


@pytest.mark.parametrize("name", MOVES)
def test_every_rung_is_one_that_its_variable_has_and_the_archive_stays(name):
    before = ARCHIVE.copy()
    made = MOVES[name](NEIGHBOURHOOD, ARCHIVE, COUNT, random())
    assert made.dtype == np.intp
    assert ((made >= 0) & (made < SIZES)).all()
    assert (before == ARCHIVE).all()


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("size", [1, 3])
def test_a_single_variable_is_moved_as_far_as_it_can_be(name, size):
    made = MOVES[name](Neighbourhood((size,), (0,)), np.array([[0]]), 50, random())
    assert made.shape == (50, 1)
    assert set(made[:, 0].tolist()) == ({1, 2} if name == "change one" and size == 3 else {0})


@pytest.mark.parametrize("name", MOVES)
def test_the_same_seed_makes_the_same_moves(name):
    made = [MOVES[name](NEIGHBOURHOOD, ARCHIVE, COUNT, random(seed)).tolist() for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_all_moves_are_made_as_often_and_named():
    made, names = all_moves(NEIGHBOURHOOD, ARCHIVE, 7, random())
    assert made.shape == (21, len(SIZES))
    assert list(names) == ["change one"] * 7 + ["change a segment"] * 7 + ["trade"] * 7
    assert (made[:7] == change_one(NEIGHBOURHOOD, ARCHIVE, 7, random())).all()
