from dataclasses import replace

import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.size import Size
from gulliver.search import bench
from gulliver.search.bench import MeasuringBench, ModellingBench, make_bench
from gulliver.search.finalists import Measured
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from gulliver.tasks.moe_block import MoeBlock

CHIP = ChipTarget("nvidia_a100", batch=2)


@pytest.fixture
def int8(block_original):
    return Recipe(dict.fromkeys(block_original.graph.layers, LayerRecipe(quantize=Quantize())))


def test_the_target_decides_whether_anything_is_measured(block_original, tmp_path):
    assert isinstance(make_bench(block_original, CpuOpenvino(batch=2), tmp_path), MeasuringBench)
    assert isinstance(make_bench(block_original, CHIP, tmp_path), ModellingBench)


def test_a_modelled_network_has_simulated_scores_and_modelled_costs(block_original, int8, tmp_path):
    made = make_bench(block_original, CHIP, tmp_path)
    exported = made.baselines() | {"recipe": made.export("recipe", int8)}
    known = made.measure(exported)
    assert known["baseline"].accuracy_test == 1.0
    assert known["recipe"].accuracy_test < 1.0
    assert known["recipe"].size_bytes == Size(block_original.graph)(int8)
    assert known["recipe"].latency_ms == pytest.approx(CHIP.latency.total_ms(CHIP.lower(block_original.graph, int8)))
    assert known["recipe"].how == "modelled"
    assert known["recipe"].drop_test_low <= 1 - known["recipe"].accuracy_test <= known["recipe"].drop_test_high


def test_what_is_expected_to_be_lost_is_known_where_the_task_tells(block_original, int8, tmp_path):
    assert make_bench(block_original, CHIP, tmp_path / "silent").export("recipe", int8).expected_drop is None

    class Telling(MoeBlock):
        def expected_scores(self, model, split, start, stop):
            assert split == "search"
            return torch.full((stop - start,), 0.9 if model is self.model else 0.7)

    telling = read_original(Telling(width=16, hidden=16, samples=3))
    made = make_bench(telling, CHIP, tmp_path / "telling").export("recipe", int8)
    assert made.expected_drop == pytest.approx(0.2)


def test_what_was_made_is_read_again(block_original, int8, tmp_path, monkeypatch):
    made = make_bench(block_original, CHIP, tmp_path).export("recipe", int8)
    monkeypatch.setattr(bench, "compress", None)
    assert make_bench(block_original, CHIP, tmp_path).export("recipe", int8) == made


@pytest.mark.parametrize(("float_type", "name"), [("float32", "baseline"), ("bfloat16", "bf16")])
def test_on_a_target_that_runs_here_the_original_in_float_is_of_the_targets_own_type(
    block_original, tmp_path, float_type, name
):
    made = make_bench(block_original, CpuOpenvino(batch=2, float_type=float_type), tmp_path)
    assert made.in_float == name
    assert made.baselines()[name].float_type == float_type


def test_calibration_inputs_of_fewer_samples_than_the_targets_batch_are_repeated(block_original, tmp_path):
    target = CpuOpenvino(batch=7, repetitions=1)
    made = make_bench(
        replace(block_original, calibration=tuple((it[:2],) for (it,) in block_original.calibration)), target, tmp_path
    )
    assert made.measure(made.baselines())["bf16"].latency_ms > 0


def test_a_network_that_cannot_be_converted_is_scored_all_the_same_and_the_reason_kept(
    block_original, int8, tmp_path, monkeypatch
):
    def refuse(*_):
        raise RuntimeError("no\nsuch operation")

    monkeypatch.setattr(bench, "to_openvino", refuse)
    made = make_bench(block_original, CHIP, tmp_path).export("recipe", int8)
    assert (made.path, made.not_exported) == (None, "RuntimeError: no such operation")
    assert 0 < made.accuracy_test < 1


def test_entries_tell_a_modelled_latency_from_a_measured_one():
    measured = Measured(0.9, 0.8, 2.0, 1.5, 2.5, 100)
    assert set(measured.entries) == {
        *("accuracy_search", "accuracy_test", "latency_ms", "latency_p10_ms", "latency_p90_ms"),
        *("size_bytes", "drop_test_low", "drop_test_high"),
    }
    entries = Measured(0.9, 0.8, 2.0, None, None, 100, how="modelled").entries
    assert entries["modelled_latency_ms"] == 2.0
    assert not {"latency_ms", "latency_p10_ms", "latency_p90_ms"} & set(entries)
