import itertools

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search import proposer
from gulliver.search.guide import Guide
from gulliver.search.history import History
from gulliver.search.prediction import fit
from gulliver.search.problem import Problem
from gulliver.search.proposer import EXACT_SOLVE, SOLVED_AGAIN, Proposer
from gulliver.search.solve import solve

from benchmarks.search.chain_problem import chain_problem

GROUPS = 12
CHAIN = chain_problem(GROUPS, 4, seed=0)


def guide_of(problem=CHAIN.known, highest_latency_ms=10.0):
    return Guide(problem, tuple(range(len(problem.sizes))), 1.0, 0.5, highest_latency_ms)


GUIDE = guide_of()


def history_of(rungs, scores=None):
    rungs = np.array(rungs, dtype=np.intp).reshape(-1, GROUPS)
    return History(rungs, CHAIN.accuracy(rungs) if scores is None else np.array(scores, dtype=float))


def random_history(count, seed=0):
    return history_of(np.random.default_rng(seed).integers(0, 4, (count, GROUPS)))


def propose(history, guide=None, exact_before=9, seed=0):
    return Proposer(guide or GUIDE).propose(history, exact_before, np.random.default_rng(seed))


def test_the_first_proposals_are_solutions_from_all_over_the_ladder():
    solutions = [it.rungs for it in GUIDE.ladder]
    places, history = [], history_of([])
    for index in range(4):
        rungs, name = Proposer(GUIDE).propose(history, index, np.random.default_rng(0))
        assert name == EXACT_SOLVE
        places.append(solutions.index(tuple(rungs.tolist())))
        history = history_of([*history.rungs.tolist(), rungs.tolist()])
    # 1/2, 1/4, 3/4 and 1/8 of the way.
    last = len(solutions) - 1
    assert places == [round(share * last) for share in (0.5, 0.25, 0.75, 0.125)]


@pytest.mark.parametrize("tried", [3, 20])
def test_a_recipe_within_a_latency_is_the_best_that_is_expected_there(tried):
    history = random_history(tried)
    random = random_history(2000, seed=1).rungs
    latencies_ms = GUIDE.problem.latency_ms_of(random)
    limit_ms = float(np.median(latencies_ms))
    rungs = Proposer(GUIDE).within(history, limit_ms)[None]
    assert GUIDE.problem.latency_ms_of(rungs)[0] <= limit_ms
    problem = GUIDE.problem if tried == 3 else fit(GUIDE, history).corrected_problem(history)
    assert problem.loss_of(rungs)[0] <= problem.loss_of(random[latencies_ms <= limit_ms]).min()


def test_a_recipe_within_a_latency_is_about_that_fast_and_was_not_tried():
    tried = random_history(20)
    limit_ms = float(np.median(GUIDE.problem.latency_ms_of(random_history(2000, seed=1).rungs)))
    for _ in range(3):
        rungs = Proposer(GUIDE).within(tried, limit_ms)
        assert not tried.holds(rungs[None])[0]
        assert 0.9 * limit_ms <= GUIDE.problem.latency_ms_of(rungs[None])[0] <= limit_ms
        tried = tried.followed_by(History(rungs[None], np.array([-np.inf])))


def test_a_latency_is_solved_for_with_what_the_trials_taught_too_once_there_are_enough(monkeypatch):
    solved = []
    monkeypatch.setattr(
        proposer, "solve", lambda problem, budgets_ms: solved.append(problem) or solve(problem, budgets_ms)
    )
    for count in (7, 8):
        Proposer(GUIDE).within(random_history(count), 5.0)
    assert [problem is CHAIN.known for problem in solved] == [True, True, False]


def test_no_recipe_is_found_where_none_is_so_fast():
    assert Proposer(GUIDE).within(random_history(3), 1e-6) is None


def test_a_solution_that_was_tried_is_replaced_by_the_nearest():
    solutions = [it.rungs for it in GUIDE.ladder]
    middle = round(0.5 * (len(solutions) - 1))
    rungs, _ = propose(history_of([solutions[middle]]), exact_before=0)
    assert abs(solutions.index(tuple(rungs.tolist())) - middle) == 1


def test_the_same_history_and_seed_give_the_same_proposal():
    history = random_history(20)
    found = [propose(history, seed=seed) for seed in (3, 3)]
    assert found[0][0].tolist() == found[1][0].tolist()
    assert found[0][1] == found[1][1]


def test_a_guide_that_served_another_history_gives_the_same_proposal():
    used, fresh = guide_of(), guide_of()
    propose(random_history(20, seed=1), used)
    assert propose(random_history(20), used)[0].tolist() == propose(random_history(20), fresh)[0].tolist()


