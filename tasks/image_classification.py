"""What every image classification task shares: its samples, its scores, and a model trained once and cached."""

import hashlib
import json
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from gulliver.tasks.cache import cache_dir, write_atomically
from gulliver.tasks.calibration import calibrated_temperature
from gulliver.tasks.errors import InputError
from gulliver.tasks.labelled_images import ImageSplits, LabelledImages, Normalization
from gulliver.tasks.protocol import Inputs, Split
from gulliver.tasks.residual_network import ResidualNetwork
from gulliver.tasks.training import TrainingSettings, shuffled_batches, train_classifier
from torch import Tensor, nn

CALIBRATION_BATCH_SIZE = 128
SCORING_BATCH_SIZE = 500


class Blueprint(Protocol):
    """A dataclass that builds a network with random weights; its fields tell the network from all others."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(self) -> nn.Module:
        """Return the network; its weights are drawn from torch's random state."""


@dataclass(frozen=True)
class Architecture:
    """The arguments of a ResidualNetwork."""

    widths: tuple[int, ...]
    blocks_per_stage: int
    stem_stride: int
    in_channels: int
    classes: int

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        return ResidualNetwork(**asdict(self))


@dataclass(frozen=True)
class SampleCounts:
    """How many samples calibrate, how many distil, and how many of the search split are scored."""

    calibration: int
    training: int
    search: int


class ImageClassification(ABC):
    """An ExpectingTask and a TrainingTask: a network trained on first use, scored by its share of right answers."""

    name: str
    architecture: Blueprint
    normalization: Normalization
    most_samples: SampleCounts
    distillation_batch_size: int

    def __init__(self, settings: TrainingSettings, samples: SampleCounts) -> None:
        self.settings = settings
        self.samples = samples
        _require("seed", settings.seed, 0, 2**63 - 1)
        _require("epochs", settings.epochs, 1, 1000)
        _require("calibration_samples", samples.calibration, 1, self.most_samples.calibration)
        _require("training_samples", samples.training, 1, self.most_samples.training)
        _require("search_samples", samples.search, 1, self.most_samples.search)

    @abstractmethod
    def _load_splits(self) -> ImageSplits:
        """Return the data; raises InputError where it cannot be had."""

    @cached_property
    def splits(self) -> ImageSplits:
        """The whole data, read on first use; raises InputError where it cannot be had."""
        return self._load_splits()

    @cached_property
    def model(self) -> nn.Module:
        """The trained network in evaluation mode, from the cache or trained on first use (minutes at most)."""
        # Weights made under a caller's inference mode could never be fine-tuned.
        with torch.inference_mode(False), torch.enable_grad():
            return self._cached_model() or self._train_model()

    @property
    def weights_path(self) -> Path:
        """The file of the trained weights, named by a hash of all that decides them."""
        facts = json.dumps([asdict(part) for part in (self.architecture, self.normalization, self.settings)])
        return cache_dir() / f"{self.name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.pt"

    @property
    def example_inputs(self) -> Inputs:
        """One normalised training image of shape (1, channels, height, width) in float32."""
        return (self.normalization(self.splits.train.images[:1]),)

    def calibration(self) -> Iterator[Inputs]:
        """Yield the first training images, normalised, in batches of 128."""
        images = self.splits.train.images[: self.samples.calibration]
        for start in range(0, len(images), CALIBRATION_BATCH_SIZE):
            yield (self.normalization(images[start : start + CALIBRATION_BATCH_SIZE]),)

    def training(self, epoch: int) -> Iterator[Inputs]:
        """Yield normalised training images in the epoch's order, mirrored at random if the model was trained so."""
        generator = torch.Generator().manual_seed(epoch)
        data = self.splits.train[: self.samples.training]
        flip = self.settings.random_flip
        for batch in shuffled_batches(data, self.distillation_batch_size, flip, generator):
            yield (self.normalization(batch.images),)

    def size(self, split: Split) -> int:
        """Return the number of samples in the split; raises InputError for any other name."""
        return len(self._samples_of(split))

    def scores(self, model: nn.Module, split: Split, start: int, stop: int) -> Tensor:
        """Return shape (stop - start,): 1.0 where the largest logit is the label's; raises InputError off the split."""
        data = self._slice_of(split, start, stop)
        return (self._logits(model, data).argmax(1) == data.labels).float()

    def expected_scores(self, model: nn.Module, split: Split, start: int, stop: int) -> Tensor:
        """Return shape (stop - start,): how likely each answer is right, by the original's calibrated confidence.

        Raises InputError off the split.
        """
        answers = self._logits(model, self._slice_of(split, start, stop)).argmax(1)
        return self._confidence(split)[start:stop].gather(1, answers[:, None])[:, 0]

    def _confidence(self, split: Split) -> Tensor:
        """Return shape (samples, classes): the original's calibrated probabilities."""
        return (self._original_logits(split) / self._temperature).softmax(1)

    @cached_property
    def _temperature(self) -> float:
        return calibrated_temperature(self._original_logits("search"), self._samples_of("search").labels)

    def _original_logits(self, split: Split) -> Tensor:
        if split not in self._logits_by_split:
            self._logits_by_split[split] = self._logits(self.model, self._samples_of(split))
        return self._logits_by_split[split]

    @cached_property
    def _logits_by_split(self) -> dict[Split, Tensor]:
        """The original's logits that were asked for so far."""
        return {}

    def _logits(self, model: nn.Module, data: LabelledImages) -> Tensor:
        pieces = (data[first : first + SCORING_BATCH_SIZE] for first in range(0, len(data), SCORING_BATCH_SIZE))
        with torch.inference_mode():
            found = [model(self.normalization(piece.images)) for piece in pieces]
        return torch.cat(found) if found else torch.zeros(0, 1)

    def _slice_of(self, split: Split, start: int, stop: int) -> LabelledImages:
        data = self._samples_of(split)
        if not 0 <= start <= stop <= len(data):
            raise InputError(f"scores: need 0 <= start <= stop <= {len(data)} on {split}, got {start} and {stop}")
        return data[start:stop]

    def _samples_of(self, split: Split) -> LabelledImages:
        if split == "search":
            return self.splits.search[: self.samples.search]
        if split == "test":
            return self.splits.test
        raise InputError(f"split: must be search or test, got {split}")

    def _cached_model(self) -> nn.Module | None:
        if not self.weights_path.exists():
            return None
        network = self._untrained_model()
        try:
            network.load_state_dict(torch.load(self.weights_path, weights_only=True))
        except (RuntimeError, EOFError, TypeError, ValueError, LookupError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            print(
                f"{self.weights_path}: unreadable, so {self.name} is trained again ({reason})",
                file=sys.stderr,
            )
            return None
        return network.eval()

    def _train_model(self) -> nn.Module:
        network = self._untrained_model()
        train_classifier(network, self.splits.train, self.normalization, self.settings, f"training {self.name}")
        write_atomically(self.weights_path, lambda path: torch.save(network.state_dict(), path))
        return network

    def _untrained_model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return self.architecture.build()


def _require(name: str, value: int, lowest: int, highest: int) -> None:
    # bool is an int to Python, but `epochs: true` is a slip of the pen.
    if type(value) is not int or not lowest <= value <= highest:
        raise InputError(f"{name}: must be a whole number from {lowest} to {highest}, got {value}")
