import subprocess
import sys
from threading import Event

import pytest
from gulliver.search.journal import Scores
from gulliver.search.study import Candidate
from gulliver.search.tracking import Tracker, TrackingSettings
from gulliver.spaces.recipe import LayerRecipe, Recipe
from gulliver.tasks.errors import InputError

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run directory whose MLflow store is a real SQLite file, made once: its migrations take seconds."""
    folder = tmp_path_factory.mktemp("tracking") / "run"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "best.yaml").write_text("a: 1\n")
    (folder / "front.csv").write_text("trial\n0\n")
    return folder


def candidate(trial, accuracy=0.9):
    return Candidate(trial, Recipe({"layer": LayerRecipe()}), Scores(accuracy, 2.0, 100.0), 0.0, "tpe")


def scored(*trials):
    return {trial: candidate(trial).recipe.key for trial in trials}


def runs(tracker, experiment_name="gulliver"):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name(experiment_name)
    found = client.search_runs([experiment.experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return client, parents, [run for run in found if "mlflow.parentRunId" in run.data.tags]


def test_a_search_is_one_parent_run_with_a_nested_run_a_trial(out):
    tracker = Tracker(TrackingSettings(), out)
    tracker.start("digits", {"seed": 3})
    tracker.log_trial(candidate(0), {"hypervolume": 0.5})
    tracker.log_trial(candidate(1, accuracy=float("nan")), {"hypervolume": 0.5})
    tracker.finish({"best_latency_ms": 2.0}, out, ["recipes", "front.csv", "missing.png"])
    client, parents, trials = runs(tracker)
    assert [run.data.params for run in parents] == [{"seed": "3"}]
    assert {run.info.status for run in parents} == {"FINISHED"}
    assert parents[0].data.metrics == {"hypervolume": 0.5, "best_latency_ms": 2.0}
    assert sorted((run.data.tags["gulliver.trial"], run.info.status) for run in trials) == [
        ("0", "FINISHED"),
        ("1", "FAILED"),
    ]
    assert next(run for run in trials if run.data.tags["gulliver.trial"] == "0").data.metrics["latency_ms"] == 2.0
    assert {it.path for it in client.list_artifacts(parents[0].info.run_id)} == {"recipes", "front.csv"}


def test_what_a_trial_does_not_change_is_not_logged_on_the_parent_run_again(out):
    tracker = Tracker(TrackingSettings(experiment="unchanged"), out.parent / "unchanged")
    tracker.start("digits", {})
    for number, front_size in enumerate((1.0, 1.0, 2.0)):
        tracker.log_trial(candidate(number), {"front_size": front_size, "hypervolume": 0.5})
    tracker.wait()
    client, (parent,), _ = runs(tracker, "unchanged")
    steps = {
        name: [(it.step, it.value) for it in client.get_metric_history(parent.info.run_id, name)]
        for name in ("front_size", "hypervolume")
    }
    assert steps == {"front_size": [(0, 1.0), (2, 2.0)], "hypervolume": [(0, 0.5)]}


def test_how_a_recipes_accuracy_comes_back_is_a_curve_of_the_parent_run(out):
    tracker = Tracker(TrackingSettings(experiment="recovery"), out.parent / "recovery")
    assert not tracker.is_logging
    tracker.start("digits", {})
    assert tracker.is_logging
    for epoch, accuracy in enumerate((0.5, 0.8, 0.9)):
        tracker.log_recovery("0123456789abcdef", "fine-tuning", epoch, accuracy)
    tracker.wait()
    client, (parent,), _ = runs(tracker, "recovery")
    history = client.get_metric_history(parent.info.run_id, "fine-tuning/01234567")
    assert [(it.step, it.value) for it in history] == [(0, 0.5), (1, 0.8), (2, 0.9)]


def test_a_resumed_search_goes_on_with_its_parent_run_and_logs_no_trial_twice(out):
    tracker = Tracker(TrackingSettings(), out)
    tracker.start("digits", {"seed": 3}, scored(0, 1))
    tracker.log_trial(candidate(0), {})
    tracker.log_trial(candidate(2), {})
    tracker.wait()
    _, parents, trials = runs(tracker)
    assert len(parents) == 1
    assert sorted(run.data.tags["gulliver.trial"] for run in trials) == ["0", "1", "2"]


def test_a_trial_that_a_killed_process_logged_half_is_logged_again_in_its_place(out):
    folder, settings = out.parent / "half", TrackingSettings(experiment="half")
    tracker = Tracker(settings, folder)
    tracker.start("digits", {})
    tracker.log_trial(candidate(0), {})
    tracker.wait()
    client, _, (half,) = runs(tracker, "half")
    client.update_run(half.info.run_id, status="RUNNING")
    resumed = Tracker(settings, folder)
    resumed.start("digits", {}, scored(0))
    resumed.log_trial(candidate(0), {})
    resumed.wait()
    assert [(it.data.tags["gulliver.trial"], it.info.status) for it in runs(resumed, "half")[2]] == [("0", "FINISHED")]


def test_a_search_in_a_folder_that_was_made_anew_is_a_run_of_its_own(out):
    folder, settings = out.parent / "anew", TrackingSettings(experiment="anew")
    for seed in (1, 2):
        tracker = Tracker(settings, folder)
        tracker.start("digits", {"seed": seed})
        tracker.log_trial(candidate(0), {})
        tracker.wait()
    _, parents, trials = runs(tracker, "anew")
    assert sorted(run.data.params["seed"] for run in parents) == ["1", "2"]
    assert {it.data.tags["mlflow.parentRunId"] for it in trials} == {it.info.run_id for it in parents}


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (OSError, "FAILED")])
def test_what_is_interrupted_or_fails_is_running_no_longer(out, error, status):
    name = f"ended {status}"
    tracker = Tracker(TrackingSettings(experiment=name), out.parent / name)
    tracker.start("digits", {})
    with pytest.raises(error), tracker.ending():
        raise error
    assert [run.info.status for run in runs(tracker, name)[1]] == [status]


def test_searches_that_open_a_new_store_at_once_all_log_to_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gulliver.search.tracking import Tracker, TrackingSettings;"
        "from mlflow.tracking import MlflowClient; tracker = Tracker(TrackingSettings(), Path(sys.argv[1]));"
        "print('ready', flush=True); sys.stdin.read(); tracker.start('digits', {}); sys.exit(not tracker.is_logging)"
    )
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen([*command, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("one", "other")
    ]
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.close()
    assert [process.wait() for process in started] == [0, 0]
    for process in started:
        process.stdout.close()


def test_a_run_directory_may_have_an_apostrophe_in_its_name(out):
    settings, folder = TrackingSettings(experiment="quoted"), out.parent / "it's here"
    for _ in range(2):
        tracker = Tracker(settings, folder)
        tracker.start("digits", {})
        assert tracker.is_logging
    assert len(runs(tracker, "quoted")[1]) == 1


def test_the_path_of_a_store_may_be_relative(out, monkeypatch):
    monkeypatch.chdir(out.parent)
    tracker = Tracker(TrackingSettings(uri="sqlite:///mlflow.db", experiment="relative"), out.parent / "relative")
    tracker.start("digits", {})
    assert tracker.is_logging
    assert tracker.uri == f"sqlite:///{out.parent / 'mlflow.db'}"


def test_a_slow_store_delays_no_trial(out, monkeypatch):
    from mlflow.tracking import MlflowClient

    opened, create_run = Event(), MlflowClient.create_run
    tracker = Tracker(TrackingSettings(experiment="slow"), out.parent / "slow")
    tracker.start("digits", {})

    def create_run_later(*arguments, **named):
        assert opened.wait(60)
        return create_run(*arguments, **named)

    monkeypatch.setattr(MlflowClient, "create_run", create_run_later)
    for number in range(3):
        tracker.log_trial(candidate(number), {})
    assert runs(tracker, "slow")[2] == []
    opened.set()
    tracker.wait()
    assert sorted(run.data.tags["gulliver.trial"] for run in runs(tracker, "slow")[2]) == ["0", "1", "2"]


def test_the_store_is_beside_the_run_directory_by_default(out):
    assert Tracker(TrackingSettings(), out).uri == f"sqlite:///{out.parent / 'mlflow.db'}"


def test_a_failing_store_is_said_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("a folder cannot be made here")
    tracker = Tracker(TrackingSettings(uri=f"sqlite:///{tmp_path}/file/mlflow.db"), tmp_path / "run")
    tracker.start("digits", {})
    tracker.log_trial(candidate(0), {})
    tracker.finish({}, tmp_path, [])
    said = [line for line in capsys.readouterr().err.splitlines() if "goes on without it" in line]
    assert len(said) == 1


def test_a_store_that_fails_again_and_again_is_asked_no_more(out, monkeypatch):
    from mlflow.tracking import MlflowClient

    asked = []

    def refuse(*_, **__):
        asked.append(1)
        raise ConnectionError

    tracker = Tracker(TrackingSettings(experiment="refused"), out.parent / "refused")
    tracker.start("digits", {})
    monkeypatch.setattr(MlflowClient, "create_run", refuse)
    for number in range(10):
        tracker.log_trial(candidate(number), {})
    tracker.wait()
    assert len(asked) == 3


@pytest.mark.parametrize("name", ["", " "])
def test_an_experiment_without_a_name_is_refused(name):
    with pytest.raises(InputError, match=rf"^tracking.experiment must be a name, but is '{name}'$"):
        TrackingSettings(experiment=name)


def test_tracking_can_be_turned_off(tmp_path):
    tracker = Tracker(TrackingSettings(enabled=False), tmp_path / "run")
    tracker.start("digits", {})
    tracker.log_trial(candidate(0), {})
    assert not (tmp_path / "mlflow.db").exists()
