"""What runs exported networks on a target that is here: it scores what was exported, and measures it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gulliver.evaluators.exported import OpenvinoModule
from gulliver.evaluators.latency.measurement import Timing, compile_openvino, measure
from torch import Tensor, nn


class Runtime(Protocol):
    """Runs exported networks of one batch size."""

    @property
    def batch(self) -> int:
        """Return the batch size that networks are exported for."""

    @property
    def float_type(self) -> str:
        """Return the type that layers run in that are not quantized."""

    def module(self, path: Path, float_type: str) -> nn.Module:
        """Return an exported network as a module, for a task to score."""

    def measure(self, networks: Mapping[str, tuple[Path, str]], inputs: tuple[Tensor, ...]) -> dict[str, Timing]:
        """Return the timings of exported networks, each with its float type, interleaved."""


@dataclass(frozen=True)
class OpenvinoRuntime:
    """OpenVINO on this machine's CPU."""

    batch: int
    float_type: str
    threads: int
    repetitions: int

    def module(self, path: Path, float_type: str) -> nn.Module:
        """Return an exported network as a module, for a task to score."""
        return OpenvinoModule(path, float_type)

    def measure(self, networks: Mapping[str, tuple[Path, str]], inputs: tuple[Tensor, ...]) -> dict[str, Timing]:
        """Return the timings of exported networks, each with its float type, interleaved."""
        compiled = {name: compile_openvino(path, it, self.threads) for name, (path, it) in networks.items()}
        return measure(compiled, inputs, self.repetitions)
