from dataclasses import replace

import pytest
from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.kernel_benchmark import REFERENCE, time_kernels

CONVOLUTION = ComputeKernel("conv2d", 4, 32, 64, (16, 16), (3, 3), (1, 1), (1, 1), (1, 1), 1, "int8", "int8")
DEPTHWISE = replace(CONVOLUTION, out_channels=32, groups=32, stride=(2, 2))
LINEAR = ComputeKernel("linear", 32, 128, 64, (), (), (), (), (), 1, "int8", "bfloat16")
ONE_DIMENSION = ComputeKernel("conv1d", 4, 32, 32, (64,), (5,), (1,), (2,), (1,), 1, "int8", "int8")
HALF = replace(CONVOLUTION, kernel_size=(3, 1), padding=(1, 0))


def in_floats(kernel, float_type):
    return replace(kernel, precision=float_type, output_precision=float_type)


@pytest.mark.parametrize("float_type", ["bfloat16", "float32"])
def test_every_kind_of_kernel_takes_some_time(float_type):
    kinds = [CONVOLUTION, DEPTHWISE, LINEAR, ONE_DIMENSION, HALF]
    integers = [replace(it, output_precision="int8" if it.kind != "linear" else float_type) for it in kinds]
    rounding = (replace(it, precision=float_type, output_precision="int8") for it in kinds)
    mixed = [replace(CONVOLUTION, output_precision=float_type), *rounding]
    kernels = [*integers, *(in_floats(it, float_type) for it in kinds), *mixed]
    seconds = time_kernels(kernels, threads=1, repetitions=5)
    assert set(seconds) == {REFERENCE, *kernels}
    assert all(0 < value < 1 for value in seconds.values())


def test_more_kernels_than_fit_in_one_model_are_all_timed():
    kernels = [replace(LINEAR, in_channels=16, out_channels=count) for count in range(1, 31)]
    assert list(time_kernels(kernels, threads=1, repetitions=3)) == [REFERENCE, *kernels]


def test_more_work_takes_more_time():
    large = replace(CONVOLUTION, in_channels=256, out_channels=256)
    seconds = time_kernels([CONVOLUTION, large], threads=1, repetitions=15)
    assert seconds[large] > 3 * seconds[CONVOLUTION]  # 32 times the multiply-accumulates
