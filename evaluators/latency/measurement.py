"""Measure whole networks on this machine's OpenVINO: CPU time of one inference, in turns of several, quantiles."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# A turn's first inferences find code and weights out of the caches, as those of a deployed network do not; the fifth is
# as fast as any.
_WARM_UP, _COUNTED = 4, 4
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
    """Return each compiled network's timing on the same inputs, of which nothing is copied.

    The networks take turns of eight inferences in succession, of which the last four count. More than `repetitions` are
    counted where these would take each network less than 0.15 s of CPU on average.
    """
    requests = {name: _request(model, inputs) for name, model in compiled.items()}
    samples: dict[str, list[float]] = {name: [] for name in compiled}
    turns, spent = 0, 0.0
    while turns * _COUNTED < repetitions or spent < _LEAST_SECONDS * len(requests):
        for name, request in requests.items():
            seconds = _turn(request)
            samples[name].extend(1e3 * it for it in seconds)
            spent += sum(seconds)
        turns += 1
    return {name: _timing(values) for name, values in samples.items()}


def _request(compiled: Any, inputs: tuple[Tensor, ...]) -> Any:
    import openvino

    request = compiled.create_infer_request()
    for index, tensor in enumerate(inputs):
        request.set_input_tensor(index, openvino.Tensor(tensor.numpy()))
    return request


def _turn(request: Any) -> list[float]:
    """Return the seconds of CPU time of the inferences that count."""
    seconds = []
    for _ in range(_WARM_UP + _COUNTED):
        start = time.process_time()
        request.infer(share_outputs=True)
        seconds.append(time.process_time() - start)
    return seconds[_WARM_UP:]


def _timing(values: list[float]) -> Timing:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return Timing(float(middle), float(low), float(high))
