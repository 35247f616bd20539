"""A wider residual network, of 1.2 million parameters, on FashionMNIST."""

from gulliver.tasks.fashion_resnet import FashionResNet
from gulliver.tasks.image_classification import Architecture


class FashionWideResNet(FashionResNet):
    """The data of FashionResNet for a network of up to 256 channels and half the depth."""

    name = "fashion_wide_resnet"
    architecture = Architecture(widths=(64, 128, 256), blocks_per_stage=1, stem_stride=2, in_channels=1, classes=10)

    def __init__(
        self,
        seed: int = 0,
        epochs: int = 2,
        calibration_samples: int = 512,
        training_samples: int = 60000,
        search_samples: int = 5000,
    ) -> None:
        super().__init__(seed, epochs, calibration_samples, training_samples, search_samples)
