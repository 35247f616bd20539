import time

import numpy as np
import pytest
import torch
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.evaluators.latency.measurement import _request, _timing, compile_openvino, measure
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
    """A compiled network, and its own request, that takes 10 ms of CPU and notes its inferences."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def create_infer_request(self):
        return self

    def infer(self, share_outputs):
        assert share_outputs
        self.log.append(self.name)
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass


@pytest.mark.parametrize(("repetitions", "turns"), [(3, 4), (20, 5), (21, 6)])
def test_networks_take_turns_of_eight_inferences_until_the_last_four_of_each_add_up(repetitions, turns):
    log = []
    measure({name: Spinning(name, log) for name in ("first", "second")}, (), repetitions)
    # 0.15 s are 15 inferences of 10 ms, so four turns at least.
    assert log == (["first"] * 8 + ["second"] * 8) * turns


class Slowing(Spinning):
    """A network whose every eighth inference begins a slow four."""

    def infer(self, share_outputs):
        super().infer(share_outputs)
        if len(self.log) % 8 in (1, 2, 3, 4):
            super().infer(share_outputs)
            self.log.pop()


def test_the_first_inferences_of_a_turn_do_not_count():
    timing = measure({"slowing": Slowing("slowing", [])}, (), 16)["slowing"]
    assert timing.p90_ms < 15  # half of all inferences take 20 ms


def test_all_inputs_are_set_once_and_in_order():
    class Subtracting(nn.Module):
        def forward(self, first, second):
            return first - second

    inputs = (torch.full((2, 3), 5.0), torch.full((2, 3), 3.0))
    compiled = compile_openvino(to_openvino(Subtracting(), inputs, 2), "float32", 1)
    request = _request(compiled, inputs)
    assert (request.infer(share_outputs=True)[0] == 2).all()
