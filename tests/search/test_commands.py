import shlex
from types import SimpleNamespace

import pytest
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.commands import run_search_job, run_solve_job
from gulliver.search.jobs import SolveJob
from gulliver.search.launch import check
from gulliver.search.solve_run import Solved
from gulliver.spaces.recipe import LayerRecipe, Recipe

SOLVED = Solved(Recipe({"layer": LayerRecipe()}), latency_ms=1.0, size_bytes=100.0, drop=0.01)


@pytest.fixture(autouse=True)
def _solver(monkeypatch):
    known = {"ladder": lambda steps: [SOLVED] * steps, "best": lambda: SOLVED, "keeps_budget": lambda _: True}
    monkeypatch.setattr("gulliver.search.solve_run.open_solver", lambda *_: SimpleNamespace(**known))


def solve(out, steps, target=None):
    searched, target = SimpleNamespace(task=None, target=CpuOpenvino()), target or CpuOpenvino()
    run_solve_job(SolveJob(out, searched, settings=None, target=target, steps=steps, out=out))


@pytest.mark.parametrize(("target", "does"), [(CpuOpenvino(), "measures"), (ChipTarget("ascend_910b2"), "scores")])
def test_what_applying_a_solved_recipe_tells_is_said(tmp_path, capsys, target, does):
    solve(tmp_path, 2, target)
    assert f"(predicted only: `gulliver apply` {does} it)" in capsys.readouterr().out


def test_a_ladder_of_fewer_steps_leaves_none_of_the_longer_one(tmp_path):
    for steps in (101, 2):
        solve(tmp_path, steps)
    assert sorted(it.name for it in tmp_path.iterdir()) == ["best.yaml", "step-00.yaml", "step-01.yaml"]


@pytest.mark.parametrize(("tracking", "lines"), [("sqlite", 1), ("none", 0)])
def test_a_dashboard_is_named_where_there_is_one(tmp_path, monkeypatch, capsys, tracking, lines):
    result = SimpleNamespace(explanation=(), out=tmp_path)
    monkeypatch.setattr("gulliver.search.run_search.run_search", lambda *_: result)
    run_search_job(check("search", [f"tracking={tracking}", f"out={tmp_path}"]))
    printed = capsys.readouterr().out
    assert printed.count("everything") == 1
    assert printed.count("dashboard ") == lines


def test_the_dashboards_command_can_be_given_to_a_shell_as_it_is(tmp_path, monkeypatch, capsys):
    out = tmp_path / "two words" / "run"
    result = SimpleNamespace(explanation=(), out=out)
    monkeypatch.setattr("gulliver.search.run_search.run_search", lambda *_: result)
    run_search_job(check("search", [f"out='{out}'"]))
    (line,) = (it for it in capsys.readouterr().out.splitlines() if it.startswith("dashboard "))
    assert shlex.split(line)[4] == f"sqlite:///{tmp_path}/two words/mlflow.db"
