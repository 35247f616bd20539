"""The sensitivity pass: the loss that each choice causes alone, and that some pairs cause together, measured once.

Losses are divergences of the outputs on the calibration inputs (evaluators/divergence.py), measured directly by one
short evaluation a choice, or estimated for all choices from one backward pass (evaluators/taylor.py). What was
measured is kept in the cache under the network, the calibration inputs and the code that made the choices.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from gulliver.compressors import compress as compress_module
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import Original, first_samples
from gulliver.compressors.distillation import class_dimension
from gulliver.evaluators import divergence, taylor
from gulliver.evaluators.divergence import DIVERGENCES, Divergence, mean_divergence, squared_error
from gulliver.evaluators.factors import Factor
from gulliver.evaluators.taylor import TaylorLoss
from gulliver.search.pairs import pairs_that_matter
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.tasks.cache import cache_dir, write_atomically
from gulliver.tasks.errors import InputError
from tqdm import tqdm

Choice = tuple[str, int]
_STRONGEST = 1.0
_BROKEN = 10.0
_SAVED_EVERY = 20
_LOSS_FILES = (Path(divergence.__file__), Path(taylor.__file__))


@dataclass(frozen=True)
class SensitivitySettings:
    """How losses are measured: directly or by the gradient, on how many calibration samples, and for how many pairs."""

    method: str = "direct"
    divergence: str = "kl"
    samples: int = 256
    pairs: int = 24

    def __post_init__(self) -> None:
        for key, known in (("method", METHODS), ("divergence", DIVERGENCES)):
            if getattr(self, key) not in known:
                raise InputError(f"`sensitivity.{key}` must be one of {', '.join(known)}, but is {getattr(self, key)}")
        if self.samples < 1 or self.pairs < 0:
            raise InputError(
                "`sensitivity.samples >= 1` and `sensitivity.pairs >= 0` must hold, "
                f"but they are {self.samples} and {self.pairs}"
            )
        if self.method == "gradient" and self.divergence != "kl":
            raise InputError(
                f"`sensitivity.divergence` must be kl for sensitivity.method=gradient, but is {self.divergence}"
            )


@dataclass(frozen=True)
class Sensitivities:
    """The loss of every choice alone, and of pairs the share by which they cost more together than apart.

    `pairs` gives for two dimensions (L12 - L1 - L2) / sqrt(L1 L2), measured at the last rung of both.
    """

    method: str
    losses: Mapping[Choice, float]
    pairs: Mapping[tuple[str, str], float]

    def factors(self, space: Space) -> tuple[Factor, ...]:
        """Return the predicted loss of every recipe of the space as a sum of tables."""
        tables = [np.array([self._loss(it.name, rung) for rung in range(it.rungs)]) for it in space.dimensions]
        position = {dimension.name: index for index, dimension in enumerate(space.dimensions)}
        alone = [Factor((index,), table) for index, table in enumerate(tables)]
        together = [
            Factor((position[a], position[b]), share * np.sqrt(np.outer(tables[position[a]], tables[position[b]])))
            for (a, b), share in self.pairs.items()
        ]
        return *alone, *together

    def _loss(self, name: str, rung: int) -> float:
        return self.losses[name, rung] if rung else 0.0


# Makes what returns the losses of recipes in their order, and may keep what it computed of one for the others.
Losses = Callable[[Sequence[Recipe]], Iterable[float]]
Method = Callable[[Original, SensitivitySettings], Losses]


def _direct(original: Original, settings: SensitivitySettings) -> Losses:
    inputs, outputs = first_samples(original, settings.samples)
    candidates = Candidates(replace(original, calibration=inputs, outputs=outputs))
    between = _between(settings.divergence, class_dimension(original.task, outputs[0]))
    return lambda recipes: (mean_divergence(candidates.network(it), inputs, outputs, between) for it in recipes)


def _between(divergence: str, classes: int | None) -> Divergence:
    """Return the divergence along the classes, or the one of outputs that are values."""
    if classes is None:
        return squared_error
    function = DIVERGENCES[divergence]
    return lambda reference, outputs: function(reference.movedim(classes, -1), outputs.movedim(classes, -1))


def _gradient(original: Original, settings: SensitivitySettings) -> Losses:
    return TaylorLoss(original, settings.samples).losses


METHODS: Mapping[str, Method] = {"direct": _direct, "gradient": _gradient}


def measure_sensitivities(
    original: Original, space: Space, settings: SensitivitySettings, method: str
) -> Sensitivities:
    """Return the sensitivities of all choices of the space, from the cache or measured with one of the METHODS."""
    if method == "gradient":
        # What is solved anew has no gradient; the trials tell how much of a loss reconstruction takes back.
        space = replace(space, options=replace(space.options, reconstruct=False))
    store = _Store(_cache_path(original, settings, method))
    start = cache(lambda: METHODS[method](original, settings))

    def losses(recipes: Sequence[Recipe], what: str) -> list[float]:
        missing = {it.key: it for it in recipes if it.key not in store.losses}
        if missing:
            measured = zip(missing, start()([*missing.values()]), strict=True)
            store.fill(tqdm(measured, what, len(missing), unit="choice"))
        return _finite([store.losses[it.key] for it in recipes])

    choices = [(it.name, rung) for it in space.dimensions for rung in range(1, it.rungs)]
    alone = dict(zip(choices, losses([space.decode(dict([it])) for it in choices], f"{method} losses"), strict=True))
    ends = _last_rungs(space)
    pairs = _strongest_pairs(space, alone, settings.pairs)
    together = losses([space.decode({a: ends[a], b: ends[b]}) for a, b in pairs], f"{method} losses of pairs")
    shares = {
        (a, b): _share(loss, alone[a, ends[a]], alone[b, ends[b]]) for (a, b), loss in zip(pairs, together, strict=True)
    }
    return Sensitivities(method, alone, shares)


def _finite(losses: Sequence[float]) -> list[float]:
    """Return the losses, none below 0; where a choice gives no numbers, it is worse than all that do."""
    worst = max((it for it in losses if math.isfinite(it)), default=0.0) or 1.0
    return [max(0.0, it) if math.isfinite(it) else _BROKEN * worst for it in losses]


def _strongest_pairs(space: Space, alone: Mapping[Choice, float], count: int) -> list[tuple[str, str]]:
    """Return the pairs whose joint loss may differ most from the sum: those of the largest product of losses."""
    ends = _last_rungs(space)
    pairs = sorted(pairs_that_matter(space), key=lambda it: -alone[it[0], ends[it[0]]] * alone[it[1], ends[it[1]]])
    return pairs[:count]


def _last_rungs(space: Space) -> dict[str, int]:
    return {dimension.name: dimension.rungs - 1 for dimension in space.dimensions}


def _share(together: float, first: float, second: float) -> float:
    """Return by how much two losses exceed their sum, relative to their geometric mean, within what is plausible."""
    mean = float(np.sqrt(first * second))
    return float(np.clip((together - first - second) / mean, -_STRONGEST, _STRONGEST)) if mean > 0 else 0.0


class _Store:
    """Losses by recipe key, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.losses: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def fill(self, measured: Iterable[tuple[str, float]]) -> None:
        """Take losses as they are measured; what ends the measurement loses none, what kills it the last few."""
        try:
            for index, (key, loss) in enumerate(measured, 1):
                self.losses[key] = loss
                if index % _SAVED_EVERY == 0:
                    self.save()
        finally:
            self.save()

    def save(self) -> None:
        """Write the losses to the disk."""
        text = json.dumps(self.losses, indent=0)
        write_atomically(self._path, lambda temporary: temporary.write_text(text))


def _cache_path(original: Original, settings: SensitivitySettings, method: str) -> Path:
    """Return a file named by all that a loss depends on beside the choice itself."""
    digest = hashlib.sha256(original.calibration_digest.encode())
    digest.update(str(class_dimension(original.task, original.outputs[0])).encode())
    for path in (*sorted(Path(compress_module.__file__).parent.glob("*.py")), *_LOSS_FILES):
        digest.update(path.read_bytes())
    name = f"{original.network}-{digest.hexdigest()[:16]}-{method}-{settings.divergence}-{settings.samples}.json"
    return cache_dir() / "sensitivities" / name
