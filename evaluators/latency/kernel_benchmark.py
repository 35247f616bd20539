"""Time single kernels on this machine's OpenVINO: the node alone, in a model that runs again and again."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gulliver.evaluators.latency.kernel import ComputeKernel

_KERNELS_PER_MODEL = 12
# The first run of a kernel in an inference finds its code out of the caches, the next ones do not.
_IN_SUCCESSION = 2
_NODE_TYPES = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
_SEED = 0
# Behind the first inference, which makes the kernels' code, as many find weights out of the caches.
_WARM_UP = 3
# Large kernels need few inferences, as they are long beside a microsecond.
_MOST_SECONDS, _FEWEST = 0.15, 12
# OpenVINO cuts each run of a node to whole microseconds, and their mean once more.
_CUT_OFF_SECONDS = 1e-6
_LEAST_SECONDS = 5e-7
# Neither small nor large, and in every model: by its time the others are compared.
REFERENCE = ComputeKernel("conv2d", 16, 64, 64, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1), 1, "int8", "int8")


def time_kernels(kernels: Sequence[ComputeKernel], threads: int, repetitions: int) -> dict[ComputeKernel, float]:
    """Return the seconds of each kernel's node, its mean over inferences in succession, and those of `REFERENCE`.

    Many kernels share a model, and each model holds the reference kernel, by which its times are set right: a shared
    machine's speed drifts by more than the kernels differ. Each kernel is there twice in succession, with weights of
    its own, and its inferences, of which there are fewer than `repetitions` where these would take long, are split in
    two: node times are wall times, which another process can only lengthen, so the least of the four means counts.
    Nodes write and read as in a network: results are read in their own precision, by a small convolution.
    """
    others = [kernel for kernel in kernels if kernel != REFERENCE]
    chunks = [others[start : start + _KERNELS_PER_MODEL] for start in range(0, len(others), _KERNELS_PER_MODEL)]
    times = [_TimedModel(_with_references(chunk), threads).seconds(repetitions) for chunk in chunks or [[]]]
    reference = float(np.median([some[REFERENCE] for some in times]))
    return {kernel: it * reference / some[REFERENCE] for some in times for kernel, it in some.items()}


def _with_references(chunk: list[ComputeKernel]) -> list[ComputeKernel]:
    """Return the kernels with the reference before, among and behind them."""
    middle = len(chunk) // 2
    return [REFERENCE, *chunk[:middle], REFERENCE, *chunk[middle:], REFERENCE]


class _TimedModel:
    """Some kernels side by side in one compiled model, each several times in succession."""

    def __init__(self, kernels: Sequence[ComputeKernel], threads: int) -> None:
        self._kernels = kernels
        compiled = _compile(kernels, threads)
        self._owners = _owners(compiled, len(kernels) * _IN_SUCCESSION)
        self._request = compiled.create_infer_request()
        self._inferences = 0

    def seconds(self, repetitions: int) -> dict[ComputeKernel, float]:
        """Return the seconds of each kernel in an inference, the least of all that are the same kernel."""
        self._run(1)
        seconds_each = self._run(_WARM_UP) / _WARM_UP
        many = int(np.clip(_MOST_SECONDS / seconds_each, _FEWEST, repetitions))
        counts = np.array([1, max(1, many // 4), max(1, many - many // 4)])
        sums = np.stack([self._summed_after(count) for count in counts])
        means = (np.diff(sums, axis=0) / counts[1:, None]).min(0).reshape(len(self._kernels), _IN_SUCCESSION).min(1)
        fastest: dict[ComputeKernel, float] = {}
        for kernel, mean in zip(self._kernels, np.maximum(means, _LEAST_SECONDS), strict=True):
            fastest[kernel] = min(float(mean), fastest.get(kernel, np.inf))
        return fastest

    def _run(self, inferences: int) -> float:
        """Run all kernels so many times and return the seconds that this took."""
        start = time.perf_counter()
        for _ in range(inferences):
            self._request.infer(share_outputs=True)
        self._inferences += inferences
        return time.perf_counter() - start

    def _summed_after(self, inferences: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Run all kernels so many times more and return the seconds of each since the model was compiled.

        What OpenVINO calls a node's time is its mean over all inferences so far.
        """
        self._run(inferences)
        means = np.zeros(len(self._owners))
        for node in self._request.profiling_info:
            if node.node_name in self._owners:
                means[self._owners[node.node_name]] = node.real_time.total_seconds()
        return self._inferences * (means + _CUT_OFF_SECONDS)


