"""A residual network of 0.02 million parameters on scikit-learn's digits: seconds to train, nothing to download."""

import torch
from gulliver.tasks.image_classification import Architecture, ImageClassification, SampleCounts
from gulliver.tasks.labelled_images import ImageSplits, LabelledImages, Normalization, fixed_permutation
from gulliver.tasks.training import TrainingSettings

SPLIT_SEED = 1797
TRAINING_IMAGES = 997
SEARCH_IMAGES = 400


class DigitsCNN(ImageClassification):
    """Handwritten digits, 8x8 in grey, 10 classes; 400 images to search on and 400 to test on."""

    name = "digits_cnn"
    architecture = Architecture(widths=(16, 32), blocks_per_stage=1, stem_stride=1, in_channels=1, classes=10)
    normalization = Normalization(white=16.0, mean=0.3053, standard_deviation=0.3760)
    most_samples = SampleCounts(TRAINING_IMAGES, TRAINING_IMAGES, SEARCH_IMAGES)
    distillation_batch_size = 64

    def __init__(
        self,
        seed: int = 0,
        epochs: int = 12,
        calibration_samples: int = 256,
        training_samples: int = 997,
        search_samples: int = 400,
    ) -> None:
        settings = TrainingSettings(
            seed=seed,
            epochs=epochs,
            batch_size=64,
            max_learning_rate=0.1,
            rising_share=0.2,
            weight_decay=5e-4,
            label_smoothing=0.1,
            random_flip=False,
            bfloat16=False,
        )
        super().__init__(settings, SampleCounts(calibration_samples, training_samples, search_samples))

    def _load_splits(self) -> ImageSplits:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
        data = LabelledImages(images, torch.from_numpy(digits.target).long())
        train, search, test = fixed_permutation(len(data), SPLIT_SEED).tensor_split(
            (TRAINING_IMAGES, TRAINING_IMAGES + SEARCH_IMAGES)
        )
        return ImageSplits(data[train], data[search], data[test])
