import pytest
import torch
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.price_tables import call_tables, calls_of
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from torch import nn


def test_the_cpu_runs_int8_and_bfloat16_in_multiples_of_16_channels():
    capabilities = CpuOpenvino().capabilities
    assert capabilities.float_type == "bfloat16"
    assert set(capabilities.precisions) == {"conv1d", "conv2d", "linear"}
    assert all(capabilities.runs(kind, Quantize(8, 8)) for kind in capabilities.precisions)
    assert not capabilities.runs("conv2d", Quantize(4, 8))
    assert capabilities.multiples(64) == (64, 48, 32, 24, 16, 8)


def test_conditions_are_said_in_words():
    assert CpuOpenvino(batch=1, threads=1).conditions == "batch 1, 1 inference thread"
    assert CpuOpenvino(batch=32, threads=2).conditions == "batch 32, 2 inference threads"


def test_recipes_are_lowered_at_the_targets_batch_and_type(block):
    recipe = Recipe({name: LayerRecipe() for name in block.layers})
    kernels = [it.kernel for it in CpuOpenvino(batch=3, float_type="float32").lower(block, recipe)]
    convolutions = [it for it in kernels if isinstance(it, ComputeKernel)]
    assert {(it.batch, it.precision) for it in convolutions} == {(3, "float32")}
    assert len(convolutions) == len(block.layers)


def test_a_layer_between_two_wide_groups_has_a_kernel_for_each_pair_of_13_widths():
    layers = (nn.Conv2d(3, 2048, 1), nn.ReLU(), nn.Conv2d(2048, 1024, 1), nn.ReLU(), nn.Conv2d(1024, 4, 1))
    graph = trace(nn.Sequential(*layers).eval(), (torch.zeros(1, 3, 2, 2),))
    target = CpuOpenvino()
    space = Space(graph, target.capabilities, SpaceOptions(bits=(), ranks=()))
    kernels = {call.kernel for call in calls_of(call_tables(space, target)) if call.owner == "2"}
    # Steps of 128 and of 64 down to a quarter of the channels; every multiple of 16 would make 97 times 49.
    assert len(kernels) == 13 * 13


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"batch": 0}, "`target.batch >= 1` must hold, but it is 0"),
        ({"threads": -1}, "`target.threads >= 1` must hold, but it is -1"),
        ({"channel_multiple": 0}, "`target.channel_multiple >= 1` must hold, but it is 0"),
        ({"channel_steps": 0}, "`target.channel_steps >= 1` must hold, but it is 0"),
        ({"repetitions": 0}, "`target.repetitions >= 1` must hold, but it is 0"),
        ({"float_type": "float16"}, "`target.float_type` must be float32 or bfloat16, but is float16"),
    ],
)
def test_impossible_settings_are_refused(settings, rule):
    with pytest.raises(InputError) as caught:
        CpuOpenvino(**settings)
    assert str(caught.value) == rule
