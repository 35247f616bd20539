"""2:4 sparsity: two of every four neighbouring weights are zero, which sparse matrix units skip."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from gulliver.compressors.layer_inputs import CompressibleLayer, all_input_products, weight_matrix
from gulliver.compressors.reconstruct import Removed
from gulliver.compressors.second_order import halve_rows
from gulliver.compressors.store import Store
from gulliver.spaces.network_identity import tensor_bytes
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.shapes import why_not_in_fours
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn


def sparsify_in_fours(
    model: nn.Module,
    original: nn.Module,
    recipe: Recipe,
    removed: Removed,
    calibration: Sequence[Inputs],
    halved: Store,
) -> nn.Module:
    """Zero in place two of every four weights of the recipe's layers; see `halved_weights`."""
    names = [name for name, choice in recipe.layers.items() if choice.is_semi_structured]
    weights = halved_weights(model, original, names, removed, calibration, halved)
    with torch.no_grad():
        for name, weight in weights.items():
            _layer(model, name).weight.copy_(weight)
    return model


def halved_weights(
    model: nn.Module,
    original: nn.Module,
    names: Sequence[str],
    removed: Removed,
    calibration: Sequence[Inputs],
    halved: Store,
) -> dict[str, Tensor]:
    """Return these layers' weights with two of every four zero, the others making good what that costs.

    Neighbours are input channels at one place of the kernel, in the order that matrix units read them. What is made
    good is the output on what the layer reads in the original network, less what the model has `removed`. `halved`
    keeps the weights for other recipes with these calibration inputs.
    Raises InputError where a layer's input channels do not come in fours.
    """
    keys = {name: _key(model, name, removed) for name in names}
    weights = {name: halved[key] for name, key in keys.items() if key in halved}
    missing = [name for name in names if name not in weights]
    for name, products in all_input_products(original, missing, calibration):
        weights[name] = _halved(_layer(model, name), _of_kept(products, _layer(original, name), keys[name].removed))
        halved.put(keys[name], weights[name])
    return weights


@dataclass(frozen=True)
class _Key:
    """What a layer's halved weights depend on: its weights before that, and the input channels that it has lost."""

    name: str
    weight: bytes
    removed: tuple[int, ...]


def _key(model: nn.Module, name: str, removed: Removed) -> _Key:
    weight = _layer(model, name).weight
    if (reason := why_not_in_fours(weight.shape[1])) is not None:
        raise InputError(f"{name} cannot have kind='2:4': {reason}")
    digest = blake2b(tensor_bytes(weight), digest_size=16).digest()
    return _Key(name, digest, tuple(sorted(removed.get((name, "in"), ()))))


def _layer(model: nn.Module, name: str) -> CompressibleLayer:
    layer = model.get_submodule(name)
    assert isinstance(layer, CompressibleLayer)
    return layer


def _of_kept(products: Tensor, original: CompressibleLayer, removed: Sequence[int]) -> Tensor:
    """Return the products (groups, inputs, inputs) of the input channels that are left, as many of every group."""
    groups, channels = len(products), original.weight.shape[1]
    kept = [channel for channel in range(groups * channels) if channel not in removed]
    places = torch.arange(products.shape[1]).reshape(channels, -1)
    inputs = torch.stack([places[torch.tensor(it) % channels].flatten() for it in _in_groups(kept, groups)])
    return torch.stack([of_group[it][:, it] for of_group, it in zip(products, inputs, strict=True)])


def _in_groups(kept: Sequence[int], groups: int) -> list[Sequence[int]]:
    size = len(kept) // groups
    return [kept[start : start + size] for start in range(0, len(kept), size)]


def _halved(layer: CompressibleLayer, products: Tensor) -> Tensor:
    size = layer.weight[0].numel()
    order = torch.arange(size).reshape(layer.weight.shape[1], -1).T.flatten()
    halved = torch.empty_like(weight_matrix(layer))
    for group, rows in enumerate(weight_matrix(layer)):
        halved[group, :, order] = halve_rows(rows[:, order], products[group][order][:, order])
    return halved.reshape(layer.weight.shape)
