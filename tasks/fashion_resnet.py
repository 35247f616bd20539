"""A residual network of 0.26 million parameters on FashionMNIST."""

from gulliver.tasks.fashion_mnist import NORMALIZATION, SEARCH_IMAGES, load_fashion_mnist
from gulliver.tasks.image_classification import Architecture, ImageClassification, SampleCounts
from gulliver.tasks.labelled_images import ImageSplits
from gulliver.tasks.training import TrainingSettings


class FashionResNet(ImageClassification):
    """FashionMNIST, 28x28 in grey, 10 classes; 5000 images to search on and 5000 to test on."""

    name = "fashion_resnet"
    architecture = Architecture(widths=(32, 64), blocks_per_stage=3, stem_stride=2, in_channels=1, classes=10)
    normalization = NORMALIZATION
    most_samples = SampleCounts(calibration=60000, training=60000, search=SEARCH_IMAGES)
    distillation_batch_size = 128

    def __init__(
        self,
        seed: int = 0,
        epochs: int = 3,
        calibration_samples: int = 512,
        training_samples: int = 60000,
        search_samples: int = 5000,
    ) -> None:
        settings = TrainingSettings(
            seed=seed,
            epochs=epochs,
            batch_size=128,
            max_learning_rate=0.15,
            rising_share=0.2,
            weight_decay=5e-4,
            label_smoothing=0.1,
            random_flip=True,
            bfloat16=True,
        )
        super().__init__(settings, SampleCounts(calibration_samples, training_samples, search_samples))

    def _load_splits(self) -> ImageSplits:
        return load_fashion_mnist()
