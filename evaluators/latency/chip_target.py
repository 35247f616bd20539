"""A modelled chip as a target: everything on it is priced by the model, nothing is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from gulliver.compressors.compress import Original
from gulliver.evaluators.factors import Factor
from gulliver.evaluators.latency.cards import Plan, plans
from gulliver.evaluators.latency.chip import Chip, read_chip
from gulliver.evaluators.latency.chip_fit import fit_file, fit_of
from gulliver.evaluators.latency.chip_kernels import chip_kernel, precision_of
from gulliver.evaluators.latency.chip_model import Efficiencies, price
from gulliver.evaluators.latency.chip_prediction import MODES, Prediction, predict
from gulliver.evaluators.latency.chip_rules import PRECISION_OF_BITS
from gulliver.evaluators.latency.gated_mlp import GatedMlpFusion
from gulliver.evaluators.latency.kernel import ComputeKernel, Kernel, KernelCall, MemoryKernel, Price
from gulliver.evaluators.latency.lowering import Lowering, all_calls
from gulliver.evaluators.latency.published_kernel import PublishedKernel
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.choices import Choices, RecipeChoices
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import FLOAT_BITS, Recipe
from gulliver.spaces.space import Space
from gulliver.tasks.errors import InputError

_CONVOLUTIONS = ("conv1d", "conv2d")


@dataclass(frozen=True)
class ChipTarget:
    """`cards` chips of one kind that run batches of `batch`; prices are the model's.

    `chip` is the name of a file of conf/chip, or a file of that form. `fit` is a file that `gulliver calibrate` wrote;
    without it the chip's own calibration prices its kernels, or else the stored fit that it names.
    `mode` is that of `gulliver predict`: the model alone, or, by the stored fit, corrected by the nearest measured
    kernels where there are.
    """

    chip: str
    batch: int = 32
    cards: int = 1
    mode: str = "model"
    float_type: str = "float16"
    channel_multiple: int = 16
    fit: str | None = None

    def __post_init__(self) -> None:
        fit_of(self.chip, self.fit)
        for key in ("batch", "cards", "channel_multiple"):
            if getattr(self, key) < 1:
                raise InputError(f"`target.{key} >= 1` must hold, but it is {getattr(self, key)}")
        if self.mode not in MODES:
            raise InputError(f"target.mode must be one of {', '.join(MODES)}, but is {self.mode}")
        # What the stored fit misses on published kernels is not what a calibration of one's own misses.
        if self.mode == "nearest" and (own := fit_file(self.chip, self.fit)):
            raise InputError(f"target.mode must be model where {own} prices the kernels, but is {self.mode}")
        if self.float_type not in ("float16", "bfloat16"):
            raise InputError(f"`target.float_type` must be float16 or bfloat16, but is {self.float_type}")
        precisions = (self.float_type, *(PRECISION_OF_BITS[it] for it in read_chip(self.chip).precisions))
        # A chip without the instruction of one of its precisions is refused here, not in the midst of a search.
        price_kernels(self.chip, [_smallest_linear(it) for it in precisions])

    @property
    def name(self) -> str:
        """Return the chip's name."""
        return read_chip(self.chip).name

    @property
    def capabilities(self) -> Capabilities:
        """Return the chip's precisions: linear layers have all of them, convolutions those with int8 on both sides."""
        precisions = read_chip(self.chip).precisions
        return Capabilities(
            float_type=self.float_type,
            precisions=dict.fromkeys(_CONVOLUTIONS, tuple(it for it in precisions if it == (8, 8)))
            | {"linear": precisions},
            channel_multiple=self.channel_multiple,
            small_channel_multiple=self.channel_multiple,
            small_channels=self.channel_multiple,
            sparse_2_4=tuple(self._sparse_widths()),
        )

    def _sparse_widths(self) -> Iterator[tuple[int, int]]:
        chip = read_chip(self.chip)
        names = {(FLOAT_BITS, FLOAT_BITS): self.float_type} | {it: PRECISION_OF_BITS[it] for it in chip.precisions}
        return (widths for widths, name in names.items() if name in chip.sparse_2_4)

    @property
    def conditions(self) -> str:
        """Return the conditions of every latency, in words."""
        own = "" if fit_file(self.chip, self.fit) is None else ", own calibration"
        return f"batch {self.batch}, {self.cards} card{'s' * (self.cards > 1)}, modelled ({self.mode}{own})"

    @property
    def runtime(self) -> None:
        """Return nothing: the chip is not here."""
        return

    @property
    def latency(self) -> "ChipLatencyModel":
        """Return the prices of this target's kernel calls, for any network."""
        return ChipLatencyModel(self)

    def latency_model(
        self,
        original: Original,
        space: Space,
        calls: Sequence[KernelCall] | None = None,
        fit_file: Path | None = None,
    ) -> "ChipLatencyModel":
        """Return the prices of this target's kernel calls, which are the same for every network."""
        return self.latency

    def lowering(self, graph: LayerGraph, choices: Choices) -> GatedMlpFusion:
        """Return the lowering of a network with these choices, each layer in its widths, gated MLPs fused."""
        plain = Lowering(
            graph, choices, self.batch, self.float_type, precision_of, sparse_2_4=read_chip(self.chip).sparse_2_4
        )
        fuses = "mlp" in read_chip(self.chip).fusions
        refusal = "" if fuses else f"{self.name} has no kernel that fuses one"
        return GatedMlpFusion(graph, choices, plain, refusal)

    def lower(self, graph: LayerGraph, recipe: Recipe) -> tuple[KernelCall, ...]:
        """Return the kernel calls of the recipe's network, in order of execution."""
        return all_calls(graph, self.lowering(graph, RecipeChoices(graph, recipe)))


