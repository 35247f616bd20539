from dataclasses import replace

import pytest
from gulliver.evaluators.latency.cards import plans
from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel, KernelCall, MemoryKernel

CHIP = replace(read_chip("ascend_910b2"), link_bandwidth_bytes_per_s=1e9)
EXPERTS = GatedMlpKernel((64, 32, 16, 8), 100, 200, 100)
LINEAR = ComputeKernel("linear", 64, 4096, 1000, (), (), (), (), (), 1, "int8", "float16")


def test_one_card_has_one_plan():
    assert [plan.name for plan in plans(EXPERTS, CHIP, 1)] == ["whole"]


def test_tensor_parallel_splits_the_hidden_width_and_reduces_the_partial_sums():
    tensor = plans(EXPERTS, CHIP, 4)[1]
    assert tensor.kernels == (replace(EXPERTS, hidden_channels=50),)
    # A ring sends 2 * 3/4 of 120 rows of 100 float16 sums.
    assert tensor.communication_s == pytest.approx(2 * 3 / 4 * 120 * 100 * 2 / 1e9)


def test_expert_parallel_deals_the_groups_and_waits_for_the_busiest_card():
    expert = plans(EXPERTS, CHIP, 2)[2]
    assert [kernel.group_rows for kernel in expert.kernels] == [(64, 32), (16, 8)]
    # Half of 120 rows changes cards: 100 int8 bytes there, 100 float16 back; each of two cards has its own link.
    assert expert.communication_s == pytest.approx(1 / 2 * 120 * (100 + 200) / 2 / 1e9)
    assert expert.seconds(lambda kernel: sum(kernel.group_rows)) == pytest.approx(96 + expert.communication_s)


def test_one_group_has_no_experts_to_deal():
    assert [plan.name for plan in plans(replace(EXPERTS, group_rows=(64,)), CHIP, 8)] == ["whole", "tensor"]


@pytest.mark.parametrize(("output", "element_bytes"), [("float16", 2), ("int8", 1)])
def test_a_linear_layers_outputs_are_split_and_gathered(output, element_bytes):
    linear = replace(LINEAR, output_precision=output)
    tensor = plans(linear, CHIP, 3)[1]
    assert tensor.kernels == (replace(linear, out_channels=334),)
    assert tensor.communication_s == pytest.approx(2 / 3 * 64 * 1000 * element_bytes / 1e9)


@pytest.mark.parametrize("kernel", [EXPERTS, LINEAR])
def test_cards_without_a_link_run_everything_whole(kernel):
    assert [plan.name for plan in plans(kernel, replace(CHIP, link_bandwidth_bytes_per_s=0), 8)] == ["whole"]


def test_aligned_channels_are_split_into_aligned_parts():
    # Of 256 times 16 outputs the busiest of three cards has 86 times 16, of 128 times 16 hidden channels 43 times 16.
    assert plans(replace(LINEAR, out_channels=4096), CHIP, 3)[1].kernels[0].out_channels == 86 * 16
    assert plans(replace(EXPERTS, hidden_channels=2048), CHIP, 3)[1].kernels[0].hidden_channels == 43 * 16


def test_what_cannot_be_split_runs_whole():
    convolution = ComputeKernel("conv2d", 1, 8, 8, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1, "int8", "int8")
    assert [plan.name for plan in plans(convolution, CHIP, 8)] == ["whole"]
    assert [plan.name for plan in plans(MemoryKernel("add", 8), CHIP, 8)] == ["whole"]


@pytest.mark.parametrize("kernel", [GatedMlpKernel((512,) * 32, 7168, 2048, 7168), replace(LINEAR, out_channels=65536)])
def test_more_cards_are_never_slower_and_help_where_there_is_much_to_do(kernel):
    call = KernelCall(kernel, "it")
    times = [ChipTarget("ascend_910b2", cards=cards).latency.seconds(call) for cards in range(1, 9)]
    assert times == sorted(times, reverse=True)
    assert times[-1] < 0.5 * times[0]


def test_small_work_is_not_split():
    call = KernelCall(GatedMlpKernel((1,), 64, 64, 64), "it")
    one, eight = (ChipTarget("ascend_910b2", cards=cards).latency.price(call) for cards in (1, 8))
    assert eight.seconds <= one.seconds
    assert eight.seconds == pytest.approx(one.seconds, rel=0.05)
