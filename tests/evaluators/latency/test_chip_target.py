from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml
from gulliver.evaluators.factors import total
from gulliver.evaluators.latency.chip import chip_names, read_chip
from gulliver.evaluators.latency.chip_kernels import chip_kernel, precision_of
from gulliver.evaluators.latency.chip_model import BOUNDS, roofline
from gulliver.evaluators.latency.chip_prediction import predict
from gulliver.evaluators.latency.chip_target import ChipTarget, choice_factors, price_kernels
from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel, KernelCall, MemoryKernel
from gulliver.evaluators.latency.kernel_stages import stages
from gulliver.evaluators.latency.target import Target
from gulliver.search.configuration import build_target
from gulliver.spaces.recipe import IN_FOURS, LayerRecipe, Quantize, Recipe
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from torch import nn

FOLDER = files("gulliver.conf") / "target"


def linear(rows, inputs, outputs, precision="int8", output="float16"):
    return ComputeKernel("linear", rows, inputs, outputs, (), (), (), (), (), 1, precision, output)


def convolution(batch=32, channels=64, size=56, window=3, groups=1, precision="int8"):
    pad = (window // 2,) * 2
    shape = ((size, size), (window, window), (1, 1), pad, (1, 1), groups)
    return ComputeKernel("conv2d", batch, channels, channels, *shape, precision, precision)


def seconds(chip, *kernels):
    return sum(it.seconds for it in price_kernels(chip, kernels))


@pytest.mark.parametrize("name", chip_names())
def test_the_file_makes_the_target_of_its_name(name):
    target = build_target(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()), "target")
    assert target == ChipTarget(name)
    assert target.name == name
    assert target.conditions == "batch 32, 1 card, modelled (model)"
    assert target.capabilities.precisions["linear"] == read_chip(name).precisions
    assert target.capabilities.precisions["conv2d"] == ((8, 8),)


@pytest.mark.parametrize("name", chip_names())
def test_every_precision_that_a_target_offers_has_a_price(name):
    capabilities = ChipTarget(name).capabilities
    for kind, kernel in (("linear", linear), ("conv2d", lambda *_: convolution(precision="int8"))):
        for widths in capabilities.precisions[kind]:
            precision = precision_of(Quantize(*widths), "float16")
            made = kernel(64, 4096, 4096, precision)
            assert seconds(name, made) > roofline([chip_kernel(name, made)])[0] > 0


def test_a_convolution_by_hand():
    # 32 * 56 * 56 rows by 64 columns and 576 deep; inputs, weights, outputs and 64 scales of 4 bytes cross memory once.
    (stage,) = chip_kernel("ascend_910b2", convolution()).stages
    assert (stage.rows, stage.n, stage.k) == (100352, 64, 576)
    assert stage.memory_bytes == 100352 * 64 + 576 * 64 + 100352 * 64 + 64 * 4
    compute_s, memory_s = 100352 * 64 * 576 / (24 * 8192 * 1.8e9), stage.memory_bytes / 1.6e12
    assert roofline([chip_kernel("ascend_910b2", convolution())])[0] == pytest.approx(max(compute_s, memory_s))


@pytest.mark.parametrize(
    ("kernel", "weights", "saved"),
    [
        # Of each weight's byte, half is kept, and a quarter of that is where it was: 5/8.
        (convolution(), 64 * 576, 3 / 8),
        (linear(16, 4096, 2048), 4096 * 2048, 3 / 8),
        (linear(16, 4096, 2048, "float16"), 4096 * 2048, 2 - 9 / 8),
    ],
)
def test_weights_in_fours_are_multiplied_by_half_and_read_with_two_bits_a_place_by_hand(kernel, weights, saved):
    (dense,) = stages(chip_kernel("nvidia_a100", kernel))
    (fours,) = stages(chip_kernel("nvidia_a100", replace(kernel, skips_zeros=True)))
    assert fours.macs == dense.macs / 2
    assert dense.memory_bytes - fours.memory_bytes == pytest.approx(weights * saved)


@pytest.mark.parametrize("name", [it for it in chip_names() if read_chip(it).sparse_2_4])
@pytest.mark.parametrize("rows", [16, 8192])
def test_skipping_zeros_makes_large_multiplications_faster_but_not_twice_as_fast(name, rows):
    kernel = linear(rows, 16384, 16384)
    dense, fours = seconds(name, kernel), seconds(name, replace(kernel, skips_zeros=True))
    assert dense / 2 < fours < 0.8 * dense


