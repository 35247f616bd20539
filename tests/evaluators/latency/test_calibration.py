import os
import time
from dataclasses import replace
from math import prod

import pytest
import torch
from gulliver.evaluators.latency import calibration
from gulliver.evaluators.latency.calibration import (
    calibrate,
    calibrate_calls,
    calibrate_search,
    forget,
    forget_old_fit,
    kernel_table,
    measure_recipes,
)
from gulliver.evaluators.latency.cpu_latency_model import Coefficients, CpuLatencyModel
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.measurement import Timing
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from gulliver.spaces.space import Space, untouched
from gulliver.spaces.space_options import SpaceOptions


def test_a_network_is_calibrated_once_and_again_when_forgotten(digits_original, monkeypatch):
    target = CpuOpenvino(batch=16, kernel_repetitions=3)
    recipes = [
        Recipe(dict.fromkeys(digits_original.graph.layers, choice))
        for choice in (LayerRecipe(), LayerRecipe(quantize=Quantize()))
    ]
    monkeypatch.setattr(calibration, "_REPETITIONS", 3)
    model = calibrate(target, digits_original, recipes)
    assert model.coefficients.networks == 2
    assert len(model.table) > 5
    for recipe in recipes:
        calls = target.lower(digits_original.graph, recipe)
        assert 0 < model.total_ms(calls) < 1000
        assert not model.table.missing(it.kernel for it in calls if isinstance(it.kernel, ComputeKernel))

    with monkeypatch.context() as unable:
        unable.setattr(calibration, "measure_recipes", None)
        assert calibrate(target, digits_original, recipes).coefficients == model.coefficients
    written = fit_file(target, digits_original)
    written.write_text(written.read_text().replace("seconds_per_node", "seconds_per_pass"))
    assert calibrate(target, digits_original, recipes).coefficients.networks == 2, "an earlier version's fit counts"

    monkeypatch.setattr(calibration, "measure_recipes", None)
    forget(target, digits_original, space_of(digits_original))
    assert len(kernel_table(target)) == 1, "the reference kernel is forgotten, or others are kept"
    with pytest.raises(TypeError):
        calibrate(target, digits_original, recipes)


class Held:
    """A compiled network of so many bits, the most of which that there were at a time being noted."""

    now = most = 0

    def __init__(self, network):
        self.bits = network
        Held.now += 1
        Held.most = max(Held.most, Held.now)

    def __del__(self):
        Held.now -= 1


@pytest.mark.parametrize(("room", "rounds"), [(0, 5), (2, 5), (3, 3), (6, 1)])
def test_no_more_networks_are_held_than_have_room_and_all_are_compared_with_the_first(
    digits_original, monkeypatch, room, rounds
):
    target = CpuOpenvino(batch=16)
    layers = digits_original.graph.layers
    recipes = [Recipe(dict.fromkeys(layers, LayerRecipe(quantize=Quantize(bits)))) for bits in range(3, 9)]
    speeds = iter(range(1, 6))

    def measure(compiled, inputs, repetitions):
        speed = next(speeds)
        return {name: Timing(it.bits * speed, 0.0, 0.0) for name, it in compiled.items()}

    monkeypatch.setattr(Held, "most", 0)
    monkeypatch.setattr(calibration, "_held_at_once", lambda *_: room)
    chosen = dict(zip((it.key for it in recipes), range(3, 9), strict=True))
    monkeypatch.setattr(calibration, "compress", lambda original, recipe, calibration: chosen[recipe.key])
    monkeypatch.setattr(calibration, "to_openvino", lambda model, *_: model)
    monkeypatch.setattr(calibration, "compile_openvino", lambda model, *_: Held(model))
    monkeypatch.setattr(calibration, "measure", measure)
    assert measure_recipes(target, digits_original, recipes) == pytest.approx([it * 1e-3 for it in range(3, 9)])
    assert next(speeds, 6) == rounds + 1
    assert (Held.most, Held.now) == (max(room, 2), 0)


def test_the_room_for_networks_is_that_of_their_weights_and_largest_tensors(digits_original, monkeypatch):
    layers = digits_original.graph.layers.values()
    weights = sum(it.weight_count for it in layers)
    # The largest layer of digits_cnn reads and gives most values; the example inputs are one sample.
    values = max(prod(it.input_shape) + prod(it.output_shape) for it in layers)
    monkeypatch.setattr(calibration, "_MEMORY_BYTES", 3 * 4 * (weights + 16 * values))
    assert calibration._held_at_once(CpuOpenvino(batch=16), digits_original.graph) == 3
    assert calibration._held_at_once(CpuOpenvino(batch=17), digits_original.graph) == 2


