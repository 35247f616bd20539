import json
from pathlib import Path

import pytest
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.run_directory import RunDirectory, settings_record
from gulliver.search.settings import SearchSettings
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError


def test_a_folder_in_use_is_refused(tmp_path):
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    with first.locked(), pytest.raises(InputError, match="is in use by another process"), second.locked():
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "run", "Not a directory")):
        with pytest.raises(InputError, match=f"run directory {path} cannot be written to: {reason}"):
            RunDirectory(path).locked().__enter__()


def test_a_folder_with_another_search_is_refused_naming_the_difference(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.claim({"seed": 1, "task": "a"})
    with pytest.raises(InputError, match="holds a search with seed=1, but seed=2 is asked for"):
        directory.claim({"seed": 2, "task": "a"})


def test_a_folder_made_before_a_search_chose_calibrators_and_kinds_of_split_still_opens(tmp_path):
    def record(**options):
        settings = SearchSettings(space=SpaceOptions(**options))
        return settings_record({"task": "task", "network": "network"}, CpuOpenvino(), settings)

    older = record()
    assert older["sampler"] == {"name": "Solve", "exact_first": 4}
    assert (older["task"], older["network"], older["seed"]) == ("task", "network", 0)
    assert set(older["space"]) == {"bits", "max_ratio", "ranks", "keep_float", "reconstruct"}
    RunDirectory(tmp_path).claim(older)
    RunDirectory(tmp_path).claim(record(calibrators=("min_max",), decompositions=("svd",)))
    for options in ({"calibrators": ("mse",)}, {"decompositions": ("svd", "tucker2")}):
        with pytest.raises(InputError, match=r"holds a search with space=.*, but space=.* is asked for"):
            RunDirectory(tmp_path).claim(record(**options))


def test_a_folder_made_before_wide_groups_lost_channels_in_steps_still_opens(tmp_path):
    def record(target):
        return settings_record({"task": "task", "network": "network"}, target, SearchSettings())

    assert "channel_steps" not in record(CpuOpenvino())["target"]
    RunDirectory(tmp_path).claim(record(CpuOpenvino()))
    with pytest.raises(InputError, match=r"holds a search with target=.*, but target=.* is asked for"):
        RunDirectory(tmp_path).claim(record(CpuOpenvino(channel_steps=8)))


def test_a_folder_of_a_target_with_a_path_of_its_own_opens_again(tmp_path):
    for _ in range(2):
        RunDirectory(tmp_path).claim({"target": {"kernels": Path("kernels.csv")}})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"target": {"kernels": "kernels.csv"}}


def test_the_number_of_trials_may_change(tmp_path):
    RunDirectory(tmp_path).claim({"seed": 1, "trials": 4})
    RunDirectory(tmp_path).claim({"seed": 1, "trials": 8})
    assert json.loads((tmp_path / "settings.json").read_text())["trials"] == 8


def test_seconds_of_a_phase_add_up_over_processes(tmp_path, monkeypatch):
    clock = iter((10.0, 12.5, 100.0, 101.25))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for _ in range(2):
        with RunDirectory(tmp_path).phase("search"):
            pass
    assert RunDirectory(tmp_path).seconds() == {"search": 2.5 + 1.25}


def test_a_finished_search_is_set_aside_and_an_unfinished_one_is_not(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.set_aside()
    assert directory.path.exists()
    (directory.path / "summary.json").write_text("{}")
    directory.set_aside()
    assert not directory.path.exists()
    assert (tmp_path / "run.1" / "summary.json").exists()