def test_zeros_that_a_chip_does_not_skip_are_refused_with_what_it_skips():
    message = "ascend_910b2 skips zeros in int8, but not in float16"
    with pytest.raises(InputError, match=message):
        seconds("ascend_910b2", replace(linear(16, 64, 64, "float16"), skips_zeros=True))
    with pytest.raises(InputError, match="ascend_310p3 skips zeros in no precision, but not in int8"):
        seconds("ascend_310p3", replace(linear(16, 64, 64), skips_zeros=True))


@pytest.mark.parametrize(
    ("chip", "float_type", "widths"),
    [
        ("ascend_910b2", "float16", ((8, 8),)),
        ("ascend_310p3", "float16", ()),
        ("nvidia_a100", "bfloat16", ((16, 16), (8, 8))),
    ],
)
def test_weights_in_fours_pay_in_the_precisions_whose_zeros_the_chip_skips(chip, float_type, widths):
    assert ChipTarget(chip, float_type=float_type).capabilities.sparse_2_4 == widths


def test_layers_in_fours_skip_zeros_in_int8_and_say_why_not_in_floating_point():
    graph = trace(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).eval(), (torch.zeros(1, 64),))
    recipe = Recipe({"0": LayerRecipe(IN_FOURS, quantize=Quantize()), "1": LayerRecipe(IN_FOURS)})
    _, first, second = ChipTarget("ascend_910b2", batch=2).lower(graph, recipe)
    assert first.kernel == replace(linear(2, 64, 64), skips_zeros=True)
    assert first.kernel.description == "linear int8 2:4, 2 rows, 64 -> 64"
    assert (second.kernel, second.note) == (linear(2, 64, 64, "float16"), "the target skips no zeros in float16")


def test_few_channels_cost_what_32_bytes_of_them_do():
    three, padded = (chip_kernel("ascend_910b2", convolution(channels=it)).stages[0] for it in (3, 32))
    assert three.k == padded.k == 32 * 9


def test_a_grouped_convolution_has_a_multiplication_for_each_group():
    (stage,) = chip_kernel("ascend_910b2", convolution(groups=2)).stages
    assert (stage.group_rows, stage.n, stage.k) == ((100352, 100352), 32, 288)


def test_a_convolution_of_few_rows_multiplies_widened_weights():
    (stage,) = chip_kernel("ascend_910b2", convolution(batch=1, size=7, precision="w8")).stages
    assert (stage.rows, stage.k, stage.precision, stage.hands_weights_over) == (49, 9 * 64, "float16", True)


def test_a_depthwise_convolution_runs_on_the_vector_unit():
    (stage,) = chip_kernel("ascend_910b2", convolution(groups=64)).stages
    assert (stage.k, stage.vector_operations) == (0, 2 * 100352 * 64 * 9)
    assert price_kernels("ascend_910b2", [convolution(groups=64)])[0].bound_by == "vector unit"


def test_the_fused_mlp_is_the_published_kernel():
    from gulliver.evaluators.latency.mlp_kernels import GatedMlp, mlp_kernels

    kernel = GatedMlpKernel((16,) * 8, 7168, 2048, 7168)
    published = predict(mlp_kernels("ascend_910b2", GatedMlp((16,) * 8, 4096, 7168)))
    assert seconds("ascend_910b2", kernel) == pytest.approx(published[0].seconds)


def test_the_fused_mlps_second_half_is_unaligned_where_its_hidden_channels_are():
    # 2 * 1000 columns are 125 times 16, 1000 rows of the second matrix are not whole times 16.
    made = chip_kernel("ascend_910b2", GatedMlpKernel((64,), 1024, 1000, 1024)).stages
    assert [stage.aligned for stage in made] == [True, True, False]


def test_a_chip_without_the_fused_mlp_says_so():
    with pytest.raises(InputError, match="nvidia_a100 has no kernel that fuses a gated MLP"):
        seconds("nvidia_a100", GatedMlpKernel((16,), 64, 64, 64))


@pytest.mark.parametrize("name", chip_names())
def test_more_of_anything_takes_no_less_time(name):
    rows = [seconds(name, linear(it, 4096, 4096)) for it in (1, 64, 1024, 8192)]
    outputs = [seconds(name, linear(256, 4096, it)) for it in (64, 1024, 8192)]
    images = [seconds(name, convolution(batch=it)) for it in (1, 8, 64)]
    channels = [seconds(name, convolution(channels=it)) for it in (32, 64, 256)]
    moved = [seconds(name, MemoryKernel("add", it)) for it in (10, 10**6, 10**9)]
    assert all(times == sorted(times) for times in (rows, outputs, images, channels, moved))


