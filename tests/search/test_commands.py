from types import SimpleNamespace

from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.commands import run_solve_job
from gulliver.search.jobs import SolveJob
from gulliver.search.solve_run import Solved
from gulliver.spaces.recipe import LayerRecipe, Recipe

SOLVED = Solved(Recipe({"layer": LayerRecipe()}), latency_ms=1.0, drop=0.01)


def solve(out, steps):
    searched = SimpleNamespace(task=None, target=CpuOpenvino())
    run_solve_job(SolveJob(out, searched, settings=None, target=CpuOpenvino(), steps=steps, out=out))


def test_a_ladder_of_fewer_steps_leaves_none_of_the_longer_one(tmp_path, monkeypatch):
    solver = SimpleNamespace(ladder=lambda steps: [SOLVED] * steps, best=lambda: SOLVED)
    monkeypatch.setattr("gulliver.search.solve_run.open_solver", lambda *_: solver)
    for steps in (4, 2):
        solve(tmp_path, steps)
    assert sorted(it.name for it in tmp_path.iterdir()) == ["best.yaml", "step-00.yaml", "step-01.yaml"]
