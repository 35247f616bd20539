"""Pairs of choices that are known to interact: methods on one layer, and neighbours that feed each other."""

from collections.abc import Iterator

from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.space import Space

_METHODS = ("precision", "sparsity", "rank", "pattern")


def pairs_that_matter(space: Space) -> list[tuple[str, str]]:
    """Return pairs of dimensions, each once: the methods of one layer, and the same method on neighbouring layers.

    Neighbours are layers between which the network has no other layer, as inside a residual block.
    """
    names = space.names
    found = [*_of_one_layer(space), *_of_neighbours(space)]
    distinct = dict.fromkeys((a, b) if a < b else (b, a) for a, b in found if a != b)
    return [(a, b) for a, b in distinct if a in names and b in names]


def _of_one_layer(space: Space) -> Iterator[tuple[str, str]]:
    for layer in space.graph.layers:
        owned = [_dimension(space, method, layer) for method in _METHODS]
        yield from ((a, b) for index, a in enumerate(owned) for b in owned[index + 1 :])


def _of_neighbours(space: Space) -> Iterator[tuple[str, str]]:
    for first, second in neighbours(space.graph):
        for method in _METHODS:
            yield _dimension(space, method, first), _dimension(space, method, second)


def _dimension(space: Space, method: str, layer: str) -> str:
    """Return the name of the dimension that decides the method for the layer."""
    group = space.graph.group_of(layer) if method == "sparsity" else None
    return f"{method}/{group.name if group else layer}"


def neighbours(graph: LayerGraph) -> list[tuple[str, str]]:
    """Return pairs of layers of which the second reads what the first gives, through no other layer."""
    sources: dict[str, set[str]] = {}
    found: list[tuple[str, str]] = []
    for operation in graph.operations:
        before = set().union(*(sources[name] for name in operation.inputs))
        if operation.layer is not None:
            found += [(layer, operation.layer) for layer in sorted(before)]
            before = {operation.layer}
        sources[operation.name] = before
    return found