@pytest.mark.parametrize("name", chip_names())
def test_int8_is_faster_than_float16_where_there_is_much_to_do(name):
    assert seconds(name, linear(4096, 8192, 8192)) < 0.8 * seconds(name, linear(4096, 8192, 8192, "float16"))


def test_a_pass_over_memory_takes_its_launch_and_at_least_its_bytes():
    launch, large = (seconds("ascend_910b2", MemoryKernel("add", it)) for it in (1, 16 * 10**9))
    assert 1e-6 < launch < 2e-5
    assert large > 16e9 / 1.6e12


def test_a_residual_that_a_convolution_reads_costs_no_launch():
    assert seconds("ascend_910b2", MemoryKernel("fused_add", 16)) < 1e-9


def test_prices_of_a_network_add_up_and_name_what_bounds_them():
    target = ChipTarget("ascend_950pr", batch=8)
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 16)).eval()
    graph = trace(network, (torch.zeros(1, 3, 8, 8),))
    calls = target.lower(graph, Recipe({"0": LayerRecipe(), "3": LayerRecipe(quantize=Quantize(4, 16))}))
    kernels = [call.kernel for call in calls if isinstance(call.kernel, ComputeKernel)]
    assert [kernel.precision for kernel in kernels] == ["float16", "w4"]
    assert [kernel.batch for kernel in kernels] == [8, 8]
    priced = [target.latency.price(call) for call in calls]
    assert target.latency.total_ms(calls) == pytest.approx(1e3 * sum(it.seconds for it in priced))
    assert all(it.bound_by in BOUNDS and it.plan == "whole" and it.mode == "model" for it in priced)


@pytest.mark.parametrize("name", chip_names())
def test_it_is_a_target(name):
    assert isinstance(ChipTarget(name), Target)


def test_layers_run_in_their_widths_and_weight_only_ones_read_floating_point():
    network = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6))).eval()
    graph = trace(network, (torch.zeros(1, 64),))
    widths = {"0": Quantize(8, 16), "1": Quantize(4, 8), "2": Quantize(8, 8), "3": None}
    widths |= {"4": Quantize(8, 8, group_size=16), "5": Quantize(4, 8, group_size=16)}
    recipe = Recipe({name: LayerRecipe(quantize=it) for name, it in widths.items()})
    calls = ChipTarget("ascend_910b2", batch=2).lower(graph, recipe)
    moved = 2 * 64 * (2 + 1)
    assert [call.kernel for call in calls] == [
        linear(2, 64, 64, "w8"),
        MemoryKernel("convert", moved),
        linear(2, 64, 64, "w4a8", "int8"),
        linear(2, 64, 64),
        linear(2, 64, 64, "float16"),
        linear(2, 64, 64, "w8"),
        linear(2, 64, 64, "w4"),
    ]


def test_a_recipe_is_the_sum_of_its_choices():
    model = ChipTarget("ascend_910b2").latency
    calls = [KernelCall(linear(it, 512, 512), "it") for it in (1, 512, 4096)]
    factors = choice_factors(model, [[calls[:1], calls[1:]], [calls, []]])
    times = total(factors, np.array([[0, 0], [1, 1], [1, 0]]))
    expected = [model.total_ms([*calls[:1], *calls]), model.total_ms(calls[1:]), model.total_ms([*calls[1:], *calls])]
    assert times == pytest.approx(expected)


def test_the_nearest_measured_kernels_correct_linear_layers_alone():
    calls = [KernelCall(kernel, "it") for kernel in (linear(1024, 4096, 4096), convolution())]
    priced = [ChipTarget("ascend_910b2", mode="nearest").latency.price(call) for call in calls]
    assert [it.mode for it in priced] == ["nearest", "model"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chip": "tpu"}, "unknown hardware tpu"),
        ({"batch": 0}, "`target.batch >= 1` must hold, but it is 0"),
        ({"cards": -1}, "`target.cards >= 1` must hold, but it is -1"),
        ({"mode": "guess"}, "target.mode must be one of model, nearest, but is guess"),
        ({"float_type": "int8"}, "`target.float_type` must be float16 or bfloat16, but is int8"),
    ],
)
def test_impossible_targets_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        ChipTarget(**{"chip": "ascend_910b2"} | changes)


def test_widths_without_a_kernel_are_named():
    with pytest.raises(InputError, match="no kernel has 3-bit weights with 8-bit activations"):
        precision_of(Quantize(3, 8), "float16")
    with pytest.raises(InputError, match="no kernel is modelled in int3"):
        seconds("ascend_910b2", linear(1, 1, 1, "int3"))
