"""What a candidate costs, made by `compress` and by `Candidates`: python -m benchmarks.search.candidate_speed.

CPU milliseconds of one thread to make a recipe's network, and to score 400 samples with it, the two ways one after
the other on each recipe, medians. The streams of recipes: *random* draws every rung; *moves* changes one rung of the
last recipe; *one thinned layer* is a whole sensitivity pass, each recipe leaving all but one layer or group as they
are, in the order of the network; *precisions* changes the bits of one layer, the rest staying as they are.

The network of 150 layers tells what is left where forward passes are taken off: `overhead_ms` is the median of a
candidate's time less that of the calibration passes which it needs, made on the thinned network itself, with every
layer's form made before: none where only precisions change, both where the first layers change.

*All channels, int8* and *half of the channels, int8* tell what really removing channels is worth against masking
them, which leaves a forward pass as it is. Writes benchmarks/results/candidate_speed.csv.
"""

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from gulliver.compressors.candidates import MEMORY_BYTES, Candidates
from gulliver.compressors.compress import Original, compress, read_original, thin
from gulliver.compressors.quantize import quantize
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space, untouched
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.digits_cnn import DigitsCNN
from gulliver.tasks.fashion_resnet import FashionResNet
from torch import Tensor, nn

from benchmarks.record import write_table

TASKS = {"digits_cnn": DigitsCNN, "fashion_resnet": FashionResNet}
RECIPES = {"digits_cnn": 60, "fashion_resnet": 20, "plain_150": 20}
SCORED_SAMPLES = 400
DEPTH = 150
CHANGED_LAYERS = 6
PRECISIONS = ((8, 8), (4, 8))
# What is reconstructed goes through `compress` in either case.
OPTIONS = SpaceOptions(bits=PRECISIONS, reconstruct=False)
LARGE_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Result:
    """One network and one stream of recipes; CPU milliseconds a candidate, medians, None where not measured."""

    network: str
    stream: str
    candidates: int
    compress_ms: float
    candidates_ms: float
    compress_score_ms: float | None = None
    candidates_score_ms: float | None = None
    overhead_ms: float | None = None
    memory_mib: int = MEMORY_BYTES >> 20
    used_mib: float | None = None


class PlainNetwork(nn.Module):
    """Convolutions with batch norms one behind the other, and a linear layer."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        inputs = [3, *[width] * (depth - 2)]
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=1, bias=False) for channels in inputs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in inputs)
        self.linear = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map shape (batch, 3, height, width) to (batch, 10)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            images = torch.relu(norm(convolution(images)))
        logits: Tensor = self.linear(images.mean((2, 3)))
        return logits


class PlainTask:
    """The plain network on two small batches of noise: forward passes as cheap as they can be."""

    name = f"plain_{DEPTH}"
    example_inputs = (torch.zeros(1, 3, 4, 4),)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = PlainNetwork(DEPTH).eval()

    def calibration(self) -> list[tuple[Tensor]]:
        """Return two batches of 8."""
        return [(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed)),) for seed in (0, 1)]


def random_stream(space: Space) -> Iterator[Recipe]:
    """Yield recipes of rungs drawn alike."""
    draw = random.Random(0)
    while True:
        yield space.decode({it.name: draw.randrange(it.rungs) for it in space.dimensions})


def moves(space: Space) -> Iterator[Recipe]:
    """Yield recipes that differ from the one before in one rung."""
    draw = random.Random(1)
    rungs = {it.name: draw.randrange(it.rungs) for it in space.dimensions}
    while True:
        changed = draw.choice(space.dimensions)
        rungs[changed.name] = draw.randrange(changed.rungs)
        yield space.decode(rungs)


def one_thinned_layer(space: Space) -> Iterator[Recipe]:
    """Yield the recipes that thin or split one layer or group, in the order of the network."""
    order = list(space.graph.layers)
    thinning = [it for it in space.dimensions if it.method != "precision"]
    for dimension in sorted(thinning, key=lambda it: order.index(it.owner)):
        for rung in range(1, dimension.rungs):
            yield space.decode({dimension.name: rung})


def precisions(space: Space) -> Iterator[Recipe]:
    """Yield recipes of one thinning and changing precisions."""
    draw = random.Random(2)
    rungs = {it.name: draw.randrange(it.rungs) for it in space.dimensions}
    changing = [it for it in space.dimensions if it.method == "precision"]
    while True:
        changed = draw.choice(changing)
        rungs[changed.name] = draw.randrange(changed.rungs)
        yield space.decode(rungs)


def first_layers(space: Space) -> Iterator[Recipe]:
    """Yield recipes of different ranks in the first layers; the first two of them need every layer's form."""
    draw = random.Random(3)
    rungs = {it.name: draw.randrange(it.rungs) for it in space.dimensions}
    changing = [it.name for it in space.dimensions if it.method == "rank"][:CHANGED_LAYERS]
    choices = list(itertools.product((0, 1), repeat=len(changing)))
    middle = choices[1:-1]
    draw.shuffle(middle)
    for choice in (choices[0], choices[-1], *middle):
        yield space.decode(rungs | dict(zip(changing, choice, strict=True)))


