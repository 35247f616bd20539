"""Classic networks without residual additions, at the scale of 28x28 grey images in 10 classes."""

from torch import nn

from benchmarks.amct.networks.blocks import CLASSES, Classifier, ConvNormActivation, Joined


def alexnet() -> nn.Module:
    """Large kernels, three linear layers: Krizhevsky et al., "ImageNet Classification", 2012, with batch norms."""
    return nn.Sequential(
        *(ConvNormActivation(1, 32, 5, 2), nn.MaxPool2d(2)),
        *(ConvNormActivation(32, 64, 5), ConvNormActivation(64, 96, 3), ConvNormActivation(96, 64, 3)),
        nn.MaxPool2d(2),
        *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64 * 3 * 3, 256), nn.ReLU()),
        *(nn.Dropout(0.1), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    )


def vgg() -> nn.Module:
    """Nothing but 3x3 convolutions: Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015."""
    return nn.Sequential(
        ConvNormActivation(1, 32, 3, 2),
        ConvNormActivation(32, 48, 3),
        nn.MaxPool2d(2),
        ConvNormActivation(48, 96, 3),
        ConvNormActivation(96, 96, 3),
        nn.MaxPool2d(2),
        ConvNormActivation(96, 160, 3),
        ConvNormActivation(160, 160, 3),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(160, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    )


def nin() -> nn.Module:
    """1x1 convolutions behind each other one, classes by averages: Lin et al., "Network In Network", 2014."""
    return nn.Sequential(
        *(ConvNormActivation(1, 64, 5, 2), ConvNormActivation(64, 48, 1)),
        nn.MaxPool2d(2),
        *(ConvNormActivation(48, 96, 3), ConvNormActivation(96, 96, 1), ConvNormActivation(96, 96, 1)),
        nn.MaxPool2d(2),
        *(ConvNormActivation(96, 192, 3), ConvNormActivation(192, 192, 1), nn.Conv2d(192, CLASSES, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def _fire(in_channels: int, squeezed: int, expanded: int) -> nn.Module:
    branches = Joined(ConvNormActivation(squeezed, expanded, 1), ConvNormActivation(squeezed, expanded, 3))
    return nn.Sequential(ConvNormActivation(in_channels, squeezed, 1), branches)


def squeezenet() -> nn.Module:
    """Fire modules: Iandola et al., "SqueezeNet", 2016, with batch norms."""
    return nn.Sequential(
        *(ConvNormActivation(1, 48, 3, 2), nn.MaxPool2d(2)),
        *(_fire(48, 32, 64), _fire(128, 32, 64), _fire(128, 48, 96)),
        nn.MaxPool2d(2),
        *(_fire(192, 64, 128), _fire(256, 64, 128), nn.Conv2d(256, CLASSES, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def _inception(in_channels: int, direct: int, middle: int, wide: int) -> nn.Module:
    """Return four branches of `direct`, 2 `middle`, `wide` and `direct` channels."""
    return Joined(
        ConvNormActivation(in_channels, direct, 1),
        nn.Sequential(ConvNormActivation(in_channels, middle, 1), ConvNormActivation(middle, 2 * middle, 3)),
        nn.Sequential(ConvNormActivation(in_channels, 16, 1), ConvNormActivation(16, wide, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNormActivation(in_channels, direct, 1)),
    )


def inception() -> nn.Module:
    """Kernels of several sizes side by side: Szegedy et al., "Going Deeper with Convolutions", 2015."""
    return nn.Sequential(
        *(ConvNormActivation(1, 48, 3, 2), nn.MaxPool2d(2)),
        *(_inception(48, 32, 32, 32), _inception(160, 48, 48, 32)),
        nn.MaxPool2d(2),
        *(_inception(224, 64, 64, 64), Classifier(320)),
    )
