"""A candidate's network: the plan's steps, run with the weights and roundings of one recipe."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from gulliver.compressors.layer_parts import WeightedLayer
from gulliver.compressors.plan import Call, Step, Values
from gulliver.compressors.thinning import digest
from gulliver.tasks.errors import InputError
from torch import nn


class CandidateNetwork(nn.Module):
    """One recipe's network, for running only: its weights are shared with those of other recipes.

    `reads` are the positions that each step reads in this network, and `marks` tell its own choice apart.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        calls: Sequence[Call],
        reads: Sequence[tuple[int, ...]],
        marks: Sequence[bytes],
        layers: Sequence[WeightedLayer],
    ) -> None:
        super().__init__()
        self.steps, self.calls = steps, calls
        self._reads, self._marks = reads, marks
        self._layers = layers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns, from its inputs by position or by name."""
        values = bind_inputs(self.steps, args, kwargs)
        for position, (step, call) in enumerate(zip(self.steps, self.calls, strict=True)):
            if step.kind != "input":
                values[position] = call(values)
            for freed in step.frees:
                values[freed] = None
        return values[-1]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the layers' weights, for those who ask a network's type or device."""
        for place, layer in enumerate(self._layers):
            yield f"{place}.weight", nn.Parameter(layer.weight, requires_grad=False)

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """Return a key for each step; it is equal in two networks of a plan where the step's values are."""
        keys: list[bytes] = []
        for mark, reads in zip(self._marks, self._reads, strict=True):
            keys.append(digest(mark, *(keys[source] for source in reads)))
        return tuple(keys)


class SharedPrefix:
    """Run candidates of one plan on the same inputs, each from where it first differs from the one before."""

    def __init__(self, *inputs: Any) -> None:
        self._inputs = inputs
        self._values: Values = []
        self._keys: tuple[bytes | None, ...] = ()

    def __call__(self, network: CandidateNetwork) -> Any:
        """Return what `network(*inputs)` returns."""
        if not self._values:
            self._values = bind_inputs(network.steps, self._inputs, {})
            self._keys = (None,) * len(self._values)
        for position, step in enumerate(network.steps):
            if step.kind != "input" and network.keys[position] != self._keys[position]:
                self._values[position] = network.calls[position](self._values)
        self._keys = network.keys
        return self._values[-1]


def bind_inputs(steps: Sequence[Step], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Values:
    """Return a place for each step's value, those of the inputs filled; raises InputError for one that is missing."""
    values: Values = [None] * len(steps)
    inputs = [position for position, step in enumerate(steps) if step.kind == "input"]
    for place, position in enumerate(inputs):
        step = steps[position]
        if place < len(args):
            values[position] = args[place]
        elif step.name in kwargs:
            values[position] = kwargs[step.name]
        elif step.args:
            values[position] = step.args[0]
        else:
            raise InputError(f"the network must be given its input {step.name}")
    return values
