"""What a layer reads on the calibration inputs, as rows of a matrix, and the sums of their products.

A layer is linear in its patches: outputs (rows, outputs) = patches (rows, inputs) @ weights (outputs, inputs).T, so
that least squares, second-order rounding and weighted decompositions all need no more than the products' sums.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn
from torch.nn import functional as F

CompressibleLayer = nn.Conv1d | nn.Conv2d | nn.Linear
_CHUNK = 16
_PRODUCTS_BYTES = 512 << 20


def weight_matrix(layer: CompressibleLayer) -> Tensor:
    """Return the weights as (groups, outputs / groups, inputs), a linear layer having one group."""
    return layer.weight.detach().reshape(_groups(layer), -1, layer.weight[0].numel())


def patches(layer: CompressibleLayer, values: Tensor) -> Tensor:
    """Return (groups, rows, inputs): what each output position of the layer reads, in the order of its weights."""
    if isinstance(layer, nn.Linear):
        return values.reshape(1, -1, values.shape[-1])
    values = _padded(layer, values)
    if isinstance(layer, nn.Conv1d):
        values = values.unsqueeze(2)
    kernel, dilation, stride = ((1, *it)[-2:] for it in (layer.kernel_size, layer.dilation, layer.stride))
    columns = F.unfold(values, kernel, dilation, 0, stride)
    samples, _, positions = columns.shape
    return columns.reshape(samples, layer.groups, -1, positions).permute(1, 0, 3, 2).flatten(1, 2)


def outputs_as_rows(layer: CompressibleLayer, outputs: Tensor) -> Tensor:
    """Return (rows, outputs): the layer's outputs in the order of its patches."""
    if isinstance(layer, nn.Linear):
        return outputs.reshape(-1, outputs.shape[-1])
    return outputs.flatten(2).transpose(1, 2).flatten(0, 1)


def product_sums(layer: CompressibleLayer, inputs: Iterable[Tensor]) -> Tensor:
    """Return (groups, inputs, inputs), in double precision: the sum of patch.T @ patch over all rows."""
    size = layer.weight[0].numel()
    sums = torch.zeros(_groups(layer), size, size, dtype=torch.float64)
    for values in inputs:
        for chunk in torch.split(values, _CHUNK):
            rows = patches(layer, chunk).float()
            sums += rows.transpose(1, 2) @ rows
    return sums


def input_products(model: nn.Module, name: str, calibration: Iterable[Inputs]) -> Tensor:
    """Return `product_sums` of what one layer of the model reads on the calibration inputs."""
    layer: Any = model.get_submodule(name)
    return product_sums(layer, (values for values, _ in calls_of(model, name, calibration)))


def all_input_products(
    model: nn.Module, names: Sequence[str], calibration: Sequence[Inputs]
) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer with its `input_products`, the model being run for as many at a time as memory should hold."""
    sizes = {name: _products_bytes(model.get_submodule(name)) for name in names}
    for together in as_memory_holds(sizes, _PRODUCTS_BYTES):
        yield from _products_of(model, together, calibration).items()


def _products_of(model: nn.Module, names: Sequence[str], calibration: Sequence[Inputs]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def add(layer: Any, inputs: tuple[Any, ...], _: Tensor, name: str) -> None:
        sums[name] = sums.get(name, 0) + product_sums(layer, inputs[:1])

    hooks = [model.get_submodule(name).register_forward_hook(partial(add, name=name)) for name in names]
    try:
        with torch.no_grad():
            for inputs in calibration:
                model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def _products_bytes(layer: Any) -> int:
    size: int = layer.weight[0].numel()
    return _groups(layer) * size**2 * torch.float64.itemsize


def as_memory_holds(sizes: Mapping[str, int], memory_bytes: int) -> Iterator[tuple[str, ...]]:
    """Yield the names in their order, as many at a time as take no more bytes together, or one that takes more."""
    together: list[str] = []
    used = 0
    for name, size in sizes.items():
        if together and used + size > memory_bytes:
            yield tuple(together)
            together, used = [], 0
        together.append(name)
        used += size
    if together:
        yield tuple(together)


def calls_of(model: nn.Module, name: str, calibration: Iterable[Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the input and the output of every call of one layer on the calibration inputs."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls.append((inputs[0], output))

    handle = model.get_submodule(name).register_forward_hook(keep)
    try:
        for inputs in calibration:
            with torch.no_grad():
                model(*inputs)
            yield from calls
            calls.clear()
    finally:
        handle.remove()


def _groups(layer: CompressibleLayer) -> int:
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def _padded(layer: nn.Conv1d | nn.Conv2d, values: Tensor) -> Tensor:
    if layer.padding == "valid":
        return values
    if layer.padding == "same":
        totals = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(int(it), int(it)) for it in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(values, [side for pair in reversed(pairs) for side in pair], mode)
