"""What every target offers: what it can run, what a recipe is lowered to, and how long that takes."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from gulliver.evaluators.latency.kernel import Kernel, KernelCall
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.choices import Choices
from gulliver.spaces.layer_graph import LayerGraph, Operation
from gulliver.spaces.recipe import Recipe


class LatencyModel(Protocol):
    """Prices of kernel calls on one target, for one network."""

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
    def conditions(self) -> str:
        """Return the batch size and the number of threads that latencies are for, in words."""

    def lowering(self, graph: LayerGraph, choices: Choices) -> OperationLowering:
        """Return the lowering of a network with these choices."""

    def lower(self, graph: LayerGraph, recipe: Recipe) -> tuple[KernelCall, ...]:
        """Return the kernel calls of the recipe's network, in order of execution."""
