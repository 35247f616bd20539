"""The true accuracy of every recipe of a space of digits_cnn: nice -n 10 python -m benchmarks.search.digits_truth.

82,944 rung assignments (51,840 different recipes), in floating point, 8 or 3 bits, with half of the channels or all,
and split in two or whole; scored without recovery on all samples of the search and the test split. Writes
benchmarks/results/digits_truth.npz: `search` and `test` count the right answers, indexed by the rungs in the order of
`names`; -1 where not scored yet. The network's weights are stored beside it, in digits_truth.pt. A run that was ended
is taken up where it was. Thinnings are outermost and the last layers' precisions change fastest, so that nearly all of
a forward pass is that of the recipe before. At the end, 20 recipes drawn at random are scored anew by `Accuracy` on
what `compress` gives, and must be equal.
"""

import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gulliver.compressors.candidate_network import SharedPrefix
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import Original, compress, read_original
from gulliver.evaluators.accuracy import Accuracy, score
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.digits_cnn import DigitsCNN
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.record import RESULTS, origin

PATH = RESULTS / "digits_truth.npz"
WEIGHTS = RESULTS / "digits_truth.pt"
SPLITS = ("search", "test")
SAVED_EVERY_S = 20.0
CHECKED_RECIPES = 20
CAPABILITIES = Capabilities(
    float_type="bfloat16",
    precisions={"conv2d": ((8, 8), (3, 8)), "linear": ((8, 8),)},
    channel_multiple=16,
    small_channel_multiple=8,
    small_channels=16,
)
OPTIONS = SpaceOptions(
    bits=((8, 8), (3, 8)),
    max_ratio=0.5,
    ranks=(0.5,),
    keep_float=("stem.conv", "stages.1.0.shortcut.conv"),
    reconstruct=False,
)


class StoredDigitsCNN(DigitsCNN):
    """The digits task with the weights that the truth is of: trained on another processor, they differ."""

    @property
    def weights_path(self) -> Path:
        """The file beside the truth; trained now where it is missing."""
        return WEIGHTS


@dataclass(frozen=True)
class Truth:
    """The counts of right answers of all recipes; the axes are the space's dimensions, in the order of `names`."""

    names: tuple[str, ...]
    counts: Mapping[str, NDArray[np.int16]]
    samples: Mapping[str, int]
    facts: Mapping[str, Any]

    def accuracy(self, rungs: Mapping[str, int], split: str = "search") -> float:
        """Return the share of right answers of the recipe at these rungs; a dimension left out is at rung 0."""
        return float(self.counts[split][tuple(rungs.get(name, 0) for name in self.names)]) / self.samples[split]

    @property
    def missing(self) -> int:
        """Return how many rung assignments are not scored yet."""
        return int((self.counts["test"] < 0).sum())

    def save(self, path: Path) -> None:
        """Write all of it to one file, whole or not at all."""
        facts = json.dumps({**self.facts, "names": self.names, "samples": dict(self.samples)})
        write_atomically(path, lambda temporary: _save(temporary, facts, self.counts))


def _save(path: Path, facts: str, counts: Mapping[str, NDArray[np.int16]]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, facts=np.array(facts), **counts)


def read_truth(path: Path = PATH) -> Truth:
    """Return what is stored."""
    with np.load(path) as stored:
        facts = json.loads(str(stored["facts"]))
        counts = {split: stored[split] for split in SPLITS}
    return Truth(tuple(facts.pop("names")), counts, facts.pop("samples"), facts)


def truth_space(graph: LayerGraph) -> Space:
    """Return the space that is enumerated."""
    return Space(graph, CAPABILITIES, OPTIONS)


class SplitCounter:
    """Counts right answers on one split, each network from where it differs from the one before."""

    def __init__(self, task: DigitsCNN, split: str) -> None:
        self._task, self._split, self._size = task, split, task.size(split)
        self._shared: SharedPrefix | None = None

    def __call__(self, network: Any) -> int:
        """Return how many of the split's samples the network has right."""

        def run(images: Tensor) -> Tensor:
            # The whole split is one batch, the same each time.
            assert len(images) == self._size
            self._shared = self._shared or SharedPrefix(images)
            return self._shared(network)

        return int(self._task.scores(run, self._split, 0, self._size).sum())


