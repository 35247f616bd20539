"""Time single kernels on this machine's OpenVINO: the node alone, not the one-layer model around it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gulliver.evaluators.latency.kernel import ComputeKernel

_KERNELS_PER_MODEL = 12
# The first run of a kernel in an inference finds its code out of the caches, the next ones do not.
_IN_SUCCESSION = 3
_NODE_TYPES = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
_SEED = 0
# OpenVINO gives whole microseconds, rounded down.
_CUT_OFF_SECONDS = 5e-7
# Neither small nor large, and in every model: by its time the others are compared.
REFERENCE = ComputeKernel("conv2d", 16, 64, 64, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1), 1, "int8", "int8")


def time_kernels(kernels: Sequence[ComputeKernel], threads: int, repetitions: int) -> dict[ComputeKernel, float]:
    """Return the mean of the lower half of each kernel's node seconds over the repetitions, and that of `REFERENCE`.

    Many kernels share a model, the models take turns, and each holds the reference kernel, by which its times are
    set right: a shared machine's speed drifts by more than the kernels differ. Node times are wall times in whole
    microseconds, which another process can only lengthen; hence the lower half. Each kernel is there three times in
    succession, with inputs and weights of its own, and the fastest of these counts, whose code is warm.
    """
    others = [kernel for kernel in kernels if kernel != REFERENCE]
    chunks = [others[start : start + _KERNELS_PER_MODEL] for start in range(0, len(others), _KERNELS_PER_MODEL)]
    models = [_TimedModel(_with_references(chunk), threads) for chunk in chunks or [[]]]
    for _ in range(repetitions):
        for model in models:
            model.infer()
    times = [model.seconds() for model in models]
    reference = float(np.median([some[REFERENCE] for some in times]))
    return {kernel: it * reference / some[REFERENCE] for some in times for kernel, it in some.items()}


def _with_references(chunk: list[ComputeKernel]) -> list[ComputeKernel]:
    """Return the kernels with the reference before, among and behind them, each several times in succession."""
    middle = len(chunk) // 2
    kernels = (REFERENCE, *chunk[:middle], REFERENCE, *chunk[middle:], REFERENCE)
    return [kernel for kernel in kernels for _ in range(_IN_SUCCESSION)]


class _TimedModel:
    """Some kernels side by side in one compiled model, with the node times of its inferences so far."""

    def __init__(self, kernels: Sequence[ComputeKernel], threads: int) -> None:
        self._kernels = kernels
        compiled = _compile(kernels, threads)
        self._owners = _owners(compiled, len(kernels))
        self._request = compiled.create_infer_request()
        self._samples: dict[int, list[float]] = defaultdict(list)

    def infer(self) -> None:
        """Run all kernels once."""
        self._request.infer()
        for node in self._request.profiling_info:
            if node.node_name in self._owners:
                self._samples[self._owners[node.node_name]].append(node.real_time.total_seconds())

    def seconds(self) -> dict[ComputeKernel, float]:
        """Return the mean of the lower half of each kernel's seconds, the least of all that are the same kernel."""
        fastest: dict[ComputeKernel, float] = {}
        for index, kernel in enumerate(self._kernels):
            seconds = _mean_of_lower_half(self._samples[index])
            fastest[kernel] = min(seconds, fastest.get(kernel, seconds))
        return fastest


def _mean_of_lower_half(samples: Sequence[float]) -> float:
    return _CUT_OFF_SECONDS + float(np.mean(np.sort(samples)[: (len(samples) + 1) // 2]))


def _compile(kernels: Sequence[ComputeKernel], threads: int) -> Any:
    import openvino

    random = np.random.default_rng(_SEED)
    branches = [_branch(index, kernel, random) for index, kernel in enumerate(kernels)]
    model = openvino.Model([result for result, _ in branches], [parameter for _, parameter in branches])
    floats = {kernel.precision for kernel in kernels} | {kernel.output_precision for kernel in kernels}
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32" if "float32" in floats else "bf16",
        "PERF_COUNT": True,
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def _owners(compiled: Any, count: int) -> dict[str, int]:
    """Return the index of the kernel that each matrix node of the compiled model computes."""
    owners: dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if str(info["layerType"].astype(str)).startswith(_NODE_TYPES):
            originals = str(info["originalLayersNames"].astype(str)).split(",")
            owners |= {node.get_friendly_name(): _index(name) for name in originals if name.startswith("kernel_")}
    assert len(set(owners.values())) == count, f"found {len(owners)} of {count} kernels in the compiled model"
    return owners


def _index(name: str) -> int:
    return int(name.removeprefix("kernel_").partition("/")[0])


def _branch(index: int, kernel: ComputeKernel, random: np.random.Generator) -> tuple[Any, Any]:
    """Return a result and its parameter with one kernel between them, biased and rectified as in a network."""
    from openvino import opset13 as ops

    parameter = ops.parameter([kernel.batch, kernel.in_channels, *kernel.input_size], np.float32)
    values = _rounded(parameter, 0.0, 2.55, 256) if kernel.precision == "int8" else parameter
    node = _node(kernel, values, random)
    node.set_friendly_name(f"kernel_{index}/product")
    bias_shape = [1, kernel.out_channels, *([1] * len(kernel.input_size))]
    biased = ops.add(node, ops.constant(random.standard_normal(bias_shape).astype(np.float32)))
    biased.set_friendly_name(f"kernel_{index}/bias")
    output = ops.relu(biased)
    if kernel.output_precision == "int8":
        output = _rounded(output, 0.0, 2.55, 256)
        if kernel.precision != "int8":
            # Without an int8 reader, a float kernel does not round as in a network.
            output = _node(_reader(kernel), output, random)
    return ops.result(output), parameter


def _reader(kernel: ComputeKernel) -> ComputeKernel:
    """Return the smallest int8 kernel that reads the kernel's result."""
    ones, zeros = (1,) * len(kernel.input_size), (0,) * len(kernel.input_size)
    return replace(
        kernel,
        in_channels=kernel.out_channels,
        out_channels=1,
        kernel_size=ones,
        stride=ones,
        padding=zeros,
        dilation=ones,
        groups=1,
        precision="int8",
    )


def _node(kernel: ComputeKernel, values: Any, random: np.random.Generator) -> Any:
    from openvino import opset13 as ops

    weight = ops.constant(_weight(kernel, random))
    if kernel.precision == "int8":
        weight = _rounded(weight, -1.27, 1.27, 255)
    if kernel.kind == "linear":
        return ops.matmul(values, weight, False, True)
    padding, dilation = list(kernel.padding), list(kernel.dilation)
    if kernel.groups > 1:
        return ops.group_convolution(values, weight, list(kernel.stride), padding, padding, dilation)
    return ops.convolution(values, weight, list(kernel.stride), padding, padding, dilation)


def _weight(kernel: ComputeKernel, random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape: tuple[int, ...] = (kernel.out_channels, kernel.in_channels // kernel.groups, *kernel.kernel_size)
    if kernel.groups > 1:
        shape = (kernel.groups, kernel.out_channels // kernel.groups, *shape[1:])
    return np.clip(random.standard_normal(shape) * 0.3, -1.27, 1.27).astype(np.float32)


def _rounded(values: Any, low: float, high: float, levels: int) -> Any:
    from openvino import opset13 as ops

    bounds = [ops.constant(np.array(bound, dtype=np.float32)) for bound in (low, high, low, high)]
    return ops.fake_quantize(values, *bounds, levels)