def test_the_latency_of_the_untouched_network_is_kept_with_the_fit(digits_original, monkeypatch):
    target = CpuOpenvino(batch=16, kernel_repetitions=3)
    layers = digits_original.graph.layers
    in_int8, as_it_is = (Recipe(dict.fromkeys(layers, it)) for it in (LayerRecipe(quantize=Quantize()), LayerRecipe()))
    monkeypatch.setattr(calibration, "measure_recipes", lambda *_: [2e-3, 4e-3])
    assert calibrate(target, digits_original, [in_int8, as_it_is]).untouched_ms == 4
    assert calibrate(target, digits_original, []).untouched_ms == 4, "the kept fit does not tell it"
    forget(target, digits_original, space_of(digits_original))


@pytest.mark.parametrize(("minutes", "is_kept"), [(29, True), (31, False)])
def test_a_fit_is_renewed_after_half_an_hour_and_kernel_times_are_kept(digits_original, minutes, is_kept):
    target = CpuOpenvino(batch=16)
    table, written = kernel_table(target), fit_file(target, digits_original)
    written.parent.mkdir(parents=True, exist_ok=True)
    table.path.touch()
    written.write_text("{}")
    then = time.time() - 60 * minutes
    os.utime(written, (then, then))
    forget_old_fit(target, digits_original)
    assert written.exists() == is_kept
    assert table.path.exists()
    written.unlink(missing_ok=True)


def test_a_search_goes_on_with_the_fit_that_it_began_with(digits_original, monkeypatch, tmp_path):
    target, fit_file = CpuOpenvino(batch=16), tmp_path / "fit.json"
    space = space_of(digits_original)

    def model():
        return calibrate_search(target, digits_original, space, [], fit_file)

    monkeypatch.setattr(calibration, "calibrate", lambda *_: CpuLatencyModel(kernel_table(target), began_with))
    began_with = Coefficients(1.1, 0.9, 5e-11, 1e-12, 2e-6, 3e-5, networks=18, mean_error=0.02, untouched_ms=4.0)
    assert model().coefficients == began_with
    monkeypatch.setattr(calibration, "calibrate", None)
    assert model().coefficients == began_with


def test_the_same_network_with_inputs_of_another_shape_has_a_fit_of_its_own(digits_original, monkeypatch):
    class Wider:
        example_inputs = (torch.zeros(1, 1, 8, 16),)

    target, as_it_is = CpuOpenvino(batch=16, kernel_repetitions=3), untouched(digits_original.graph)
    originals = (digits_original, replace(digits_original, task=Wider()))
    for original, seconds in zip(originals, (4e-3, 6e-3), strict=True):
        monkeypatch.setattr(calibration, "measure_recipes", lambda *_, seconds=seconds: [seconds])
        calibrate(target, original, [as_it_is])
    assert [calibrate(target, it, []).untouched_ms for it in originals] == [4, 6]
    for original in originals:
        forget(target, original, space_of(original))


def space_of(original):
    return Space(original.graph, CpuOpenvino().capabilities)


def fit_file(target, original):
    """Return where the fit to this network is kept."""
    table = kernel_table(target).path
    inputs = "x".join(map(str, original.task.example_inputs[0].shape[1:]))
    conditions = f"{inputs}-batch-{target.batch}-{target.threads}-threads-{target.float_type}.json"
    return table.with_name(table.stem.replace(f"{target.threads}-threads", f"{original.network}-{conditions}"))


def test_networks_that_are_only_timed_are_not_solved_anew(digits_original, monkeypatch):
    monkeypatch.setattr(calibration, "calibrate", lambda target, original, recipes: recipes)
    recipes = calibrate_calls(CpuOpenvino(), digits_original, space_of(digits_original), [])
    removals = [it.sparsify for recipe in recipes for it in recipe.layers.values() if it.sparsify]
    assert removals
    assert not any(it.reconstruct for it in removals)


def test_a_fit_does_not_depend_on_what_the_first_search_leaves_out(digits_original, monkeypatch):
    monkeypatch.setattr(calibration, "calibrate", lambda target, original, recipes: recipes)
    target = CpuOpenvino()
    spaces = (
        Space(digits_original.graph, target.capabilities, options)
        for options in (SpaceOptions(), SpaceOptions(bits=(), max_ratio=0.0))
    )
    fitted_to, without_int8 = (calibrate_calls(target, digits_original, space, []) for space in spaces)
    assert without_int8 == fitted_to
    assert any(choice.quantize for recipe in without_int8 for choice in recipe.layers.values())
