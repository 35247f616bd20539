"""OpenVINO on this machine's CPU: the target on which everything is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gulliver.compressors.compress import Original
from gulliver.evaluators.latency.kernel import KernelCall
from gulliver.evaluators.latency.lowering import Lowering, all_calls
from gulliver.evaluators.latency.runtime import OpenvinoRuntime
from gulliver.evaluators.latency.target import LatencyModel
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.choices import Choices, RecipeChoices
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.tasks.errors import InputError


@dataclass(frozen=True)
class CpuOpenvino:
    """This machine's CPU under OpenVINO; `batch` and `threads` are the conditions of every latency."""

    name: str = "cpu_openvino"
    batch: int = 32
    threads: int = 1
    float_type: str = "bfloat16"
    precisions: tuple[tuple[int, int], ...] = ((8, 8),)
    channel_multiple: int = 16
    small_channel_multiple: int = 8
    small_channels: int = 32
    kernel_repetitions: int = 60
    calibration_networks: int = 10
    repetitions: int = 100
    # Younger than the first searches: left out of their settings at its default, so that they still open.
    channel_steps: int = field(default=20, metadata={"younger": True})

    def __post_init__(self) -> None:
        multiples = ("channel_multiple", "small_channel_multiple")
        for key in ("batch", "threads", *multiples, "channel_steps", "kernel_repetitions", "repetitions"):
            if getattr(self, key) < 1:
                raise InputError(f"`target.{key} >= 1` must hold, but it is {getattr(self, key)}")
        if self.float_type not in ("float32", "bfloat16"):
            raise InputError(f"`target.float_type` must be float32 or bfloat16, but is {self.float_type}")

    @property
    def capabilities(self) -> Capabilities:
        """Return the precisions of this CPU: it has no int4 convolution, and runs int8 and `float_type`."""
        return Capabilities(
            float_type=self.float_type,
            precisions=dict.fromkeys(("conv1d", "conv2d", "linear"), self.precisions),
            channel_multiple=self.channel_multiple,
            small_channel_multiple=self.small_channel_multiple,
            small_channels=self.small_channels,
            channel_steps=self.channel_steps,
        )

    @property
    def conditions(self) -> str:
        """Return the conditions of every latency, in words."""
        return f"batch {self.batch}, {self.threads} inference thread{'s' if self.threads > 1 else ''}"

    @property
    def runtime(self) -> OpenvinoRuntime:
        """Return OpenVINO on this machine."""
        return OpenvinoRuntime(self.batch, self.float_type, self.threads, self.repetitions)

    def latency_model(
        self,
        original: Original,
        space: Space,
        calls: Sequence[KernelCall] | None = None,
        fit_file: Path | None = None,
    ) -> LatencyModel:
        """Return the prices of the network's kernel calls, calibrated on this machine."""
        # A calibration is of this target.
        from gulliver.evaluators.latency.calibration import calibrate_calls, calibrate_search, space_calls

        calls = space_calls(space, self) if calls is None else calls
        if fit_file is not None:
            return calibrate_search(self, original, space, calls, fit_file)
        return calibrate_calls(self, original, space, calls)

    def lowering(self, graph: LayerGraph, choices: Choices) -> Lowering:
        """Return the lowering of a network with these choices."""
        return Lowering(graph, choices, self.batch, self.float_type, tells_kernels_apart=True)

    def lower(self, graph: LayerGraph, recipe: Recipe) -> tuple[KernelCall, ...]:
        """Return the kernel calls of the recipe's network, in order of execution."""
        return all_calls(graph, self.lowering(graph, RecipeChoices(graph, recipe)))
