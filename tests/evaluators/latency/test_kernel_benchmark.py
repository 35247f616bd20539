from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.kernel_benchmark import REFERENCE, _compile, _owners, _TimedModel, time_kernels

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


class Profile:
    """A request as OpenVINO's: a node's time is its mean over all inferences so far, cut to microseconds twice."""

    def __init__(self, microseconds):
        self.left, self.sums, self.count = iter(microseconds), [0] * 2, 0

    def infer(self, share_outputs):
        assert share_outputs
        self.count += 1
        self.sums = [total + int(it) for total, it in zip(self.sums, next(self.left), strict=True)]

    @property
    def profiling_info(self):
        means = (timedelta(microseconds=it // self.count) for it in self.sums)
        return [SimpleNamespace(node_name=f"node {index}", real_time=it) for index, it in enumerate(means)]


def test_a_kernels_time_is_of_the_inferences_behind_the_first_ones_and_of_the_faster_half():
    model = object.__new__(_TimedModel)
    model._kernels, model._owners, model._inferences = [CONVOLUTION], {f"node {it}": it for it in range(2)}, 0
    # Of the sixty that count, the first fifteen are disturbed.
    model._request = Profile([(900.9, 500.5)] * 5 + [(80.0, 60.0)] * 15 + [(40.4, 20.2)] * 45)
    assert model.seconds(60)[CONVOLUTION] == pytest.approx(20.5e-6, abs=1e-6)


ROUNDS, BARE, SIGNED = {"output_precision": "int8"}, {"bare": True}, {"signed_input": True}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kernel", [CONVOLUTION, LINEAR, ONE_DIMENSION], ids=lambda it: it.kind)
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_every_kernel_is_a_node_of_its_own(kernel, batch, precision):
    floats = replace(kernel, batch=batch, precision=precision, output_precision="bfloat16")
    kernels = [floats, replace(floats, **ROUNDS), replace(floats, output_precision=precision, **BARE)]
    if precision == "int8":
        kernels += [replace(it, **SIGNED) for it in kernels]
    elif kernel.kind != "linear":
        kernels += [replace(it, adds=True) for it in kernels[:2]]
    compiled = _compile(kernels, threads=1)
    assert len(_owners(compiled, 2 * len(kernels))) == 2 * len(kernels)


@pytest.mark.parametrize("output", ["int8", "bfloat16"])
def test_a_float_kernel_that_adds_absorbs_its_addition(output):
    adding = replace(CONVOLUTION, precision="bfloat16", output_precision=output, adds=True)
    compiled = _compile([adding], threads=1)
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    names = [str(it["originalLayersNames"].astype(str)) for it in nodes]
    assert sum("kernel_0/product" in it and "kernel_0/sum" in it for it in names) == 1
