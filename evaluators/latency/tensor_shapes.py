"""The shapes of a network's tensors, at a batch size of one's own and after a recipe's removals."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from gulliver.spaces.choices import Choices
from gulliver.spaces.layer_graph import LayerGraph, Operation


@dataclass(frozen=True)
class TensorShapes:
    """What each operation of the network gives; a layer's choices are asked for only where they matter to it."""

    graph: LayerGraph
    choices: Choices
    batch: int
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def elements(self, name: str) -> int:
        """Return how many elements the tensor has."""
        return prod(self.shape(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape at this batch size and after removals."""
        if name not in self._shapes:
            self._shapes[name] = self._thinned(self.graph.by_name[name])
        return self._shapes[name]

    def at_batch(self, count: int) -> int:
        """Return how many there are at this batch size of what the example inputs have so many of."""
        return max(1, self.batch * count // self._example_batch)

    def _thinned(self, operation: Operation) -> tuple[int, ...]:
        first, tail = self.at_batch(prod(operation.shape[:1])), operation.shape[1:]
        if not tail or not operation.inputs:
            return first, *tail
        if operation.layer is not None:
            outputs = self.choices.outputs(operation.layer)
            return (first, *tail[:-1], outputs) if operation.kind == "linear" else (first, outputs, *tail[1:])
        sources = [self._tensor(name) for name in operation.inputs]
        if operation.kind == "concat":
            return first, *_joined([it.shape[1:] for it in sources], [self.shape(it.name)[1:] for it in sources], tail)
        before, after = sources[0].shape, self.shape(sources[0].name)
        return _flattened(before, after, operation.shape) or (first, *_as_thinned(before[1:], after[1:], tail))

    @cached_property
    def _example_batch(self) -> int:
        return next((it.shape[0] for it in self.graph.operations if it.kind == "input" and it.shape), 1)

    def _tensor(self, name: str) -> Operation:
        """Return the operation that gave the tensor, of which a split or the like gives parts."""
        operation = self.graph.by_name[name]
        return operation if operation.shape or not operation.inputs else self._tensor(operation.inputs[0])


def _as_thinned(before: tuple[int, ...], after: tuple[int, ...], tail: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape whose dimensions follow those of its source that they were equal to."""
    same = (now if own == was else own for own, was, now in zip(tail, before, after, strict=False))
    return (*same, *tail[len(before) :])


def _flattened(before: tuple[int, ...], after: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return a shape in which neighbouring dimensions of its source are one, None where it is another."""
    count = len(before) - len(shape) + 1
    starts = (start for start in range(len(shape)) if count >= 0 and _merged(before, start, count) == shape)
    return next((_merged(after, start, count) for start in starts), None)


def _merged(shape: tuple[int, ...], start: int, count: int) -> tuple[int, ...]:
    return (*shape[:start], prod(shape[start : start + count]), *shape[start + count :])


def _joined(before: list[tuple[int, ...]], after: list[tuple[int, ...]], tail: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of tensors joined along the dimension that was their sum."""
    dimensions = zip(tail, zip(*before, strict=True), zip(*after, strict=True), strict=True)
    return tuple(sum(now) if sum(was) == own else now[0] for own, was, now in dimensions)
