import time

import numpy as np
import pytest
import torch
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.evaluators.latency.measurement import _timing, compile_openvino, measure
from torch import nn


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Return a small and a large network, compiled, the large one from its file."""
    inputs = (torch.randn(4, 16, 32, 32),)
    torch.manual_seed(0)
    small = to_openvino(nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()).eval(), inputs, 4)
    layers = (nn.Conv2d(16, 64, 5, padding=2), *(nn.Conv2d(64, 64, 5, padding=2) for _ in range(5)))
    large = to_openvino(nn.Sequential(*layers).eval(), inputs, 4)
    path = tmp_path_factory.mktemp("measured") / "large.xml"
    save_openvino(large, path)
    return {"small": compile_openvino(small, "bfloat16", 1), "large": compile_openvino(path, "bfloat16", 1)}, inputs


def test_quantiles_are_ordered_and_more_work_takes_more_time(networks):
    compiled, inputs = networks
    timings = measure(compiled, inputs, 9)
    assert list(timings) == ["small", "large"]
    for timing in timings.values():
        assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms
    assert timings["large"].median_ms > 3 * timings["small"].median_ms


@pytest.mark.parametrize(("float_type", "precision"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_float_layers_are_compiled_in_the_targets_type(float_type, precision):
    converted = to_openvino(nn.Conv2d(16, 16, 3).eval(), (torch.zeros(1, 16, 8, 8),), 1)
    compiled = compile_openvino(converted, float_type, 2)
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == precision
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_quantiles_are_those_of_the_samples():
    timing = _timing([float(value) for value in np.random.default_rng(0).permutation(11)])
    assert (timing.p10_ms, timing.median_ms, timing.p90_ms) == (1.0, 5.0, 9.0)


class Spinning:
    """A compiled network, and its own request, that takes 10 ms of CPU and counts its inferences."""

    def __init__(self):
        self.inferences = 0

    def create_infer_request(self):
        return self

    def infer(self, arrays):
        self.inferences += 1
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass


@pytest.mark.parametrize(("repetitions", "turns"), [(3, 15), (20, 20)])
def test_short_inferences_are_repeated_until_they_add_up(repetitions, turns):
    first, second = Spinning(), Spinning()
    measure({"first": first, "second": second}, (), repetitions)
    # One more warms each up; 0.15 s are 15 turns, or a few less where a turn takes longer.
    assert turns / 2 < first.inferences - 1 <= turns
    assert first.inferences == second.inferences
