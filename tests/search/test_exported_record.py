from dataclasses import replace
from pathlib import Path

import pytest
from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.bench import make_bench
from gulliver.search.exported_record import made_of, read_exported, write_exported
from gulliver.search.finalists import Exported
from gulliver.spaces.recipe import Finetune
from gulliver.spaces.space import untouched
from gulliver.tasks.moe_block import MoeBlock

EXPORTED = Exported(None, 0.9, 0.8, 1000, "bfloat16", 0.01)


@pytest.fixture
def recipe(block_original):
    return untouched(block_original.graph)


def test_what_was_made_of_the_same_is_read_again(block_original, recipe, tmp_path):
    assert write_exported(tmp_path, made_of(block_original, recipe, batch=2), EXPORTED) == EXPORTED
    assert read_exported(tmp_path, made_of(block_original, recipe, batch=2)) == EXPORTED


def test_a_model_is_found_where_its_folder_is_now(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    write_exported(Path("here"), {}, replace(EXPORTED, path="here/model.xml"))
    (tmp_path / "here" / "model.xml").touch()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = read_exported(tmp_path / "there", {})
    assert moved == replace(EXPORTED, path=str(tmp_path / "there" / "model.xml"))


def test_a_model_whose_file_is_gone_is_made_again(tmp_path):
    write_exported(tmp_path, {}, replace(EXPORTED, path=str(tmp_path / "model.xml")))
    assert read_exported(tmp_path, {}) is None


def other_task():
    return read_original(MoeBlock(width=16, hidden=16, samples=4))


def test_what_was_made_of_something_else_is_not(block_original, recipe, tmp_path):
    write_exported(tmp_path, made_of(block_original, recipe, batch=2), EXPORTED)
    tuned = replace(recipe, finetune=Finetune(epochs=1))
    assert tuned.key == recipe.key
    assert read_exported(tmp_path, made_of(block_original, tuned, batch=2)) is None
    assert read_exported(tmp_path, made_of(block_original, recipe, batch=4)) is None
    assert read_exported(tmp_path, made_of(other_task(), recipe, batch=2)) is None
    assert read_exported(tmp_path / "elsewhere", made_of(block_original, recipe, batch=2)) is None


def test_a_chip_does_not_take_what_was_exported_for_this_cpu_for_its_own(block_original, tmp_path):
    here, chip = CpuOpenvino(batch=2), ChipTarget("nvidia_a100", batch=2)
    assert make_bench(block_original, here, tmp_path).baselines()["baseline"].modelled_latency_ms is None
    assert make_bench(block_original, chip, tmp_path).baselines()["baseline"].modelled_latency_ms > 0