def _compile(kernels: Sequence[ComputeKernel], threads: int) -> Any:
    import openvino

    model = _model(kernels)
    floats = {kernel.precision for kernel in kernels} | {kernel.output_precision for kernel in kernels}
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32" if "float32" in floats else "bf16",
        "PERF_COUNT": True,
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def _model(kernels: Sequence[ComputeKernel]) -> Any:
    import openvino

    random = np.random.default_rng(_SEED)
    parameters: list[Any] = []
    results: list[Any] = []
    for index, kernel in enumerate(kernels):
        inputs = _parameter([kernel.batch, kernel.in_channels, *kernel.input_size])
        values = _rounded(inputs, kernel.signed_input) if kernel.precision == "int8" else inputs
        parameters.append(inputs)
        for copy in range(index * _IN_SUCCESSION, (index + 1) * _IN_SUCCESSION):
            # An addition may write where its addend was, so that each needs one of its own.
            addends = [_parameter([kernel.batch, kernel.out_channels, *kernel.output_size])] if kernel.adds else []
            parameters.extend(addends)
            results.append(_result(copy, kernel, values, addends, random))
    return openvino.Model(results, parameters)


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


def _parameter(shape: list[int]) -> Any:
    from openvino import opset13 as ops

    return ops.parameter(shape, np.float32)


def _result(index: int, kernel: ComputeKernel, values: Any, addends: list[Any], random: np.random.Generator) -> Any:
    """Return what reads the kernel's result, the kernel being the one of this index."""
    from openvino import opset13 as ops

    output = _named(_node(kernel, values, random), index, "product")
    if not kernel.bare:
        output = _named(ops.add(output, _bias(kernel, random)), index, "bias")
    for addend in addends:
        output = _named(ops.add(output, ops.relu(addend)), index, "sum")
    if not kernel.bare:
        output = ops.relu(output)
    if kernel.output_precision == "int8":
        output = _rounded(output, signed=kernel.bare)
    # Without a reader in the output's own precision, a kernel does not write as in a network.
    return ops.result(_read(kernel, output, random))


def _named(node: Any, index: int, part: str) -> Any:
    node.set_friendly_name(f"kernel_{index}/{part}")
    return node


def _bias(kernel: ComputeKernel, random: np.random.Generator) -> Any:
    from openvino import opset13 as ops

    shape = [1, kernel.out_channels, *([1] * len(kernel.input_size))]
    return ops.constant(random.standard_normal(shape).astype(np.float32))


def _read(kernel: ComputeKernel, values: Any, random: np.random.Generator) -> Any:
    """Return the smallest convolution of the kernel's result, in its precision.

    Two small linear layers in a row become one node, which is why a convolution reads those too.
    """
    from openvino import opset13 as ops

    size = kernel.output_size or (1,)
    ones, zeros = (1,) * len(size), (0,) * len(size)
    shape = (kernel.batch, kernel.out_channels, 1, size, ones, ones, zeros, ones, 1)
    if kernel.kind == "linear":
        values = ops.reshape(values, [kernel.batch, kernel.out_channels, *size], False)
    return _node(ComputeKernel("convolution", *shape, kernel.output_precision, ""), values, random)


def _node(kernel: ComputeKernel, values: Any, random: np.random.Generator) -> Any:
    from openvino import opset13 as ops

    weight = ops.constant(_weight(kernel, random))
    if kernel.precision == "int8":
        weight = _fake_quantized(weight, -1.27, 1.27, 255)
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


def _rounded(values: Any, signed: bool) -> Any:
    return _fake_quantized(values, -1.28, 1.27, 256) if signed else _fake_quantized(values, 0.0, 2.55, 256)


def _fake_quantized(values: Any, low: float, high: float, levels: int) -> Any:
    from openvino import opset13 as ops

    bounds = [ops.constant(np.array(bound, dtype=np.float32)) for bound in (low, high, low, high)]
    return ops.fake_quantize(values, *bounds, levels)
