"""Kernels and kernel calls: what a recipe is lowered to, and what a target has times for."""

from dataclasses import dataclass
from math import prod

BYTES_PER_ELEMENT = {"int8": 1, "bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, order=True)
class ComputeKernel:
    """One convolution or matrix multiplication with its shapes and precisions; equal ones take equal time.

    `input_size` is the height and width of the input (empty for a linear layer, whose rows are `batch`). With
    `signed_input`, an int8 kernel's inputs may be below zero; a `bare` one has neither bias nor activation, as those of
    a split layer but the last; one that `adds` adds a tensor of its result's shape to that, and one that `skips_zeros`
    multiplies two of every four weights.
    """

    kind: str
    batch: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    precision: str
    output_precision: str
    signed_input: bool = False
    bare: bool = False
    adds: bool = False
    skips_zeros: bool = False

    @property
    def output_size(self) -> tuple[int, ...]:
        """Return the height and width of the output."""
        return tuple(
            (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1
            for size, window, stride, padding, dilation in zip(
                self.input_size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        )

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one call."""
        outputs = self.batch * self.out_channels * prod(self.output_size)
        return outputs * (self.in_channels // self.groups) * prod(self.kernel_size)

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the weights in the kernel's own precision."""
        count = self.in_channels // self.groups * self.out_channels * prod(self.kernel_size)
        return count * BYTES_PER_ELEMENT[self.precision]

    @property
    def description(self) -> str:
        """Return the kernel in a few words."""
        channels = f"{self.in_channels} -> {self.out_channels}"
        precision = f"{self.precision} 2:4" if self.skips_zeros else self.precision
        if self.kind == "linear":
            return f"linear {precision}, {self.batch} rows, {channels}"
        window, size = ("x".join(map(str, it)) for it in (self.kernel_size, self.input_size))
        groups = f" in {self.groups} groups" if self.groups > 1 else ""
        return f"{self.kind} {window} {precision}, batch {self.batch}, {channels}{groups} on {size}"


@dataclass(frozen=True, order=True)
class MemoryKernel:
    """One pass over tensors that no matrix multiplication absorbs: its time follows from the bytes it moves."""

    kind: str
    bytes_moved: int

    @property
    def description(self) -> str:
        """Return the pass in a few words."""
        return f"{self.kind}, {self.bytes_moved / 1000:,.0f} KB"


@dataclass(frozen=True, order=True)
class GatedMlpKernel:
    """A gated MLP in one int8 kernel: each group's rows times (in_channels, 2 * hidden_channels), SwiGLU, and back.

    The second matrix is (hidden_channels, out_channels); every group has matrices of its own.
    """

    group_rows: tuple[int, ...]
    in_channels: int
    hidden_channels: int
    out_channels: int
    kind: str = "gated_mlp"

    @property
    def description(self) -> str:
        """Return the kernel in a few words."""
        groups = f" in {len(self.group_rows)} groups" if len(self.group_rows) > 1 else ""
        channels = f"{self.in_channels} -> {self.hidden_channels} -> {self.out_channels}"
        return f"{self.kind} int8, {sum(self.group_rows)} rows{groups}, {channels}"

    @property
    def weight_count(self) -> int:
        """Return the weights of one group."""
        return self.hidden_channels * (2 * self.in_channels + self.out_channels)

    @property
    def bytes_moved(self) -> int:
        """Return the bytes of int8 weights of groups with rows, int8 inputs and float16 results."""
        used = sum(rows > 0 for rows in self.group_rows)
        return used * self.weight_count + sum(self.group_rows) * (self.in_channels + 2 * self.out_channels)


Kernel = ComputeKernel | MemoryKernel | GatedMlpKernel


@dataclass(frozen=True)
class KernelCall:
    """One kernel as a recipe's network runs it: for which layer, with what fused into it, and why not more."""

    kernel: Kernel
    owner: str
    fused: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Price:
    """A call's seconds, what bounds it, how that is known, and the plan that splits it between cards.

    `bound_by` is empty where a kernel was timed and nothing more is known of it.
    """

    seconds: float
    bound_by: str
    mode: str
    plan: str = "whole"