STREAMS = {"random": random_stream, "moves": moves, "precisions": precisions}


def cpu_ms(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the call's CPU milliseconds and what it returns."""
    start = time.process_time()
    value = call()
    return 1e3 * (time.process_time() - start), value


def measure_task(
    original: Original, stream: str, recipes: Iterator[Recipe], memory_bytes: int = MEMORY_BYTES
) -> Result:
    """Return the line of a task and a stream."""
    task: Any = original.task
    candidates = Candidates(original, memory_bytes)
    candidates.network(untouched(original.graph))
    times: list[list[float]] = []
    for recipe in recipes:
        ways = (lambda recipe=recipe: compress(original, recipe), lambda recipe=recipe: candidates.network(recipe))
        made = [cpu_ms(way) for way in ways]
        scored = [cpu_ms(lambda it=it: task.scores(it, "search", 0, SCORED_SAMPLES)) for _, it in made]
        assert torch.equal(scored[0][1], scored[1][1])
        times.append([made[0][0], made[1][0], scored[0][0], scored[1][0]])
    medians = [round(statistics.median(column), 2) for column in zip(*times, strict=True)]
    used_mib = round(candidates.used_bytes / 2**20, 1)
    return Result(task.name, stream, len(times), *medians, memory_mib=memory_bytes >> 20, used_mib=used_mib)


def measure_masking(original: Original) -> Iterator[Result]:
    """Yield the lines of the network with all of its channels, as masks would leave it, and with half of them."""
    space = Space(original.graph, CpuOpenvino(precisions=PRECISIONS).capabilities, OPTIONS)
    for stream, ratio in (("all channels, int8", 0.0), ("half of the channels, int8", 0.5)):
        recipe = space.uniform(ratio)
        yield measure_task(original, stream, itertools.repeat(recipe, RECIPES[original.task.name]))


def measure_overhead(original: Original, stream: str, recipes: Iterator[Recipe], needs_passes: bool) -> Result:
    """Return the line of the plain network: what a candidate costs beside its forward passes."""
    candidates = Candidates(original, MEMORY_BYTES)
    for recipe in itertools.islice(recipes, 2):
        candidates.network(recipe)
    times: list[list[float]] = []
    count = RECIPES[original.task.name]
    for recipe in itertools.islice(recipes, count):
        compress_ms, _ = cpu_ms(lambda recipe=recipe: compress(original, recipe))
        candidates_ms, _ = cpu_ms(lambda recipe=recipe: candidates.network(recipe))
        passes_ms = calibration_ms(original, recipe) if needs_passes else 0.0
        times.append([compress_ms, candidates_ms, candidates_ms - passes_ms])
    compress_ms, candidates_ms, overhead_ms = (
        round(statistics.median(column), 2) for column in zip(*times, strict=True)
    )
    used_mib = round(candidates.used_bytes / 2**20, 1)
    return Result(
        original.task.name, stream, count, compress_ms, candidates_ms, overhead_ms=overhead_ms, used_mib=used_mib
    )


def calibration_ms(original: Original, recipe: Recipe) -> float:
    """Return the time of both calibration passes: batch norms in training mode, then folded."""
    network = thin(original, recipe, ()).train()
    with torch.no_grad():
        training_ms, _ = cpu_ms(lambda: [network(*inputs) for inputs in original.calibration])
        folded = quantize(network.eval(), untouched(original.graph), ())
        return training_ms + cpu_ms(lambda: [folded(*inputs) for inputs in original.calibration])[0]


def results(tasks: Sequence[str]) -> Iterator[Result]:
    """Yield the table's lines."""
    for name in tasks:
        original = read_original(TASKS[name]())
        space = Space(original.graph, CpuOpenvino(precisions=PRECISIONS).capabilities, OPTIONS)
        for stream, recipes in STREAMS.items():
            yield measure_task(original, stream, itertools.islice(recipes(space), RECIPES[name]))
        for memory_bytes in (MEMORY_BYTES, LARGE_MEMORY_BYTES):
            yield measure_task(original, "one thinned layer", one_thinned_layer(space), memory_bytes)
        yield from measure_masking(original)
    original = read_original(PlainTask())
    capabilities = CpuOpenvino(precisions=PRECISIONS).capabilities
    space = Space(original.graph, capabilities, SpaceOptions(bits=PRECISIONS, ranks=(0.5,), reconstruct=False))
    yield measure_overhead(original, "precisions", precisions(space), needs_passes=False)
    yield measure_overhead(original, "first layers", first_layers(space), needs_passes=True)


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    write_table("candidate_speed", list(results(sys.argv[1:] or list(TASKS))), {"torch": version("torch")})


if __name__ == "__main__":
    main()
