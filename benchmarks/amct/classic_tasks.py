"""The thirteen classic networks as tasks on FashionMNIST, each trained on first use and kept in the cache."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from gulliver.spaces.network_identity import network_hash
from gulliver.spaces.trace import symbolic_trace
from gulliver.tasks.fashion_mnist import NORMALIZATION, SEARCH_IMAGES, load_fashion_mnist
from gulliver.tasks.image_classification import ImageClassification, SampleCounts
from gulliver.tasks.labelled_images import ImageSplits
from gulliver.tasks.training import TrainingSettings
from torch import nn

from benchmarks.amct.networks import mobile, plain, residual

SEED = 0
CALIBRATION_SAMPLES = 512


@dataclass(frozen=True)
class Training:
    """What differs in the training of the networks.

    torch runs depthwise convolutions faster in float32 than in bfloat16.
    """

    learning_rate: float = 0.15
    bfloat16: bool = True


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Training]] = {
    "vgg": (plain.vgg, Training()),
    "resnet": (residual.resnet, Training()),
    "wide_resnet": (residual.wide_resnet, Training()),
    "densenet": (residual.densenet, Training()),
    "mobilenet_v1": (mobile.mobilenet_v1, Training(bfloat16=False)),
    "mobilenet_v2": (mobile.mobilenet_v2, Training(bfloat16=False)),
    "squeezenet": (plain.squeezenet, Training()),
    "shufflenet": (mobile.shufflenet, Training(bfloat16=False)),
    "inception": (plain.inception, Training()),
    "efficientnet": (mobile.efficientnet, Training(bfloat16=False)),
    "nin": (plain.nin, Training()),
    "alexnet": (plain.alexnet, Training()),
    "convnext": (residual.convnext, Training(learning_rate=0.3)),
}


@dataclass(frozen=True)
class ClassicBlueprint:
    """A network's name, and a digest of all that it computes before it is trained."""

    network: str
    content: str

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        return NETWORKS[self.network][0]()


@cache
def blueprint(network: str) -> ClassicBlueprint:
    """Return the network's blueprint; its digest is of the traced calls and of the weights of one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = NETWORKS[network][0]()
    content = f"{symbolic_trace(model).code}{model}{network_hash(model)}"
    return ClassicBlueprint(network, hashlib.sha256(content.encode()).hexdigest()[:16])


class ClassicNetwork(ImageClassification):
    """One of the NETWORKS on FashionMNIST; 5000 images to search on and 5000 to test on."""

    normalization = NORMALIZATION
    most_samples = SampleCounts(calibration=60000, training=60000, search=SEARCH_IMAGES)
    distillation_batch_size = 128

    def __init__(self, network: str, epochs: int = 2) -> None:
        self.name = f"classic_{network}"
        self.architecture = blueprint(network)
        training = NETWORKS[network][1]
        settings = TrainingSettings(
            seed=SEED,
            epochs=epochs,
            batch_size=128,
            max_learning_rate=training.learning_rate,
            rising_share=0.2,
            weight_decay=5e-4,
            label_smoothing=0.1,
            random_flip=True,
            bfloat16=training.bfloat16,
        )
        super().__init__(settings, SampleCounts(CALIBRATION_SAMPLES, 60000, SEARCH_IMAGES))

    def _load_splits(self) -> ImageSplits:
        return _splits()


@cache
def _splits() -> ImageSplits:
    """Return the data, read once for all networks."""
    return load_fashion_mnist()
