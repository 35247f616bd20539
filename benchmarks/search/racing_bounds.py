"""How often bounds for racing drop what they should, and what they must not: python -m benchmarks.search.racing_bounds.

A candidate and its rival have right answers (0 or 1) on a split of 2000 samples whose means are known; `drop` is by how
much the candidate's mean is below the rival's, `discordant` the share of samples that only one of them has right. "rare
gains" are scores of which most lie a little below the rival's and 15 samples far above, the means being equal. Every
order is raced by each bound at 95%, in slices of 250, 500 and 1000.

- betting: what gulliver.search.racing does; "highest score stated" is Race(highest_score=1.0).
- student t: paired, one-sided, with the correction for a finite population, Bonferroni over the slices.
- bernstein: empirical Bernstein-Serfling (Bardenet and Maillard 2015, theorem 4.3), Bonferroni over the slices.

Writes benchmarks/results/racing_bounds.csv.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
from gulliver.search.racing import Floats, Rival, race, slice_ends
from gulliver.search.settings import Race
from scipy import stats

from benchmarks.record import write_table

SIZE, FIRST_SLICE, ORDERS, ERROR = 2000, 250, 1000, 0.05
LOOKS = len(list(slice_ends(SIZE, FIRST_SLICE))) - 1
CASES = [(0.0, 0.01), (0.0, 0.06), (0.0, 0.2), (0.005, 0.04), (0.01, 0.04), (0.02, 0.06), (0.04, 0.08), (0.08, 0.14)]
RARE_GAINS = 15


@dataclass(frozen=True)
class Row:
    """How one bound races one candidate: the share of orders that drop it, and of samples that are saved."""

    case: str
    drop: float
    discordant: float
    bound: str
    dropped: float
    samples_saved: float
    orders: int


def main() -> None:
    """Race every case and write the table."""
    write_table("racing_bounds", list(measured()), {name: version(name) for name in ("numpy", "scipy")})


def measured() -> Iterator[Row]:
    """Yield a row for every case and bound."""
    for drop, discordant in CASES:
        yield from rows("right answers", drop, discordant, right_answers(drop, discordant))
    gains = np.full(SIZE, -RARE_GAINS / SIZE)
    gains[:RARE_GAINS] += 1.0
    yield from rows("rare gains", 0.0, 1.0, np.array([np.zeros(SIZE), gains]))


def right_answers(drop: float, discordant: float) -> Floats:
    """Return shape (2, samples): the right answers of a rival and of a candidate, both right where they agree."""
    wins, losses = (round(SIZE * (discordant + sign * drop) / 2) for sign in (-1, 1))
    answers = np.ones((2, SIZE))
    answers[0, :wins], answers[1, wins : wins + losses] = 0.0, 0.0
    return answers


def rows(case: str, drop: float, discordant: float, population: Floats) -> Iterator[Row]:
    """Yield how each bound fares on the same orders of one case."""
    used: dict[str, list[int]] = {name: [] for name in BOUNDS}
    generator = np.random.default_rng(0)
    for _ in range(ORDERS):
        rival, candidate = population[:, generator.permutation(SIZE)]
        for name, samples in BOUNDS.items():
            used[name].append(samples(rival, candidate))
    for name, counts in used.items():
        shares = np.array(counts) / SIZE
        dropped, saved = float((shares < 1).mean()), float(1 - shares.mean())
        yield Row(case, drop, discordant, name, dropped, round(saved, 4), ORDERS)


def betting(rival: Floats, candidate: Floats, highest_score: float | None) -> int:
    """Return how many samples Gulliver scores."""
    settings = Race(1 - ERROR, FIRST_SLICE, highest_score)
    raced = race(lambda start, stop: candidate[start:stop], Rival(rival, float(rival.mean())), settings)
    return len(raced.scores)


def until_below(is_below: Callable[[Floats], bool], rival: Floats, candidate: Floats) -> int:
    """Return how many samples are scored before a bound is sure that the mean difference is below 0."""
    ends = list(slice_ends(SIZE, FIRST_SLICE))[:-1]
    return next((end for end in ends if is_below((candidate - rival)[:end])), SIZE)


def student_t(seen: Floats) -> bool:
    """Say whether the mean is below 0, by a paired t test of a draw without replacement."""
    error = seen.std(ddof=1) * np.sqrt((1 - len(seen) / SIZE) / len(seen))
    if error == 0:
        return bool(seen.mean() < 0)
    return bool(stats.t.cdf(seen.mean() / error, len(seen) - 1) < ERROR / LOOKS)


def bernstein(seen: Floats) -> bool:
    """Say whether the mean is below 0, by the empirical Bernstein-Serfling bound for differences from -1 to 1."""
    n, logarithm = len(seen), np.log(5 * LOOKS / ERROR)
    remaining = 1 - (n - 1) / SIZE if n <= SIZE / 2 else (1 - n / SIZE) * (1 + 1 / n)
    width = seen.std() * np.sqrt(2 * remaining * logarithm / n) + (7 / 3 + 3 / np.sqrt(2)) * 2 * logarithm / n
    return bool(seen.mean() + width < 0)


BOUNDS: dict[str, Callable[[Floats, Floats], int]] = {
    "betting": partial(betting, highest_score=None),
    "betting, highest score stated": partial(betting, highest_score=1.0),
    "student t": partial(until_below, student_t),
    "bernstein": partial(until_below, bernstein),
}


if __name__ == "__main__":
    main()
