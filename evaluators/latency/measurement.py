"""Measure whole networks on this machine's OpenVINO: CPU time of one inference, interleaved, quantiles."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# The median of a few short inferences is another one each time.
_LEAST_SECONDS = 0.15


@dataclass(frozen=True)
class Timing:
    """Quantiles of the CPU time of one inference, in milliseconds."""

    median_ms: float
    p10_ms: float
    p90_ms: float


def compile_openvino(model: Any, float_type: str, threads: int) -> Any:
    """Return an `openvino.Model`, or the file of one, compiled for this CPU with its float layers in `float_type`."""
    import openvino

    hint = {"float32": "f32", "bfloat16": "bf16"}[float_type]
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(model, "CPU", settings)


def measure(compiled: Mapping[str, Any], inputs: tuple[Tensor, ...], repetitions: int) -> dict[str, Timing]:
    """Return each compiled network's timing on the same inputs, one inference of each in turn.

    There are more turns than `repetitions` where these would take each network less than 0.15 s of CPU on average.
    """
    arrays = [tensor.numpy() for tensor in inputs]
    requests = {name: model.create_infer_request() for name, model in compiled.items()}
    samples: dict[str, list[float]] = {name: [] for name in compiled}
    for request in requests.values():
        request.infer(arrays)
    turns, spent = 0, 0.0
    while turns < repetitions or spent < _LEAST_SECONDS * len(requests):
        for name, request in requests.items():
            start = time.process_time()
            request.infer(arrays)
            seconds = time.process_time() - start
            samples[name].append(1e3 * seconds)
            spent += seconds
        turns += 1
    return {name: _timing(values) for name, values in samples.items()}


def _timing(values: list[float]) -> Timing:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return Timing(float(middle), float(low), float(high))
