"""A mixture-of-experts block of DeepSeek-V3's form with random weights: what the experts cost, with nothing to train.

Each sample is a sequence whose tokens are already sorted by expert, so that the routing is a fixed split and torch.fx
can trace it. The shape is a quarter of DeepSeek-V3's expert (7168 to 2048; DeepSeek-AI, "DeepSeek-V3 Technical Report",
2024), the number of experts is 8, and one in four tokens goes to the first of them.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Inputs, Split
from torch import Tensor, nn
from torch.nn import functional as F

# Shares of the tokens: a routing is skewed where nothing balances it.
_SHARES = (16, 12, 10, 8, 8, 5, 3, 2)
_WEIGHT_TAIL = 5.0
_CHANNEL_SPREAD = 0.25
_OUTLIER_SHARE, _OUTLIER_SCALE = 0.01, 10.0
_SEEDS = {"calibration": 1, "search": 2, "test": 3}


class Expert(nn.Module):
    """One gated MLP: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return shape (batch, tokens, width), that of the tokens."""
        result: Tensor = self.down(F.silu(self.gate(tokens)) * self.up(tokens))
        return result


class RoutedExperts(nn.Module):
    """Experts that take `rows[e]` tokens each of every sequence, in order, and a residual around them."""

    def __init__(self, width: int, hidden: int, rows: Sequence[int]) -> None:
        super().__init__()
        self.rows = list(rows)
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in rows)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return shape (batch, sum(rows), width), that of the tokens."""
        parts = torch.split(tokens, self.rows, 1)
        routed = [expert(parts[index]) for index, expert in enumerate(self.experts)]
        return tokens + torch.cat(routed, 1)


class MoeBlock:
    """How well a compressed block repeats the block: 1 minus the relative squared error of what its experts add.

    Weights are of unit gain with heavy tails and unequal output channels, and one in a hundred input channels is ten
    times as large as the rest, as trained language models have them (Dettmers et al., "LLM.int8()", 2022).
    """

    name = "moe_block"
    class_dimension = None

    def __init__(self, width: int = 1792, hidden: int = 512, samples: int = 16, seed: int = 0) -> None:
        for key, value in {"width": width, "hidden": hidden, "samples": samples}.items():
            if value < 1:
                raise InputError(f"`task.{key} >= 1` must hold, but it is {value}")
        self.width, self.hidden, self.samples, self.seed = width, hidden, samples, seed

    @cached_property
    def model(self) -> nn.Module:
        """Return the block in evaluation mode."""
        block = RoutedExperts(self.width, self.hidden, _SHARES).eval()
        random = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for weight in block.parameters():
                weight.copy_(_weights(weight.shape[0], weight.shape[1], random))
        return block.requires_grad_(False)

    @property
    def example_inputs(self) -> Inputs:
        """Return one sequence of zeros."""
        return (torch.zeros(1, sum(_SHARES), self.width),)

    def calibration(self) -> list[Inputs]:
        """Return one batch of sequences that neither split has."""
        return [(self._tokens("calibration"),)]

    def size(self, split: Split) -> int:
        """Return the number of sequences, the same in both splits."""
        return self.samples

    def scores(self, model: nn.Module, split: Split, start: int, stop: int) -> Tensor:
        """Return shape (stop - start,): 1 minus the relative squared error of the experts' results."""
        tokens = self._tokens(split)[start:stop]
        with torch.inference_mode():
            wanted, got = self.model(tokens) - tokens, model(tokens) - tokens
        scores: Tensor = 1 - (got - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2))
        return scores

    def _tokens(self, split: str) -> Tensor:
        random = torch.Generator().manual_seed(1000 * self.seed + _SEEDS[split])
        tokens = torch.randn(self.samples, sum(_SHARES), self.width, generator=random)
        channels = torch.Generator().manual_seed(self.seed)
        outliers = torch.rand(self.width, generator=channels) < _OUTLIER_SHARE
        return torch.where(outliers, _OUTLIER_SCALE * tokens, tokens)


def _weights(outputs: int, inputs: int, random: torch.Generator) -> Tensor:
    """Return shape (outputs, inputs): Student's t of unit gain, each output channel at a log-normal scale."""
    normal = torch.randn(outputs, inputs, generator=random)
    squares = torch.randn(outputs, inputs, int(_WEIGHT_TAIL), generator=random).square().mean(-1)
    tailed = normal / squares.sqrt() * ((_WEIGHT_TAIL - 2) / _WEIGHT_TAIL) ** 0.5
    scale = torch.exp(_CHANNEL_SPREAD * torch.randn(outputs, 1, generator=random))
    weights: Tensor = tailed * scale / inputs**0.5
    return weights
