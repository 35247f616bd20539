from dataclasses import replace

from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.plausible_times import implausible

CONVOLUTION = ComputeKernel("conv2d", 32, 64, 64, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1, "int8", "int8")
WIDER, DEEPER = replace(CONVOLUTION, out_channels=80), replace(CONVOLUTION, in_channels=128)
NARROWER = replace(CONVOLUTION, out_channels=32)
DEPTHWISE = replace(CONVOLUTION, groups=64)


def test_a_kernel_that_takes_longer_than_half_as_much_again_as_a_larger_one_is_implausible():
    assert implausible({CONVOLUTION: 1.6e-4, WIDER: 1e-4}) == [CONVOLUTION]
    assert implausible({CONVOLUTION: 1.6e-4, DEEPER: 1e-4}) == [CONVOLUTION]


def test_a_kernel_that_takes_a_little_longer_than_a_larger_one_is_plausible():
    assert implausible({CONVOLUTION: 1.4e-4, WIDER: 1e-4}) == []


def test_a_large_kernel_may_take_long():
    assert implausible({CONVOLUTION: 9e-4, NARROWER: 1e-4}) == []


def test_more_of_one_and_less_of_the_other_channels_are_not_compared():
    assert implausible({replace(NARROWER, in_channels=128): 9e-4, CONVOLUTION: 1e-4}) == []


def test_kernels_of_another_shape_or_precision_are_not_compared():
    for changes in ({"input_size": (8, 8)}, {"precision": "bfloat16"}, {"output_precision": "bfloat16"}):
        assert implausible({CONVOLUTION: 9e-4, replace(WIDER, **changes): 1e-4}) == []


def test_kernels_in_groups_are_not_compared():
    assert implausible({DEPTHWISE: 9e-4, replace(DEPTHWISE, in_channels=128, out_channels=128, groups=128): 1e-4}) == []


def test_several_are_sorted():
    seconds = {WIDER: 3e-4, CONVOLUTION: 2e-4, replace(WIDER, out_channels=96): 1e-4}
    assert implausible(seconds) == [CONVOLUTION, WIDER]