@dataclass(frozen=True)
class ChipLatencyModel:
    """Modelled prices of kernel calls on a chip target; equal kernels are priced once."""

    target: ChipTarget
    _predicted: dict[Kernel, Prediction] = field(default_factory=dict, repr=False, compare=False)
    _prices: dict[Kernel, Price] = field(default_factory=dict, repr=False, compare=False)

    @property
    def basis(self) -> str:
        """Return how many kernel times the model was fitted to, and how well."""
        fit = self._fit
        fitted = f"fitted to {fit.rows} kernel times with a mean error of {fit.mean_error:.1%}"
        return f"modelled, nothing is measured; {fitted}"

    @property
    def untouched_ms(self) -> None:
        """Return nothing: the chip is not here."""
        return

    def seconds(self, call: KernelCall) -> float:
        """Return the modelled seconds of one call, split between the cards in the fastest way."""
        return self.price(call).seconds

    def total_ms(self, calls: Sequence[KernelCall]) -> float:
        """Return the modelled milliseconds of a whole network."""
        self.require([call.kernel for call in calls])
        return 1e3 * sum(self.seconds(call) for call in calls)

    def price(self, call: KernelCall) -> Price:
        """Return the call's price and what it is made of."""
        self.require([call.kernel])
        return self._prices[call.kernel]

    def require(self, kernels: Sequence[Kernel]) -> None:
        """Price all kernels that have no price yet, at once, with the parts that each is split into between cards."""
        chip = read_chip(self.target.chip)
        missing = {it: plans(it, chip, self.target.cards) for it in kernels if it not in self._prices}
        parts = dict.fromkeys(part for choices in missing.values() for plan in choices for part in plan.kernels)
        new = [part for part in parts if part not in self._predicted]
        if new:
            found = price_kernels(self.target.chip, new, self.target.mode, self._fit)
            self._predicted.update(zip(new, found, strict=True))
        self._prices.update({kernel: self._best(choices) for kernel, choices in missing.items()})

    @cached_property
    def _fit(self) -> Efficiencies:
        return fit_of(self.target.chip, self.target.fit)

    def _best(self, choices: Sequence[Plan]) -> Price:
        best = min(choices, key=lambda plan: plan.seconds(self._seconds))
        slowest = self._predicted[max(best.kernels, key=self._seconds)]
        bound_by = "link" if best.communication_s > slowest.seconds else slowest.bound_by
        return Price(best.seconds(self._seconds), bound_by, slowest.mode, best.name)

    def _seconds(self, kernel: Kernel) -> float:
        return self._predicted[kernel].seconds


def _smallest_linear(precision: str) -> ComputeKernel:
    return ComputeKernel("linear", 1, 32, 32, (), (), (), (), (), 1, precision, "float16")


def choice_factors(model: ChipLatencyModel, variables: Sequence[Sequence[Sequence[KernelCall]]]) -> tuple[Factor, ...]:
    """Return one factor for each variable: the milliseconds of the calls that each of its choices lowers to."""
    model.require([call.kernel for choices in variables for calls in choices for call in calls])
    tables = (np.array([1e3 * sum(map(model.seconds, calls)) for calls in choices]) for choices in variables)
    return tuple(Factor((index,), table) for index, table in enumerate(tables))


def price_kernels(
    chip: str, kernels: Sequence[Kernel], mode: str = "model", fit: Efficiencies | None = None
) -> list[Prediction]:
    """Return the chip's prices of kernels, all at once; what no published kernel is like is priced by the model."""
    made, fit = [chip_kernel(chip, kernel) for kernel in kernels], fit or fit_of(chip)
    prices = price(made, fit)
    found = [Prediction(*it, "model") for it in zip(prices.seconds.tolist(), prices.bound_by, strict=True)]
    nearest = [(index, it) for index, it in enumerate(made) if isinstance(it, PublishedKernel) and mode == "nearest"]
    corrected = predict([it for _, it in nearest], mode, {read_chip(chip).fit: fit})
    for (index, _), prediction in zip(nearest, corrected, strict=True):
        found[index] = prediction
    return [_without_launch(read_chip(chip), fit, *it) for it in zip(kernels, found, strict=True)]


def _without_launch(chip: Chip, fit: Efficiencies, kernel: Kernel, found: Prediction) -> Prediction:
    """Return the price; a residual that a convolution reads costs its bytes and no launch."""
    if not (isinstance(kernel, MemoryKernel) and kernel.kind == "fused_add"):
        return found
    bandwidth = chip.memory_bandwidth_bytes_per_s * fit.memory_efficiency
    return replace(found, seconds=kernel.bytes_moved / bandwidth, bound_by="memory")
