"""Several tables as one, over all variables that any of them is over."""

from collections.abc import Sequence

import numpy as np
from gulliver.evaluators.factors import Costs, Factor


def joint_table(factors: Sequence[Factor], variables: Sequence[int], sizes: Sequence[int]) -> Costs:
    """Return the sum of the tables, one axis for each of `variables` in their order, as long as `sizes` says."""
    table = np.zeros([sizes[variable] for variable in variables])
    for factor in factors:
        places = [variables.index(variable) for variable in factor.variables]
        shape = [sizes[variable] if variable in factor.variables else 1 for variable in variables]
        table += factor.table.transpose(np.argsort(places)).reshape(shape)
    return table
