"""Fit a chip's efficiencies to measured times, and keep them in conf/chip_fit with the error of the fit.

Times span four orders of magnitude, so residuals are log ratios, under a robust loss. There are about as many kinds
of kernels as there are times of each, so every parameter is held near a plain starting value by a prior in log space,
a part of which kinds of chips have in common where they are fitted together. Times of a chip that has a fit already
start from that fit, and leave it less freely.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.chip_model import Efficiencies, of_families, price
from gulliver.evaluators.latency.chip_work import Floats, work
from gulliver.evaluators.latency.joint_fit import Member, fit_jointly
from gulliver.evaluators.latency.kernel_stages import stages
from gulliver.evaluators.latency.published_kernel import PublishedKernel, read_kernel
from gulliver.tasks.cache import cache_dir, write_atomically
from gulliver.tasks.errors import InputError

FITS = files("gulliver.conf") / "chip_fit"
PUBLISHED = files("gulliver.evaluators.latency") / "data" / "kernel_times.csv"
# Measured times scatter by about this share around any model of this kind.
_NOISE = 0.12
# The share of a parameter's prior variance that kinds of chips have in common, and which parameters have none.
_SHARE = 0.4
_OF_ONE_CHIP = ("launch", "row_s", "unaligned")
# An earlier fit rests on times of its own: the share of a spread by which others may well leave it.
_FREEDOM = 0.3
# What a fit says of itself: an error may be 0, or not known.
_OF_FIT = ("rows", "mean_error", "worst_error")


@dataclass(frozen=True)
class Prior:
    """A starting value, and by what factor (as a logarithm) a fit may well leave it."""

    value: float
    spread: float


# Plain guesses, the same for every chip: units reach 80% of their peaks, a launch takes 10 us, a tile's start 0.2 us.
PRIORS = {
    "matrix_efficiency": Prior(0.8, 0.3),
    "memory_efficiency": Prior(0.8, 0.3),
    "load_efficiency": Prior(0.7, 0.7),
    "vector_efficiency": Prior(0.3, 1.0),
    "conversion_efficiency": Prior(0.7, 0.4),
    "tile_s": Prior(2e-7, 1.0),
    "row_s": Prior(1e-7, 1.0),
    "matrix_start_s": Prior(2e-6, 1.0),
    "block_s": Prior(1e-6, 0.7),
    "piece_s": Prior(3e-9, 1.0),
    "barrier_s": Prior(2e-6, 0.5),
    "overlap": Prior(2.5, 0.5),
    "unaligned_factor": Prior(1.4, 0.4),
    "launch_s": Prior(1e-5, 0.8),
}
# Factors of families are all 1 to begin with; these are their spreads.
FAMILY_SPREADS = {"launch_factor": 0.5, "matrix_factor": 0.15, "memory_factor": 0.07, "load_factor": 0.3}
_GUESSES: dict[str, Any] = {name: prior.value for name, prior in PRIORS.items()} | {name: {} for name in FAMILY_SPREADS}
_PLAIN = Efficiencies(**_GUESSES)


def fit_efficiencies(kernels: Sequence[PublishedKernel], near: Efficiencies | None = None) -> Efficiencies:
    """Return the efficiencies that best explain the kernels' measured times; raises InputError if one has none.

    What the times do not tell stays as it is in `near`, an earlier fit, or else at the plain guesses of `PRIORS`.
    """
    measured = _Measured(kernels) if near is None else _Measured(kernels, near, _FREEDOM)
    return _fit_together({"": measured})[""]


def fit_together(kernels: Mapping[str, Sequence[PublishedKernel]]) -> dict[str, Efficiencies]:
    """Return the efficiencies of each kind of chip by its name, where kinds share what their own times do not tell.

    Raises InputError if a kernel has no measured time.
    """
    return _fit_together({name: _Measured(those) for name, those in kernels.items()})


def _fit_together(measured: Mapping[str, "_Measured"]) -> dict[str, Efficiencies]:
    members = {name: Member(it.coordinates, it.residuals) for name, it in measured.items()}
    points = fit_jointly(members, lambda name: 0.0 if name.startswith(_OF_ONE_CHIP) else _SHARE)
    return {name: it.fitted(points[name]) for name, it in measured.items()}


class _Measured:
    """Kernels of one kind of chip with their times, and how freely these leave the efficiencies `near`."""

    def __init__(self, kernels: Sequence[PublishedKernel], near: Efficiencies = _PLAIN, freedom: float = 1.0) -> None:
        if not kernels or any(kernel.time_us is None for kernel in kernels):
            raise InputError(
                f"a fit needs kernels with a measured time, but got {len(kernels)} of which some have none"
            )
        self.kernels, self.work, self.near, self.freedom = kernels, work(kernels), near, freedom
        self.seconds = np.array([1e-6 * (kernel.time_us or 0.0) for kernel in kernels])
        self.families = sorted({kernel.family for kernel in kernels} | near.launch_factor.keys())
        self.coordinates = [*PRIORS, *(f"{name} {family}" for name in FAMILY_SPREADS for family in self.families)]

    def residuals(self, point: Floats) -> Floats:
        """Return the logarithms of modelled over measured times, in units of their scatter."""
        modelled_s = price(self.kernels, self._efficiencies(point), self.work).seconds
        return np.asarray(np.log(modelled_s / self.seconds) / _NOISE)

    def fitted(self, point: Floats) -> Efficiencies:
        """Return the efficiencies at a point, with their errors."""
        errors = np.abs(np.expm1(_NOISE * self.residuals(point)))
        fit = self._efficiencies(point)
        return replace(fit, rows=len(self.kernels), mean_error=float(errors.mean()), worst_error=float(errors.max()))

    def _efficiencies(self, point: Floats) -> Efficiencies:
        """Return the efficiencies at a point: each near one times e to the power of spread times coordinate."""
        point = self.freedom * point
        plain: dict[str, Any] = {
            name: float(getattr(self.near, name) * np.exp(prior.spread * at))
            for (name, prior), at in zip(PRIORS.items(), point, strict=False)
        }
        rest = np.reshape(point[len(PRIORS) :], (len(FAMILY_SPREADS), len(self.families)))
        by_family: dict[str, Any] = {}
        for (name, spread), row in zip(FAMILY_SPREADS.items(), rest, strict=True):
            values = of_families(self.families, getattr(self.near, name)) * np.exp(spread * row)
            by_family[name] = dict(zip(self.families, values.tolist(), strict=True))
        return Efficiencies(**plain, **by_family)


def published_kernels() -> list[PublishedKernel]:
    """Return the published kernels that a chip of ours can price, each with its measured time."""
    return list(_readable(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines())))


def _readable(rows: Iterable[Mapping[str, str]]) -> Iterator[PublishedKernel]:
    for row in rows:
        try:
            kernel = read_kernel(row)
            stages(kernel)
        except InputError:
            continue
        yield kernel


@cache
def read_fit(name: str) -> Efficiencies:
    """Return the stored fit of this name; raises InputError where there is none."""
    path = FITS / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"no fit is stored under the name {name}")
    return Efficiencies(**yaml.safe_load(path.read_text()))


def own_fit_path(chip: str) -> Path:
    """Return where `gulliver calibrate` keeps a chip's own fit, if it was calibrated."""
    return cache_dir() / "chip_fit" / f"{read_chip(chip).name}.yaml"


