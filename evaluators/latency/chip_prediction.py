"""Predict kernel times on any chip: the stored fits, and both modes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gulliver.evaluators.latency.chip_fit import fit_name, published_kernels, read_fit
from gulliver.evaluators.latency.chip_model import Efficiencies, price
from gulliver.evaluators.latency.nearest_measured import nearest_ratio
from gulliver.evaluators.latency.published_kernel import PublishedKernel
from gulliver.tasks.errors import InputError

MODES = ("model", "nearest")


@dataclass(frozen=True)
class Prediction:
    """One kernel's predicted seconds, what bounds it, and the mode that was used for it."""

    seconds: float
    bound_by: str
    mode: str


def predict(
    kernels: Sequence[PublishedKernel],
    mode: str = "model",
    fits: Mapping[str, Efficiencies] | None = None,
    measured: Sequence[PublishedKernel] | None = None,
) -> list[Prediction]:
    """Return the predictions of kernels; raises InputError for an unknown mode or a kernel that a chip cannot run.

    Without `fits` the stored ones price the kernels, without `measured` the published times correct them.
    """
    if mode not in MODES:
        raise InputError(f"mode must be one of {', '.join(MODES)}, but is {mode}")
    near = [] if mode == "model" else published_kernels() if measured is None else measured
    result: dict[int, Prediction] = {}
    for name in sorted({fit_name(kernel) for kernel in kernels}):
        fit = read_fit(name) if fits is None else fits[name]
        places = [index for index, kernel in enumerate(kernels) if fit_name(kernel) == name]
        mine = [kernels[index] for index in places]
        found = _predict(mine, fit, [kernel for kernel in near if fit_name(kernel) == name])
        result |= dict(zip(places, found, strict=True))
    return [result[index] for index in range(len(kernels))]


def _predict(
    kernels: Sequence[PublishedKernel], fit: Efficiencies, near: Sequence[PublishedKernel]
) -> list[Prediction]:
    prices = price(kernels, fit)
    modelled_s = price(near, fit).seconds if near else np.zeros(0)
    ratio, corrected = nearest_ratio(kernels, near, modelled_s)
    modes = [MODES[int(is_corrected)] for is_corrected in corrected]
    return [Prediction(*it) for it in zip((prices.seconds * ratio).tolist(), prices.bound_by, modes, strict=True)]
