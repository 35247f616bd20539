"""Price tables: the latency of every recipe of a space as a sum of small tables, one for each traced operation.

An operation's price depends on few choices: its layer's own, and those of the layers that it reads from or writes
to. Which ones is not declared anywhere: the lowering is run with choices that note what is asked of them, and for
each new question the operation is priced once for every answer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from gulliver.evaluators.factors import Factor
from gulliver.evaluators.latency.kernel import KernelCall
from gulliver.evaluators.latency.target import LatencyModel, Target
from gulliver.spaces.layer_graph import Operation
from gulliver.spaces.space import Space
from gulliver.tasks.errors import InputError
from tqdm import tqdm

Answers = tuple[tuple[str, int], ...]
Calls = tuple[KernelCall, ...]
CallTable = Mapping[Answers, Calls]
# More answers for one operation take minutes and gigabytes, and grow from choice to choice.
MOST_ANSWERS = 2**19
# Most networks' tables are made sooner than a progress bar is read.
_SILENT_SECONDS = 2.0


class _UnknownRungError(Exception):
    """A choice was asked for that is not fixed yet."""

    def __init__(self, name: str) -> None:
        self.name = name


class _FixedRungs(Mapping[str, int]):
    """The rungs that are fixed; asking for another one says which."""

    def __init__(self, answers: Answers) -> None:
        self._rungs = dict(answers)

    def __getitem__(self, name: str) -> int:
        if name not in self._rungs:
            raise _UnknownRungError(name)
        return self._rungs[name]

    def get(self, name: str, default: int | None = None) -> int:  # type: ignore[override]
        """Return the rung; a rung that is not fixed has no default."""
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rungs)

    def __len__(self) -> int:
        return len(self._rungs)


def call_table(space: Space, target: Target, operation: Operation) -> CallTable:
    """Return the operation's kernel calls for all answers to the questions that its lowering asks, as it asks them.

    Raises InputError where there are more than MOST_ANSWERS, as in a network that joins many layers' channels again
    and again.
    """
    sizes = {dimension.name: dimension.rungs for dimension in space.dimensions}
    table: dict[Answers, Calls] = {}
    pending: list[Answers] = [()]
    while pending:
        answers = pending.pop()
        if len(table) >= MOST_ANSWERS:
            raise InputError(_too_many(operation, answers))
        lowering = target.lowering(space.graph, space.choices(_FixedRungs(answers)))
        try:
            table[answers] = tuple(lowering.calls(operation))
        except _UnknownRungError as unknown:
            pending += [(*answers, (unknown.name, rung)) for rung in range(sizes[unknown.name])]
    return table


def _too_many(operation: Operation, answers: Answers) -> str:
    asked = ", ".join(name for name, _ in answers)
    return (
        f"an operation's latency must depend on at most {MOST_ANSWERS:,} combinations of choices, but that of "
        f"{operation.name} depends on more, of {asked}; offer fewer, as with space.max_ratio=0 or space.ranks=[]"
    )


def call_tables(space: Space, target: Target) -> list[CallTable]:
    """Return the tables of all operations of the space's network, in order of execution."""
    operations = tqdm(space.graph.operations, "kernel calls", unit="operation", leave=False, delay=_SILENT_SECONDS)
    return [call_table(space, target, operation) for operation in operations]


def calls_of(tables: Iterable[CallTable]) -> list[KernelCall]:
    """Return the kernel calls of all recipes."""
    return [call for table in tables for calls in table.values() for call in calls]


def price(space: Space, tables: Iterable[CallTable], model: LatencyModel) -> tuple[Factor, ...]:
    """Return the milliseconds of every recipe of the space: one factor for the network, one for each operation."""
    tables = list(tables)
    model.require([call.kernel for call in calls_of(tables)])
    positions = {dimension.name: index for index, dimension in enumerate(space.dimensions)}
    sizes = [dimension.rungs for dimension in space.dimensions]
    network = Factor((), np.array(model.total_ms(())))
    return network, *_merged(_factor(table, positions, sizes, _seconds(model)) for table in tables)


def _seconds(model: LatencyModel) -> Callable[[Calls], float]:
    return lambda calls: sum(model.seconds(call) for call in calls)


def _factor(
    table: CallTable,
    positions: Mapping[str, int],
    sizes: list[int],
    seconds: Callable[[Calls], float],
) -> Factor:
    """Return the factor over all questions that were asked; where one was not asked, its answer makes no difference."""
    variables = sorted({positions[name] for answers in table for name, _ in answers})
    costs = np.zeros([sizes[variable] for variable in variables])
    for answers, calls in table.items():
        fixed = {positions[name]: rung for name, rung in answers}
        costs[tuple(fixed.get(variable, slice(None)) for variable in variables)] = 1e3 * seconds(calls)
    return _without_constant_axes(Factor(tuple(variables), costs))


def _without_constant_axes(factor: Factor) -> Factor:
    """Return the factor without the variables that were asked for in vain."""
    matter = [axis for axis in range(factor.table.ndim) if np.ptp(factor.table, axis).any()]
    index = tuple(slice(None) if axis in matter else 0 for axis in range(factor.table.ndim))
    return Factor(tuple(factor.variables[axis] for axis in matter), factor.table[index])


def _merged(factors: Iterable[Factor]) -> Iterator[Factor]:
    """Yield the factors that are not zero everywhere, those over the same variables added up."""
    sums: dict[tuple[int, ...], Factor] = {}
    for factor in factors:
        if factor.table.any():
            before = sums.get(factor.variables)
            sums[factor.variables] = Factor(factor.variables, factor.table + (before.table if before else 0.0))
    yield from sums.values()
