import math
import os
import time

import optuna
import pytest
from gulliver.search.journal import Journal, Scores
from gulliver.search.record import read_trials
from gulliver.search.samplers import Nsga2, Random, Solve
from gulliver.search.settings import SearchSettings
from gulliver.search.study import open_study
from gulliver.tasks.errors import InputError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

TRIALS = 14


class Killed(BaseException):
    """Stands for kill -9: nothing that catches errors catches it."""


def run(folder, space, price, guide=None, sampler=None, trials=TRIALS):
    folder.mkdir(exist_ok=True)
    wanted = SearchSettings(trials=trials, batch=3, seed=7, sampler=sampler or Random())
    journal = Journal(folder / "scores.jsonl")
    guide = guide if wanted.sampler.guided else None

    def constraints(scores):
        return {"max_drop": 0.5 - scores.accuracy_search}

    study = open_study(folder / "study.log", space, wanted, journal, price, constraints, guide)
    study.run(lambda candidate: None)
    return study


def outcome(study):
    return [(it.trial, it.recipe.key, it.scores, it.proposed_by) for it in study.candidates()]


def on_disk(folder):
    """The trials as Optuna itself reads them, without anything of Gulliver's."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name="gulliver", storage=storage).trials


def described(trial):
    return trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs


def test_optuna_itself_reads_every_trial_with_its_distributions_and_constraints(tmp_path, space, price):
    def scoring(recipe):
        return Scores(math.nan, 1.0, 1.0) if recipe.key == space.uniform().key else price(recipe)

    study = run(tmp_path / "run", space, scoring)
    stored = on_disk(tmp_path / "run")
    assert [described(it) for it in stored] == [described(it) for it in study.optuna_study.trials]
    assert [it.constraints for it in stored] == [it.constraints for it in study.optuna_study.trials]
    assert [it.state for it in stored].count(TrialState.FAIL) == 1
    assert {frozenset(it.distributions) for it in stored} == {space.names}


def test_a_trial_is_three_writes_however_many_parameters_it_has(tmp_path, space, price, monkeypatch):
    written, append = [], JournalFileBackend.append_logs

    def counting(backend, logs):
        written.append(logs)
        append(backend, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", counting)
    run(tmp_path / "run", space, price, trials=20)
    # All of it, its constraint, and its values; the first write of all makes the study.
    assert len(written) == 1 + 3 * 20
    assert len(space.dimensions) > 3


@pytest.mark.parametrize("killed_at", [0, 1, 2, 5, 9, 12, 22, 23, 30, 34, 41])
@pytest.mark.parametrize("sampler", [Nsga2(population=4), Solve()])
def test_a_search_killed_in_the_middle_of_a_write_ends_as_one_that_was_not(
    tmp_path, space, price, guide, sampler, killed_at, monkeypatch
):
    straight = run(tmp_path / "straight", space, price, guide, sampler)
    written, append = [], JournalFileBackend.append_logs

    def dying(backend, logs):
        if len(written) == killed_at:
            path = tmp_path / "killed" / "study.log"
            size = path.stat().st_size
            append(backend, logs)
            os.truncate(path, (size + path.stat().st_size) // 2)
            raise Killed
        written.append(logs)
        append(backend, logs)

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", dying)
        with pytest.raises(Killed):
            run(tmp_path / "killed", space, price, guide, sampler)
    resumed = run(tmp_path / "killed", space, price, guide, sampler)
    assert outcome(resumed) == outcome(straight)
    assert [it.params for it in on_disk(tmp_path / "killed")] == [it.params for it in on_disk(tmp_path / "straight")]


def test_what_a_sampler_noted_of_the_study_is_there_after_a_restart(tmp_path, space, price):
    def noted():
        record = run(tmp_path / "run", space, price, sampler=Nsga2(population=4), trials=24).record
        return record.memory.get_study_system_attrs(record.memory.get_study_id_from_name("gulliver"))

    # NSGA-II notes the parents of every generation.
    first = noted()
    assert first
    assert noted() == first


def test_the_lock_of_a_killed_process_is_not_waited_for(tmp_path, space, price):
    run(tmp_path / "run", space, price, trials=3)
    (tmp_path / "run" / "study.log.lock").symlink_to("study.log")
    start = time.monotonic()
    assert len(outcome(run(tmp_path / "run", space, price, trials=6))) == 6
    # Optuna waits for 30 seconds before it takes a lock for forgotten.
    assert time.monotonic() - start < 20


def as_an_earlier_version_kept_it(folder, trials):
    """Move a search into SQLite, cut after so many trials, with one that is half asked and one that is queued."""
    stored = on_disk(folder)[:trials]
    url = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(study_name="gulliver", storage=url, directions=["maximize", "minimize"])
    study.add_trials(stored)
    study.ask().suggest_int(next(iter(stored[0].params)), 0, 1)
    study.enqueue_trial(stored[0].params)
    (folder / "study.log").unlink()


@pytest.mark.parametrize("sampler", [Random(), Solve()])
def test_a_search_that_an_earlier_version_began_goes_on(tmp_path, space, price, guide, sampler):
    straight = run(tmp_path / "straight", space, price, guide, sampler)
    run(tmp_path / "earlier", space, price, guide, sampler, trials=12)
    as_an_earlier_version_kept_it(tmp_path / "earlier", 12)
    assert outcome(run(tmp_path / "earlier", space, price, guide, sampler)) == outcome(straight)


def test_the_finished_trials_of_a_search_and_of_one_of_an_earlier_version_are_read(tmp_path, space, price):
    finished = [it.params for it in run(tmp_path / "run", space, price).optuna_study.trials]
    assert [it.params for it in read_trials(tmp_path / "run" / "study.log")] == finished
    as_an_earlier_version_kept_it(tmp_path / "run", 12)
    assert [it.params for it in read_trials(tmp_path / "run" / "study.log")] == finished[:12]


def test_trials_are_read_while_a_line_is_being_written(tmp_path, space, price):
    run(tmp_path / "run", space, price, trials=3)
    path = tmp_path / "run" / "study.log"
    text = path.read_bytes()
    path.write_bytes(text + text[:50])
    assert len(read_trials(path)) == 3
    assert path.read_bytes() == text + text[:50]


def test_a_folder_without_a_search_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"run must be the folder of a search, but .*study\.log does not exist"):
        read_trials(tmp_path / "study.log")
