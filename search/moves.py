"""Local moves: recipes near the best ones found so far.

Every move takes the archive, an array of shape (members, variables), and returns as many new ones of it as asked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gulliver.evaluators.factors import Rungs


@dataclass(frozen=True)
class Neighbourhood:
    """The variables that moves change: how many rungs each has, and where in the network it acts."""

    sizes: tuple[int, ...]
    positions: tuple[int, ...]


Move = Callable[[Neighbourhood, Rungs, int, np.random.Generator], Rungs]


def change_one(neighbourhood: Neighbourhood, archive: Rungs, count: int, random: np.random.Generator) -> Rungs:
    """Return members with one variable at another rung."""
    changed = _members(archive, count, random)
    _set_other_rung(neighbourhood, changed, random)
    return changed


def change_segment(neighbourhood: Neighbourhood, archive: Rungs, count: int, random: np.random.Generator) -> Rungs:
    """Return members in which one stretch of the network is as in another member."""
    changed, others = _members(archive, count, random), _members(archive, count, random)
    positions = np.array(neighbourhood.positions)
    ends = np.sort(random.choice(np.unique(positions), (count, 2)), axis=1)
    inside = (ends[:, :1] <= positions) & (positions <= ends[:, 1:])
    return np.where(inside, others, changed)


def trade(neighbourhood: Neighbourhood, archive: Rungs, count: int, random: np.random.Generator) -> Rungs:
    """Return members in which one variable goes a rung up and another one a rung down, where they have one."""
    changed = _members(archive, count, random)
    sizes, rows = np.array(neighbourhood.sizes), np.arange(count)
    up = random.integers(0, len(sizes), count)
    down = (up + random.integers(1, max(len(sizes), 2), count)) % len(sizes)
    for column, step in ((up, 1), (down, -1)):
        changed[rows, column] = np.clip(changed[rows, column] + step, 0, sizes[column] - 1)
    return changed


MOVES: Mapping[str, Move] = {"change one": change_one, "change a segment": change_segment, "trade": trade}


def all_moves(
    neighbourhood: Neighbourhood, archive: Rungs, count: int, random: np.random.Generator
) -> tuple[Rungs, Sequence[str]]:
    """Return new recipes of every kind of move, `count` of each, and the name of the move that made each."""
    made = {name: move(neighbourhood, archive, count, random) for name, move in MOVES.items()}
    return np.concatenate(list(made.values())), [name for name in made for _ in range(count)]


def _members(archive: Rungs, count: int, random: np.random.Generator) -> Rungs:
    return archive[random.integers(0, len(archive), count)].copy()


def _set_other_rung(neighbourhood: Neighbourhood, rungs: Rungs, random: np.random.Generator) -> None:
    """Set one variable of each row to a rung that it is not at; a variable of one rung stays."""
    sizes = np.array(neighbourhood.sizes)
    column = random.integers(0, len(sizes), len(rungs))
    rows = np.arange(len(rungs))
    steps = 1 + (random.random(len(rungs)) * (sizes[column] - 1)).astype(np.intp)
    rungs[rows, column] = (rungs[rows, column] + steps * (sizes[column] > 1)) % sizes[column]
