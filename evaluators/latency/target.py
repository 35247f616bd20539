"""What every target offers: what it can run, what a recipe is lowered to, and how long that takes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from gulliver.compressors.compress import Original
from gulliver.evaluators.latency.kernel import Kernel, KernelCall, Price
from gulliver.evaluators.latency.runtime import Runtime
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.choices import Choices
from gulliver.spaces.layer_graph import LayerGraph, Operation
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space


class LatencyModel(Protocol):
    """Prices of kernel calls on one target, for one network."""

    @property
    def basis(self) -> str:
        """Return what the prices rest on, and how well they fit it, in words."""

    @property
    def untouched_ms(self) -> float | None:
        """Return the latency of the untouched network when the model was fitted to it; None where nothing was."""

    def price(self, call: KernelCall) -> Price:
        """Return the call's price, and what is known of it."""

    def seconds(self, call: KernelCall) -> float:
        """Return the modelled seconds of one call."""

    def total_ms(self, calls: Sequence[KernelCall]) -> float:
        """Return the modelled milliseconds of a whole network."""

    def require(self, kernels: Sequence[Kernel]) -> None:
        """Price all kernels that have no price yet, at once, as that may be sooner than one by one."""


class OperationLowering(Protocol):
    """The kernel calls of a network whose choices are known, operation by operation."""

    def calls(self, operation: Operation) -> Iterator[KernelCall]:
        """Yield what runs for one traced operation, asking only for the choices that this depends on."""


@runtime_checkable
class Target(Protocol):
    """A piece of hardware."""

    @property
    def name(self) -> str:
        """Return the name that recipes and reports carry."""

    @property
    def capabilities(self) -> Capabilities:
        """Return what the target can run."""

    @property
    def batch(self) -> int:
        """Return the batch size that latencies are for."""

    @property
    def conditions(self) -> str:
        """Return the batch size and the number of threads that latencies are for, in words."""

    @property
    def runtime(self) -> Runtime | None:
        """Return what runs exported networks; None where the target is only modelled and nothing can be measured."""

    def latency_model(
        self,
        original: Original,
        space: Space,
        calls: Sequence[KernelCall] | None = None,
        fit_file: Path | None = None,
    ) -> LatencyModel:
        """Return the prices of the network's kernel calls.

        Where kernels are timed, those of `calls` are, or of all recipes of the space where that is None. Where the
        model is fitted to this machine, `fit_file` keeps the fit of one search: it is read there, or else written.
        """

    def lowering(self, graph: LayerGraph, choices: Choices) -> OperationLowering:
        """Return the lowering of a network with these choices."""

    def lower(self, graph: LayerGraph, recipe: Recipe) -> tuple[KernelCall, ...]:
        """Return the kernel calls of the recipe's network, in order of execution."""