class Enumeration:
    """Score what is missing of a truth."""

    def __init__(self, original: Original) -> None:
        self.original = original
        self._task: Any = original.task
        self._candidates = Candidates(original)
        self._counters = {split: SplitCounter(self._task, split) for split in SPLITS}
        self._known: dict[str, tuple[int, ...]] = {}

    @cached_property
    def space(self) -> Space:
        """The space that is enumerated."""
        return truth_space(self.original.graph)

    def start(self) -> Truth:
        """Return what is stored of this network and space, or a truth of which all is missing."""
        dimensions = self.space.dimensions
        names, sizes = tuple(it.name for it in dimensions), tuple(it.rungs for it in dimensions)
        samples = {split: self._task.size(split) for split in SPLITS}
        if PATH.exists():
            stored = read_truth()
            same = (stored.names, stored.facts["network"], stored.samples) == (names, self.original.network, samples)
            if same and stored.counts["search"].shape == sizes:
                return stored
        counts = {split: np.full(sizes, -1, np.int16) for split in SPLITS}
        return Truth(names, counts, samples, {"network": self.original.network, **origin({"torch": version("torch")})})

    def fill(self, truth: Truth) -> Iterator[int]:
        """Score every rung assignment that is missing, and yield after each one how many are left."""
        left = truth.missing
        for rungs in self._assignments():
            place = tuple(rungs[name] for name in truth.names)
            if truth.counts["test"][place] < 0:
                for split, count in zip(SPLITS, self._score(rungs), strict=True):
                    truth.counts[split][place] = count
                left -= 1
                yield left

    def _assignments(self) -> Iterator[dict[str, int]]:
        thinning = [it for it in self.space.dimensions if it.method != "precision"]
        order = [*thinning, *(it for it in self.space.dimensions if it.method == "precision")]
        names = [it.name for it in order]
        for rungs in itertools.product(*(range(it.rungs) for it in order)):
            yield dict(zip(names, rungs, strict=True))

    def _score(self, rungs: Mapping[str, int]) -> tuple[int, ...]:
        recipe = self.space.decode(rungs)
        if recipe.key not in self._known:
            # A rank that no longer saves anything on thinned channels is not taken: the recipe is another's equal.
            network = self._candidates.network(recipe)
            self._known[recipe.key] = tuple(self._counters[split](network) for split in SPLITS)
        return self._known[recipe.key]


def check(truth: Truth, enumeration: Enumeration) -> None:
    """Score some recipes by `compress` and compare."""
    draw, accuracy = random.Random(0), Accuracy(enumeration.original)
    for _ in range(CHECKED_RECIPES):
        rungs = {it.name: draw.randrange(it.rungs) for it in enumeration.space.dimensions}
        recipe = enumeration.space.decode(rungs)
        assert truth.accuracy(rungs) == accuracy(recipe)
        network = compress(enumeration.original, recipe)
        assert truth.accuracy(rungs, "test") == score(enumeration.original.task, network, "test")


def main() -> None:
    """Fill the table, saving it every now and then, and check it."""
    torch.set_num_threads(1)
    enumeration = Enumeration(read_original(StoredDigitsCNN()))
    truth = enumeration.start()
    start, cpu_start, saved = time.monotonic(), time.process_time(), time.monotonic()
    for left in enumeration.fill(truth):
        if time.monotonic() - saved > SAVED_EVERY_S:
            truth.save(PATH)
            saved = time.monotonic()
            print(
                f"{left} left after {saved - start:.0f} s, {time.process_time() - cpu_start:.0f} s of CPU", flush=True
            )
    truth.save(PATH)
    check(truth, enumeration)
    best = {split: float(truth.counts[split].max()) / truth.samples[split] for split in SPLITS}
    seconds = time.process_time() - cpu_start
    print(f"{truth.counts['search'].size} assignments, {CHECKED_RECIPES} checked, {seconds:.0f} s of CPU, best {best}")


if __name__ == "__main__":
    main()