def fit_file(chip: str, asked: str | None = None) -> Path | None:
    """Return the file of the fit that prices the chip's kernels, asked for or its own; None is the stored one."""
    own = own_fit_path(chip)
    return Path(asked) if asked else own if own.is_file() else None


def fit_of(chip: str, asked: str | None = None) -> Efficiencies:
    """Return the fit that prices the chip's kernels; raises InputError where a file holds none."""
    path = fit_file(chip, asked)
    if path is None:
        return read_fit(read_chip(chip).fit)
    try:
        fit = Efficiencies(**yaml.safe_load(path.read_text(encoding="utf-8")))
        _check_numbers(fit)
    except (OSError, AttributeError, TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} must hold a fit, as `gulliver calibrate` writes it, but: {error}") from error
    return fit


def _check_numbers(fit: Efficiencies) -> None:
    """Raise ValueError unless every efficiency, time and factor is above 0, and every error a number."""
    values = {name: getattr(fit, name) for name in (*PRIORS, *_OF_FIT)}
    for name in FAMILY_SPREADS:
        values |= {f"{name} of {family}": value for family, value in getattr(fit, name).items()}
    for name, value in values.items():
        # YAML takes 9e-6 for a text and 9.0e-6 for a number.
        if type(value) not in (int, float) or not (0 < value < float("inf") or name in _OF_FIT):
            raise ValueError(f"{name} must be a number above 0, as 9.0e-6 is, but is {value!r}")


def write_fit(path: Path, fit: Efficiencies, source: str) -> None:
    """Write the fit as YAML, with four significant digits, and say what it was fitted to; raises OSError."""
    rounded = {key: _rounded(value) for key, value in asdict(fit).items()}
    header = (
        f"# Fitted to {source};\n"
        "# what each value means: evaluators/latency/chip_model.py. The errors are those of the fit itself.\n"
    )
    text = header + yaml.safe_dump(rounded, sort_keys=False)
    write_atomically(path, lambda temporary: temporary.write_text(text))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def fit_name(kernel: PublishedKernel) -> str:
    """Return the name of the fit that prices the kernel."""
    return read_chip(kernel.chip).fit