def test_every_proposal_says_who_made_it():
    names = {propose(random_history(count), seed=count)[1] for count in (1, 2, 5, 8, 13, 20, 30)}
    assert names <= {EXACT_SOLVE, SOLVED_AGAIN, "change one", "change a segment", "trade"}


def test_the_ladder_is_solved_again_for_every_other_proposal_once_as_many_more_recipes_are_scored():
    guide, solved = guide_of(), []
    for count in (7, 8, 9, 15, 16, 17):
        propose(random_history(count), guide, exact_before=4)
        solved.append(len(guide.solved_again))
    assert solved == [0, 0, 1, 1, 1, 2]


def test_recipes_of_a_batch_are_believed_to_score_as_predicted_so_that_the_next_one_is_another():
    history, batch = random_history(12), []
    for _ in range(4):
        rungs, _ = propose(history)
        batch.append(tuple(rungs.tolist()))
        history = history_of([*history.rungs.tolist(), rungs.tolist()], [*history.scores, np.nan])
    assert len(set(batch)) == 4
    latencies = CHAIN.known.latency_ms_of(np.array(batch))
    # Apart by more than the least step of the front's ladder, not four of one place.
    assert np.ptp(latencies) > 0.1


def test_a_failed_recipe_is_not_proposed_again_and_teaches_nothing():
    history = random_history(13)
    promising, _ = propose(history)
    other, another = random_history(2, seed=5).rungs
    # Two more each time, since every other trial is a step of the ladder.
    again, _ = propose(history_of([*history.rungs, promising, other], [*history.scores, -np.inf, -np.inf]))
    assert again.tolist() != promising.tolist()
    unmoved, _ = propose(history_of([*history.rungs, other, another], [*history.scores, -np.inf, -np.inf]))
    assert unmoved.tolist() == promising.tolist()


@pytest.mark.parametrize("scores", [[-np.inf] * 9, [np.nan] * 9, [1.0] * 9, [0.0] * 9])
def test_scores_that_say_nothing_break_nothing(scores):
    history = random_history(9)
    rungs, _ = propose(history_of(history.rungs, scores))
    assert not History(history.rungs, history.scores).holds(rungs[None])[0]


def test_a_proposal_keeps_within_the_latency_that_counts():
    rungs, history = random_history(10).rungs.tolist(), random_history(10)
    for seed in range(8):
        proposed, _ = propose(history, guide_of(highest_latency_ms=4.0), exact_before=seed, seed=seed)
        assert CHAIN.known.latency_ms_of(proposed[None])[0] < 4.0
        rungs.append(proposed.tolist())
        history = history_of(rungs)


def test_a_latency_that_no_recipe_keeps_within_is_answered_by_the_fastest_recipes():
    guide = guide_of(highest_latency_ms=0.01)
    rungs, _ = propose(history_of([]), guide, exact_before=0)
    assert tuple(rungs.tolist()) == guide.ladder[0].rungs


def small_problem(*sizes):
    loss = tuple(Factor((it,), np.linspace(0.0, 1.0, size)) for it, size in enumerate(sizes))
    latency = tuple(Factor((it,), np.linspace(2.0, 1.0, size)) for it, size in enumerate(sizes))
    return Problem(tuple(f"precision/{it}" for it in range(len(sizes))), tuple(sizes), loss, latency)


@pytest.mark.parametrize("sizes", [(2,), (7,), (1,), (1, 3), (3, 2, 2), (2, 2, 2, 2, 2)])
def test_a_small_space_is_tried_out_before_anything_is_tried_again(sizes):
    problem = small_problem(*sizes)
    guide = guide_of(problem, highest_latency_ms=float(2 * len(sizes)))
    size = int(np.prod(sizes))
    tried: list[tuple[int, ...]] = []
    for index in range(size + 2):
        rungs = np.array(tried, dtype=np.intp).reshape(-1, len(sizes))
        scores = 1 - problem.loss_of(rungs) / (2 * len(sizes))
        proposed, _ = propose(History(rungs, scores), guide, exact_before=index, seed=index)
        tried.append(tuple(proposed.tolist()))
    assert set(tried[:size]) == set(itertools.product(*map(range, sizes)))
    assert set(tried[size:]) <= set(tried[:size])


def test_a_recipe_that_no_move_reaches_is_found_where_it_is_the_last():
    # Moves change a rung or two of what was tried; all that they reach from here was tried.
    problem = small_problem(*[2] * GROUPS)
    every = np.array(list(itertools.product(range(2), repeat=GROUPS)), dtype=np.intp)
    last = 1234
    history = History(np.delete(every, last, 0), np.full(len(every) - 1, -np.inf))
    rungs, _ = propose(history, guide_of(problem, 24.0))
    assert rungs.tolist() == every[last].tolist()
