"""A search on a chip that is not here: nothing is measured, and nothing that is modelled is called measured."""

import json
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.price_tables import call_tables, calls_of
from gulliver.search import Budget, search
from gulliver.search.apply_recipe import apply_recipe
from gulliver.search.report import draw_front
from gulliver.search.sensitivity import SensitivitySettings
from gulliver.search.settings import FinalistSettings, TrialSettings
from gulliver.search.tracking import TrackingSettings
from gulliver.spaces.recipe import LayerRecipe, Quantize, Sparsify
from gulliver.spaces.recipe_file import read_recipe
from gulliver.spaces.space import untouched
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from gulliver.tasks.digits_cnn import DigitsCNN
from gulliver.tasks.errors import InputError
from gulliver.tasks.moe_block import MoeBlock
from matplotlib.figure import Figure

CHIP = ChipTarget("ascend_910b2", batch=4)
TASKS = {
    "digits_cnn": lambda: DigitsCNN(epochs=2, training_samples=300, search_samples=60),
    "moe_block": lambda: MoeBlock(width=64, hidden=32, samples=4),
}
QUICK = {
    "target": CHIP,
    "trials": 4,
    "budget": Budget(max_drop=0.5),
    "sensitivity": SensitivitySettings(method="gradient", samples=4, pairs=0),
    "trial": TrialSettings(None),
    "finalists": FinalistSettings(count=2, finetune=None),
    "space": SpaceOptions(ranks=()),
    "tracking": TrackingSettings(enabled=False),
}


@pytest.fixture(scope="module", params=TASKS)
def searched(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    said = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("gulliver.search.api.say", said.append)
        task = TASKS[request.param]()
        result = search(task, out=folder / "run", **QUICK)
    torch.set_num_threads(threads)
    return task, result, "\n".join(said)


def test_it_runs_to_the_end_and_the_best_is_no_slower_than_the_original_as_modelled(searched):
    _, result, _ = searched
    assert result.within_budget
    assert result.how == "modelled"
    assert result.best.measured.latency_ms <= result.baseline.latency_ms
    assert list(result.originals) == ["original in float16"]
    assert result.baseline == result.in_float


def test_latencies_are_those_of_the_chips_model(searched):
    task, result, _ = searched
    graph = read_original(task).graph
    for finalist in result.finalists:
        expected = CHIP.latency.total_ms(CHIP.lower(graph, finalist.recipe))
        assert finalist.measured.latency_ms == pytest.approx(expected)
        assert finalist.prediction_error == pytest.approx(0.0)
    assert result.baseline.latency_ms == pytest.approx(CHIP.latency.total_ms(CHIP.lower(graph, untouched(graph))))


def test_no_file_calls_a_modelled_latency_measured(searched):
    _, result, said = searched
    summary = json.loads((result.out / "summary.json").read_text())
    for entry in (summary["baseline"], summary["best"]):
        assert entry["modelled_latency_ms"] > 0
        assert not {"latency_ms", "latency_p10_ms", "predicted_latency_ms"} & set(entry)
    assert "bf16" not in summary
    assert "modelled" in summary["conditions"]
    found_for = read_recipe(result.out / "recipes" / "best.yaml").found_for
    assert found_for.measured == {}
    assert found_for.predicted["accuracy_test"] == result.best.measured.accuracy_test
    assert {"latency_ms", "accuracy_search", "size_bytes"} <= set(found_for.predicted)
    for words in ("modelled ms", "latency modelled and not measured", "nothing is measured", "original in float16"):
        assert words in said
    for words in ("OpenVINO", "exported and measured", "p10..p90", "calibrating"):
        assert words not in said
    assert pandas.read_csv(result.out / "front.csv")["latency_ms"].gt(0).all()
    assert (result.out / "front.png").stat().st_size > 0


def test_the_picture_says_modelled(searched, monkeypatch, tmp_path):
    _, result, _ = searched
    labels = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: labels.extend(_labels(self)) or path.touch())
    draw_front(tmp_path, result.front, result, CHIP.conditions)
    assert "finalists (latency modelled, test split)" in labels
    assert not any("OpenVINO" in it or "measured" in it for it in labels)


