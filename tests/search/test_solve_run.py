"""A finished search on a chip that is not here, solved again: nothing is scored, so that tests take no time."""

from dataclasses import replace

import pytest
import torch
from gulliver.compressors.compress import is_thinned
from gulliver.compressors.finetune import Recovery
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.size import Size
from gulliver.search.run_search import run_search
from gulliver.search.sensitivity import SensitivitySettings
from gulliver.search.settings import Budget, FinalistSettings, SearchSettings, TrialSettings
from gulliver.search.solve_run import open_solver, solve_table
from gulliver.search.tracking import TrackingSettings
from gulliver.spaces.recipe import Finetune
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.digits_cnn import DigitsCNN
from gulliver.tasks.moe_block import MoeBlock

CHIP = ChipTarget("ascend_910b2", batch=4)
TASKS = {
    "with training inputs": lambda: DigitsCNN(epochs=2, training_samples=300, search_samples=60),
    "without": lambda: MoeBlock(width=64, hidden=32, samples=4),
}
SETTINGS = SearchSettings(
    trials=4,
    budget=Budget(max_drop=0.02),
    sensitivity=SensitivitySettings(method="gradient", samples=4, pairs=0),
    trial=TrialSettings(Recovery(steps=0)),
    finalists=FinalistSettings(count=1, finetune=None),
    space=SpaceOptions(ranks=()),
)
TUNED = FinalistSettings(count=1, finetune=Finetune(epochs=1))


@pytest.fixture(scope="module", params=TASKS)
def searched(request, tmp_path_factory):
    """Return a task, whether it has training inputs, and the folder of a search with it."""
    folder = tmp_path_factory.mktemp("searched")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        task = TASKS[request.param]()
        run_search(task, CHIP, SETTINGS, TrackingSettings(enabled=False), folder / "run", lambda line: None)
        yield task, request.param == "with training inputs", folder / "run"


def solver_for(searched, **budget):
    task, _, run = searched
    settings = replace(SETTINGS, finalists=TUNED, budget=Budget(max_drop=0.02) if not budget else Budget(**budget))
    return open_solver(run, task, settings, CHIP, CHIP)


def test_recipes_are_fine_tuned_as_finalists_are_and_may_lose_as_much_more_where_the_task_can_train(searched):
    _, can_train, _ = searched
    solver = solver_for(searched)
    # Fine-tuning is trusted to win back nine tenths.
    assert solver.settings.largest_drop == pytest.approx(0.2 if can_train else 0.02)
    tuned = {it.recipe.finetune for it in solver.ladder(6) if is_thinned(it.recipe)}
    assert tuned == ({Finetune(epochs=1)} if can_train else set())


def test_the_best_keeps_the_budget_for_the_size_too(searched):
    ladder = solver_for(searched).ladder(6)
    sizes = [it.size_bytes for it in ladder]
    assert sizes == [Size(solver_for(searched).space.graph)(it.recipe) for it in ladder]
    limit = int((min(sizes) + max(sizes)) / 2)
    solver = solver_for(
        searched, max_drop=1.0, max_latency_ms=max(it.latency_ms for it in ladder), max_size_bytes=limit
    )
    best = solver.best()
    assert best.size_bytes <= limit
    assert solver.keeps_budget(best)


def test_where_nothing_is_small_enough_the_smallest_is_the_closest(searched):
    solver = solver_for(searched, max_drop=1.0, max_size_bytes=1)
    assert solver.best().size_bytes == min(it.size_bytes for it in solver.ladder(96))


def test_a_method_that_the_searched_target_has_not_is_never_chosen_on_one_that_has_it(searched, tmp_path):
    task, without = searched[0], ChipTarget("ascend_950pr", batch=4)
    assert not without.capabilities.sparse_2_4
    assert CHIP.capabilities.sparse_2_4
    run_search(task, without, SETTINGS, TrackingSettings(enabled=False), tmp_path, lambda line: None)
    solver = open_solver(tmp_path, task, SETTINGS, without, CHIP)
    patterns = [index for index, it in enumerate(solver.space.dimensions) if it.method == "pattern"]
    tried = [solver.space.encode(it.recipe) for it in (*solver.ladder(6), solver.best())]
    assert patterns
    assert {it[solver.space.dimensions[index].name] for it in tried for index in patterns} == {0}


def test_where_nothing_is_predicted_to_keep_the_budget_the_table_says_so(searched):
    solver = solver_for(searched, max_drop=1.0, max_size_bytes=1)
    ladder, best = solver.ladder(3), solver.best()
    assert not solver.keeps_budget(best)
    last = solve_table(ladder, best, solver.keeps_budget(best), CHIP.conditions).splitlines()[-1]
    assert last.endswith("the closest to the budget, which nothing is predicted to keep")
    assert solve_table(ladder, best, True, CHIP.conditions).endswith("  for the budget")
