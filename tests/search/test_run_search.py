"""The main job on real parts: digits, Optuna's journal, MLflow in SQLite, OpenVINO on this CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from gulliver.compressors.compress import apply
from gulliver.evaluators.accuracy import score
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search import search
from gulliver.search.make_finalists import SOLVED_BETWEEN
from gulliver.search.settings import FinalistSettings
from gulliver.search.tracking import TrackingSettings
from gulliver.spaces.recipe_file import read_recipe
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.digits_cnn import DigitsCNN

GULLIVER = Path(sys.executable).with_name("gulliver")
QUICK = [
    "task=digits_cnn",
    "trials=12",
    "finalists.count=2",
    "finalists.other_drops=[0.5]",
    "finalists.finetune.epochs=1",
    "trial.finetune.steps=4",
    "target.calibration_networks=2",
    "target.repetitions=10",
]


def gulliver(folder, cache, *arguments):
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [GULLIVER, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def age_fits(cache, hours):
    """Return the files of what was fitted to this machine, made older."""
    fits = list((cache / "gulliver" / "hot_kernel_times").glob("*.json"))
    for fit in fits:
        os.utime(fit, (time.time() - 3600 * hours,) * 2)
    assert fits
    return fits


@pytest.fixture(scope="module")
def searched(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("searched")
    result = gulliver(folder, cache, "search", *QUICK, "out=run")
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_the_run_directory_holds_every_output(searched):
    out, _ = searched
    for name in (
        "recipes/best.yaml",
        "recipes/front-00.yaml",
        "trials.parquet",
        "front.csv",
        "front.png",
        "summary.json",
    ):
        assert (out / name).stat().st_size > 0, name
    assert (out.parent / "mlflow.db").exists()


def test_the_summary_has_what_was_measured_of_the_originals_and_the_best(searched):
    out, _ = searched
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["task"], summary["target"], summary["seed"]) == ("digits_cnn", "cpu_openvino", 0)
    assert summary["trials"] == len(pandas.read_parquet(out / "trials.parquet"))
    assert summary["hypervolume"] > 0
    assert {"prepare", "calibrate", "search", "finalists", "measure"} <= set(summary["seconds"])
    measured = {"accuracy_search", "accuracy_test", "latency_ms", "latency_p10_ms", "latency_p90_ms", "size_bytes"}
    measured |= {"drop_test_low", "drop_test_high"}
    assert set(summary["baseline"]) == set(summary["bf16"]) == measured
    assert set(summary["best"]) == measured | {"predicted_latency_ms", "recipe"}
    for entry in (summary["baseline"], summary["bf16"], summary["best"]):
        assert entry["latency_p10_ms"] <= entry["latency_ms"] <= entry["latency_p90_ms"]
        assert 0.8 < entry["accuracy_test"] <= 1
        drop = summary["baseline"]["accuracy_test"] - entry["accuracy_test"]
        assert entry["drop_test_low"] <= drop + 1e-9
        assert drop <= entry["drop_test_high"] + 1e-9
    assert 0 <= summary["samples_saved"] < 1
    assert Path(summary["best"]["recipe"]).name == "best.yaml"


def test_the_best_networks_prediction_is_scaled_by_how_much_slower_the_original_runs_than_at_the_fit(searched, cache):
    out, _ = searched
    summary = json.loads((out / "summary.json").read_text())
    (fitted,) = (cache / "gulliver" / "hot_kernel_times").glob("*.json")
    slower = summary["bf16"]["latency_ms"] / json.loads(fitted.read_text())["untouched_ms"]
    trials = pandas.read_parquet(out / "trials.parquet")
    modelled_ms = trials.loc[trials["recipe_key"] == read_recipe(out / "recipes" / "best.yaml").key, "latency_ms"]
    assert summary["best"]["predicted_latency_ms"] == pytest.approx(slower * modelled_ms.iloc[0])


def test_every_trial_and_the_front_are_in_the_tables(searched):
    out, _ = searched
    trials = pandas.read_parquet(out / "trials.parquet")
    assert list(trials["trial"]) == list(range(len(trials)))
    # Of the twelve that were asked for none is, of those that finalists ask for every one.
    assert list(trials["proposed_by"] == SOLVED_BETWEEN) == [it >= 12 for it in range(len(trials))]
    members = pandas.read_csv(out / "front.csv")
    assert members["latency_ms"].is_monotonic_increasing
    assert members["accuracy_search"].is_monotonic_increasing
    assert set(members["recipe_key"]) <= set(trials["recipe_key"])
    assert len(list((out / "recipes").glob("front-*.yaml"))) == len(members)


def test_the_fastest_finalist_within_another_drop_is_marked_and_has_a_recipe_of_its_own(searched):
    out, stdout = searched
    (line,) = [it for it in stdout.splitlines() if it.endswith("  within 0.5")]
    fastest = read_recipe(out / "recipes" / "within-0.5.yaml")
    assert line.startswith(f"recipe {fastest.key[:8]}")
    best = read_recipe(out / "recipes" / "best.yaml")
    assert fastest.found_for.measured["latency_ms"] <= best.found_for.measured["latency_ms"]


def test_the_recipe_says_what_it_was_found_for(searched):
    out, _ = searched
    found_for = read_recipe(out / "recipes" / "best.yaml").found_for
    assert (found_for.task, found_for.target, found_for.seed) == ("digits_cnn", "cpu_openvino", 0)
    assert set(found_for.versions) == {"gulliver", "torch", "openvino", "optuna"}
    assert found_for.settings["conditions"] == "batch 32, 1 inference thread"
    assert found_for.measured["latency_ms"] > 0


def test_the_output_shows_the_front_the_best_recipe_and_the_dashboard(searched):
    _, stdout = searched
    for words in (
        "OpenVINO fp32",
        "OpenVINO bf16",
        "(best)",
        "recipes/best.yaml",
        "mlflow ui --backend-store-uri",
        "batch 32",
    ):
        assert words in stdout


def test_mlflow_has_a_run_named_by_what_was_searched_with_its_settings_and_curves_of_the_finalists_fine_tuning(
    searched, tmp_path
):
    from mlflow.tracking import MlflowClient

    out, _ = searched
    client = MlflowClient(f"sqlite:///{out.parent / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'gulliver'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`gulliver.kind` = 'search'")
    assert run.info.run_name == "digits_cnn on cpu_openvino, run"
    # What it was launched with, and all that decided its outcome, as in the run directory.
    for name in ("config.yaml", "settings.json"):
        logged = Path(client.download_artifacts(run.info.run_id, name, str(tmp_path)))
        assert logged.read_bytes() == (out / name).read_bytes()
    curves = [name for name in run.data.metrics if name.startswith("fine-tuning/")]
    assert curves
    for name in curves:
        history = client.get_metric_history(run.info.run_id, name)
        assert [it.step for it in history] == [0, 1]
        assert all(0 <= it.value <= 1 for it in history)
    assert not list(out.glob("finalists/*/checkpoints"))


def test_the_recipe_applied_in_a_new_process_gives_the_same_accuracy(searched, cache, tmp_path):
    out, _ = searched
    arguments = [f"recipe={out / 'recipes' / 'best.yaml'}", "task=digits_cnn", "target.repetitions=10", "out=applied"]
    result = gulliver(tmp_path, cache, "apply", *arguments)
    assert result.returncode == 0, result.stderr
    applied = json.loads((tmp_path / "applied" / "apply.json").read_text())
    best = json.loads((out / "summary.json").read_text())["best"]
    assert applied["recipe"]["accuracy_test"] == best["accuracy_test"]
    assert applied["recipe"]["accuracy_search"] == best["accuracy_search"]
    # The names in the IR's XML carry counters that differ by process.
    assert applied["recipe"]["size_bytes"] == pytest.approx(best["size_bytes"], rel=0.01)


def test_a_recipe_for_another_network_is_refused(searched, cache, tmp_path):
    out, _ = searched
    recipe = tmp_path / "other.yaml"
    text = (out / "recipes" / "best.yaml").read_text()
    recipe.write_text("\n".join("  network: abcdef" if it.startswith("  network:") else it for it in text.splitlines()))
    result = gulliver(tmp_path, cache, "apply", f"recipe={recipe}", "task=digits_cnn")
    assert result.returncode == 2
    assert "the recipe must be for this network" in result.stderr


def test_the_recipe_is_shown_layer_by_layer(searched, cache):
    out, _ = searched
    result = gulliver(out, cache, "show", "recipe=recipes/best.yaml")
    assert result.returncode == 0
    assert "stages.0.0.conv1" in result.stdout


def test_the_same_command_on_a_finished_search_gives_the_same_result_without_scoring(searched, cache):
    out, _ = searched
    before = (out / "scores.jsonl").read_bytes()
    front = (out / "front.csv").read_bytes()
    fits = age_fits(cache, hours=1)
    result = gulliver(out.parent, cache, "search", *QUICK, "out=run")
    assert result.returncode == 0, result.stderr
    assert (out / "scores.jsonl").read_bytes() == before
    assert (out / "front.csv").read_bytes() == front
    # New trials would be priced as the old ones were: only a search that begins is fitted anew.
    assert [it.stat().st_mtime for it in fits] == pytest.approx([time.time() - 3600] * len(fits), abs=600)
    age_fits(cache, hours=0)


def test_a_finished_search_is_solved_for_another_budget_without_scoring_anything(searched, cache, tmp_path):
    out, _ = searched
    scores = (out / "scores.jsonl").read_bytes()
    result = gulliver(out.parent, cache, "solve", "run=run", "steps=5", f"out={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert (out / "scores.jsonl").read_bytes() == scores
    steps = [read_recipe(path) for path in sorted(tmp_path.glob("step-*.yaml"))]
    latencies = [recipe.found_for.predicted["latency_ms"] for recipe in steps]
    assert latencies == sorted(latencies)
    assert len(steps) >= 3
    assert "for the budget" in result.stdout
    limit_ms = (latencies[0] + latencies[-1]) / 2
    result = gulliver(
        out.parent, cache, "solve", "run=run", f"budget.max_latency_ms={limit_ms}", f"out={tmp_path / 'limited'}"
    )
    assert result.returncode == 0, result.stderr
    best = read_recipe(tmp_path / "limited" / "best.yaml")
    assert latencies[0] <= best.found_for.predicted["latency_ms"] <= limit_ms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "run must be given, as in run=DIR"),
        (("run=nowhere",), "run must be the folder of a search that `gulliver search` made"),
        (("run=run", "steps=1"), "`2 <= steps <= 1000` must hold, whole, but it is 1"),
        (("run=run", "budget.max_latency_ms=1e-6"), "no recipe of this space is faster"),
    ],
)
def test_what_cannot_be_solved_again_is_one_line_and_exit_status_2(searched, cache, arguments, message):
    out, _ = searched
    result = gulliver(out.parent, cache, "solve", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_sensitivities_are_a_table_and_a_heat_map_and_are_judged_by_the_trials(searched):
    out, stdout = searched
    losses = pandas.read_csv(out / "sensitivities.csv")
    assert (losses["loss"] >= 0).all()
    assert set(losses["method"]) == {"direct"}
    assert (out / "sensitivities.png").stat().st_size > 0
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["rank_correlation"]) == {"direct", "gradient"}
    correlations = ", ".join(f"{value:.2f} ({method})" for method, value in summary["rank_correlation"].items())
    assert f"rank correlation of predicted losses with the accuracy that trials lost: {correlations}\n" in stdout


def test_a_search_that_chooses_calibrators_and_kinds_of_split_runs_through_and_exports_what_it_simulates(
    searched, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    task = DigitsCNN()
    space = SpaceOptions(max_ratio=0.0, ranks=(0.5,), calibrators=("min_max", "mse"), decompositions=("svd", "tucker2"))
    target = CpuOpenvino(calibration_networks=1, kernel_repetitions=3, repetitions=5)
    finalists, tracking = FinalistSettings(count=2, finetune=None), TrackingSettings(enabled=False)
    result = search(task, target, trials=6, out=tmp_path, tracking=tracking, finalists=finalists, space=space)
    assert set(result.summary["rank_correlation"]) == {"direct", "gradient"}
    losses = pandas.read_csv(tmp_path / "sensitivities.csv").groupby("dimension")["rung"].max()
    assert losses["precision/stem.conv"] == losses["rank/stages.0.0.conv1"] == 2
    tried = " ".join(pandas.read_parquet(tmp_path / "trials.parquet")["recipe"])
    assert '"calibrator": "min_max"' in tried
    assert '"calibrator": "mse"' in tried
    for finalist in result.finalists:
        network = apply(task, finalist.recipe)
        assert score(task, network, "test") == pytest.approx(finalist.measured.accuracy_test, abs=0.01)
    assert read_recipe(tmp_path / "recipes" / "best.yaml") == result.best.recipe


def test_a_space_without_a_choice_is_one_line_and_exit_status_2(searched, cache, tmp_path):
    empty = ["space.bits=[]", "space.max_ratio=0", "space.ranks=[]"]
    result = gulliver(tmp_path, cache, "search", *QUICK, *empty, "out=run")
    assert result.returncode == 2
    assert result.stderr == "gulliver: the space is empty: nothing that `space` allows can run on this target\n"


def test_another_search_in_the_same_folder_is_refused(searched, cache):
    out, _ = searched
    result = gulliver(out.parent, cache, "search", *QUICK, "out=run", "seed=5")
    assert result.returncode == 2
    assert "holds a search with seed=0, but seed=5 is asked for" in result.stderr


def test_a_search_that_is_killed_resumes_and_scores_no_recipe_twice(searched, cache, tmp_path):
    out, _ = searched
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [GULLIVER, "search", *QUICK, "out=run"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as it:
        scores = tmp_path / "run" / "scores.jsonl"
        deadline = time.monotonic() + 120
        while not (scores.exists() and scores.read_text().count("\n") >= 4):
            assert it.poll() is None, "the search ended before it was killed"
            assert time.monotonic() < deadline, "the search scored nothing in two minutes"
            time.sleep(0.02)
        it.send_signal(signal.SIGKILL)
    before = scores.read_text().splitlines()[:4]
    result = gulliver(tmp_path, cache, "search", *QUICK, "out=run")
    assert result.returncode == 0, result.stderr
    after = scores.read_text().splitlines()
    assert after[:4] == before
    keys = [json.loads(line)["key"] for line in after]
    assert len(keys) == len(set(keys))
    columns = ["trial", "recipe_key", "accuracy_search", "latency_ms"]
    straight, resumed = (pandas.read_parquet(it / "trials.parquet")[columns] for it in (out, tmp_path / "run"))
    pandas.testing.assert_frame_equal(straight, resumed)


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_sweep_runs_every_job(searched, cache, tmp_path, launcher):
    quick = [it for it in QUICK if not it.startswith("trials")]
    result = gulliver(
        tmp_path, cache, "search", "-m", *quick, "trials=3", "seed=1,2", "finalists.finetune=null", *launcher
    )
    assert result.returncode == 0, result.stderr
    summaries = sorted(tmp_path.glob("outputs/*/summary.json"))
    assert sorted(json.loads(it.read_text())["seed"] for it in summaries) == [1, 2]


def test_a_search_repeated_with_two_seeds_shows_both_and_their_band(searched, cache, tmp_path):
    quick = [it for it in QUICK if not it.startswith("trials")]
    more = ["trials=3", "seed=1", "seeds=2", "finalists.finetune=null", "out=twice"]
    result = gulliver(tmp_path, cache, "search", *quick, *more)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "twice" / "seeds.json").read_text())
    summaries = [json.loads((Path(tmp_path / it["out"]) / "summary.json").read_text()) for it in record["runs"]]
    assert record["seeds"] == [it["seed"] for it in summaries] == [1, 2]
    assert [it["latency_ms"] for it in record["runs"]] == [it["best"]["latency_ms"] for it in summaries]
    assert (tmp_path / "twice" / "front_seeds.png").stat().st_size > 0
    assert "lost on test" in result.stdout
    assert (tmp_path / "mlflow.db").exists()