def _labels(figure):
    (axes,) = figure.axes
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_finalists_are_exported_all_the_same(searched):
    _, result, _ = searched
    for finalist in result.finalists:
        assert finalist.model_path.with_suffix(".bin").stat().st_size > 0


def test_the_recipe_is_applied_without_measuring(searched, tmp_path):
    task, result, _ = searched
    said = []
    known = apply_recipe(result.best.recipe, task, CHIP, tmp_path, said.append)
    assert known["recipe"].accuracy_test == pytest.approx(result.best.measured.accuracy_test)
    assert known["recipe"].latency_ms == pytest.approx(result.best.measured.latency_ms)
    assert all("ms modelled" in line for line in said[:-2])
    assert "modelled_latency_ms" in json.loads((tmp_path / "apply.json").read_text())["recipe"]


def test_what_a_layer_cannot_take_is_said_and_written_into_the_recipe_that_was_applied(searched, tmp_path):
    task, result, _ = searched
    best = result.best.recipe
    last = list(trace(task.model, task.example_inputs).layers)[-1]
    asked = replace(best, layers={**best.layers, last: LayerRecipe(Sparsify(0.5), None, Quantize())})
    said = []
    apply_recipe(asked, task, CHIP, tmp_path, said.append, ("openvino", "onnx"))
    reason = "no channels are removed: of its group, its channels are the network's outputs"
    assert said[0] == f"{last}: {reason}"
    applied = read_recipe(tmp_path / "recipe.yaml").layers[last]
    assert applied == LayerRecipe(quantize=Quantize())
    assert applied.fallback == reason
    assert said[-1].startswith("ONNX model  ")
    weights = sum(module.weight.numel() for module in task.model.modules() if hasattr(module, "weight"))
    assert 0 < Path(said[-1].split()[-1]).stat().st_size < 8 * weights


@pytest.mark.parametrize(("words", "reason"), [((), "AssertionError"), (("a\nb",), "AssertionError: a")])
def test_why_there_is_no_onnx_model_is_one_line_whatever_the_error_says(searched, tmp_path, monkeypatch, words, reason):
    def fail(*_):
        raise AssertionError(*words)

    monkeypatch.setattr("gulliver.compressors.export_onnx.to_onnx", fail)
    task, result, _ = searched
    said = []
    apply_recipe(result.best.recipe, task, CHIP, tmp_path, said.append, ("openvino", "onnx"))
    assert said[-1] == f"ONNX model           not written: {reason}"


def test_a_network_with_too_many_prices_is_refused_before_anything_is_measured_of_it(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr("gulliver.search.run_search.measure_sensitivities", lambda *given: measured.append(given))
    monkeypatch.setattr("gulliver.evaluators.latency.price_tables.MOST_ANSWERS", 4)
    with pytest.raises(InputError, match="at most 4 combinations"):
        search(TASKS["moe_block"](), out=tmp_path, **QUICK)
    assert not measured


def test_the_kernels_that_are_timed_are_those_of_the_tables_that_the_guide_goes_by(tmp_path, monkeypatch):
    class TimedError(Exception):
        pass

    def time_calls(target, original, space, calls, fit_file):
        raise TimedError(calls)

    made = []
    monkeypatch.setattr("gulliver.evaluators.latency.calibration.calibrate_search", time_calls)
    monkeypatch.setattr("gulliver.search.run_search.call_tables", lambda *of: made.append(call_tables(*of)) or made[-1])
    monkeypatch.setattr("gulliver.evaluators.latency.calibration.call_tables", None)
    with pytest.raises(TimedError) as stopped:
        search(TASKS["moe_block"](), out=tmp_path, **QUICK | {"target": CpuOpenvino(batch=1)})
    assert len(made) == 1
    assert stopped.value.args[0] == calls_of(made[0])
