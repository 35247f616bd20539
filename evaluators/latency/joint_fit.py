"""Fit parameters of related things together: what the times of one do not tell, those of the others do.

A hierarchical model: each coordinate of each member is sqrt(share) times one that members have in common, plus
sqrt(1 - share) times its own, and both have a standard normal prior, so that the sum has one too (Gelman et al.,
Bayesian Data Analysis, 5.4). Residuals and priors are under Cauchy's loss, as few of them may be far off.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]
_STEP = 1e-6
_MOST_EVALUATIONS = 100


@dataclass(frozen=True)
class Member:
    """One of those that are fitted: the names of its coordinates, and its residuals at a point of them."""

    coordinates: Sequence[str]
    residuals: Callable[[Floats], Floats]

    def slope(self, point: Floats) -> Floats:
        """Return the derivatives of the residuals (residuals, coordinates), by forward differences."""
        here = self.residuals(point)
        steps = _STEP * np.eye(len(point))
        return np.stack([(self.residuals(point + step) - here) / _STEP for step in steps], 1)


def fit_jointly(members: Mapping[str, Member], shares: Callable[[str], float]) -> dict[str, Floats]:
    """Return each member's point; `shares` gives the share of a coordinate that members have in common."""
    common = sorted({name for member in members.values() for name in member.coordinates})
    maps = _maps(list(members.values()), common, shares)

    def residuals(vector: Floats) -> Floats:
        parts = [member.residuals(way @ vector) for member, way in zip(members.values(), maps, strict=True)]
        return np.concatenate([*parts, vector])

    def jacobian(vector: Floats) -> Floats:
        parts = [member.slope(way @ vector) @ way for member, way in zip(members.values(), maps, strict=True)]
        return np.concatenate([*parts, np.eye(len(vector))])

    point = np.zeros(maps[0].shape[1])
    # Cauchy's loss alone may hold all times for outliers where they are far from the start.
    for loss in ("soft_l1", "cauchy"):
        point = least_squares(residuals, point, jac=jacobian, loss=loss, max_nfev=_MOST_EVALUATIONS).x
    return {name: way @ point for name, way in zip(members, maps, strict=True)}


def _maps(members: Sequence[Member], common: Sequence[str], shares: Callable[[str], float]) -> list[Floats]:
    """Return the matrices (coordinates of a member, all) that make each member's point of common and own parts."""
    ends = np.cumsum([len(common), *(len(member.coordinates) for member in members)])
    maps = []
    for member, start in zip(members, ends, strict=False):
        way = np.zeros((len(member.coordinates), ends[-1]))
        for row, name in enumerate(member.coordinates):
            way[row, common.index(name)] = np.sqrt(shares(name))
            way[row, start + row] = np.sqrt(1 - shares(name))
        maps.append(way)
    return maps
