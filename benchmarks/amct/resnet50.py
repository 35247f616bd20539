"""What each method alone and all together make of ResNet-50's latency on this CPU: python -m benchmarks.amct.resnet50.

The weights are random, so that only latency is told. Every form is exported to OpenVINO and runs in turns with all
others of its batch size, one thread; latencies are medians of CPU time. "channels" removes the share nearest to 30%
that leaves multiples of 16; "ranks" splits at two thirds of the rank at which that stops to save.
Writes benchmarks/results/amct_resnet50.csv.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import torch
from gulliver.compressors.compress import Original, compress, read_original
from gulliver.compressors.export import to_openvino
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.measurement import compile_openvino, measure
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.residual_network import ConvolutionNorm
from torch import Tensor, nn

from benchmarks.record import write_table

BATCHES = (1, 32)
REPETITIONS = {1: 50, 32: 9}
RATIO = 0.3
# Width, blocks and the stride of the first block of each stage: He et al., "Deep Residual Learning", 2016, table 1.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
EXPANSION = 4


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, added to what they read, which another 1x1 adapts where the shape changes."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.reduce = ConvolutionNorm(in_channels, width, 1, 1)
        self.conv = ConvolutionNorm(width, width, 3, stride)
        self.expand = ConvolutionNorm(width, out_channels, 1, 1)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else ConvolutionNorm(in_channels, out_channels, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map shape (batch, in, height, width) to (batch, 4 width, height / stride, width / stride)."""
        hidden = torch.relu(self.conv(torch.relu(self.reduce(features))))
        return torch.relu(self.expand(hidden) + self.shortcut(features))


class ResNet50(nn.Module):
    """ResNet-50 for 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvolutionNorm(3, 64, 7, 2)
        self.shrink = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(*_blocks())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(EXPANSION * STAGES[-1][0], 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, 3, 224, 224) to (batch, 1000)."""
        features = self.blocks(self.shrink(torch.relu(self.stem(images))))
        logits: Tensor = self.classifier(torch.flatten(self.pool(features), 1))
        return logits


def _blocks() -> Iterator[Bottleneck]:
    channels = 64
    for width, blocks, first_stride in STAGES:
        for index in range(blocks):
            yield Bottleneck(channels, width, first_stride if index == 0 else 1)
            channels = EXPANSION * width


class RandomResNet50:
    """ResNet-50 with random weights, and random images to calibrate with; it has nothing to be scored on."""

    name = "resnet50"

    def __init__(self, batch: int) -> None:
        torch.manual_seed(0)
        self.model = ResNet50().eval()
        self.example_inputs = (torch.randn(1, 3, 224, 224),)
        self.images = torch.randn(batch, 3, 224, 224)

    def calibration(self) -> list[tuple[Tensor, ...]]:
        """One batch of noise."""
        return [(self.images,)]


@dataclass(frozen=True)
class Result:
    """One form of the network at one batch size."""

    form: str
    float_type: str
    batch: int
    latency_ms: float
    p10_ms: float
    p90_ms: float
    speedup_over_fp32: float
    speedup_over_bf16: float


def main() -> None:
    """Measure all forms at every batch size and write the table."""
    torch.set_num_threads(1)
    rows = [row for batch in BATCHES for row in measure_forms(batch)]
    write_table("amct_resnet50", rows, {name: version(name) for name in ("torch", "openvino")})


def measure_forms(batch: int) -> Iterator[Result]:
    """Yield the latencies of all forms at this batch size, their inferences in turns."""
    original = read_original(RandomResNet50(batch))
    compiled = {name: _compiled(original, *name, recipe, batch) for name, recipe in forms(original, batch)}
    timings = measure(compiled, original.calibration[0], REPETITIONS[batch])
    fp32, bf16 = (timings["original", it].median_ms for it in ("float32", "bfloat16"))
    for (form, float_type), it in timings.items():
        quantiles = (round(value, 3) for value in (it.median_ms, it.p10_ms, it.p90_ms))
        speedups = (round(base / it.median_ms, 3) for base in (fp32, bf16))
        yield Result(form, float_type, batch, *quantiles, *speedups)


def forms(original: Original, batch: int) -> Iterator[tuple[tuple[str, str], Recipe]]:
    """Yield every form with the type that its layers run in where they are not quantized."""
    options = SpaceOptions(bits=((8, 8),), ranks=(0.67,), reconstruct=False)
    space = Space(original.graph, CpuOpenvino(batch=batch).capabilities, options)
    for float_type in ("float32", "bfloat16"):
        yield ("original", float_type), space.uniform(quantized=False)
        yield ("channels", float_type), space.uniform(RATIO, quantized=False)
        yield ("ranks", float_type), space.uniform(rank_rung=1, quantized=False)
    yield ("int8", "bfloat16"), space.uniform()
    yield ("channels, int8", "bfloat16"), space.uniform(RATIO)
    yield ("channels, ranks, int8", "bfloat16"), space.uniform(RATIO, rank_rung=1)


def _compiled(original: Original, form: str, float_type: str, recipe: Recipe, batch: int) -> object:
    model = to_openvino(compress(original, recipe), original.task.example_inputs, batch)
    return compile_openvino(model, float_type, threads=1)


if __name__ == "__main__":
    main()
