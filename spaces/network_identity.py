"""Which network a recipe belongs to."""

import hashlib

import torch
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.shapes import channels_after
from gulliver.tasks.errors import InputError
from torch import Tensor, nn


def network_hash(model: nn.Module) -> str:
    """Return 16 hexadecimal digits of the names, shapes, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the values of a tensor of any type and layout, as they are held in memory."""
    # NumPy has no bfloat16, but its bytes.
    return tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()


def check_recipe(recipe: Recipe, graph: LayerGraph, network: str) -> None:
    """Raise InputError as `check_names`, or where layers cannot lose the channels that the recipe takes from them."""
    check_names(recipe, graph, network)
    channels_after(graph, recipe)


def check_names(recipe: Recipe, graph: LayerGraph, network: str) -> None:
    """Raise InputError where the recipe is for another network, or names other layers than the network has."""
    found_for = recipe.found_for.network
    if found_for is not None and found_for != network:
        raise InputError(f"the recipe must be for this network ({network}), but was found for {found_for}")
    for name in recipe.layers:
        if name not in graph.layers:
            raise InputError(f"the recipe names {name}, which is no layer of the network; layers are {_list(graph)}")
    for name in graph.layers:
        if name not in recipe.layers:
            raise InputError(f"the recipe must have an entry for every layer, but {name} has none")


def _list(graph: LayerGraph) -> str:
    return ", ".join(graph.layers)
