"""Labelled images as tensors, their three splits, and how pixels become a network's input."""

from dataclasses import dataclass

import numpy
import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images of shape (samples, channels, height, width) in uint8 with labels of shape (samples,) in int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, samples: Tensor | slice) -> "LabelledImages":
        return LabelledImages(self.images[samples], self.labels[samples])


@dataclass(frozen=True)
class ImageSplits:
    """The images to train on, those that the search scores on, and those that it never sees."""

    train: LabelledImages
    search: LabelledImages
    test: LabelledImages


@dataclass(frozen=True)
class Normalization:
    """The pixel value of white, and the mean and standard deviation of the training pixels as shares of it."""

    white: float
    mean: float
    standard_deviation: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return the pixels in float32 with mean 0 and standard deviation 1, in the same shape."""
        return images.float().div_(self.white).sub_(self.mean).div_(self.standard_deviation)


def fixed_permutation(samples: int, seed: int) -> Tensor:
    """Return shape (samples,): the numbers below `samples` in an order that never changes."""
    # RandomState's stream is frozen by NumPy's policy; torch.randperm may change with a release, and then
    # test images would move into the search split of an older recipe.
    return torch.from_numpy(numpy.random.RandomState(seed).permutation(samples))
