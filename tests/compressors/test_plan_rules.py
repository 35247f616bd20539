"""Which networks and recipes are no candidates put together from parts, and that `compress` makes these."""

import pytest
import torch
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import compress, read_original
from gulliver.spaces.recipe import Decompose, Finetune, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.tasks.errors import InputError
from torch import fx, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, images):
        return self.conv(torch.relu(self.conv(self.stem(images)))).mean((2, 3))


class WritesWhatIsRead(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, images):
        features = self.stem(images)
        return (self.conv(torch.relu_(features)) + features).mean((2, 3))


class WritesBesideAReader(WritesWhatIsRead):
    def forward(self, images):
        features = self.stem(images)
        return (self.conv(nn.functional.relu(features, inplace=True)) + features).mean((2, 3))


class WritesByMethod(WritesWhatIsRead):
    def forward(self, images):
        return self.conv(self.stem(images).relu_()).mean((2, 3))


class AnyNumber(WritesWhatIsRead):
    def forward(self, *images):
        return self.conv(torch.relu(self.stem(images[0]))).mean((2, 3))


class NormTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, images):
        return self.second(self.first(self.conv(images))).mean((2, 3))


class OwnNorm(nn.GroupNorm):
    def forward(self, images):
        return 2 * super().forward(images)


class NoStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8)
        self.join = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, images):
        return self.norm(self.join(torch.relu(self.conv(images)))).mean((2, 3))


class CountsChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

    def forward(self, images):
        features = torch.relu(self.conv(images)).view(-1, self.linear.in_features, 144)
        return self.linear(features.mean(-1))


class ReadsWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)

    def forward(self, images):
        features = self.linear(torch.relu(self.conv(images)).mean((2, 3)))
        return nn.functional.linear(features, self.linear.weight)


REFUSED = {
    CountsChannels: "its calls depend on how many channels its layers have",
    CalledTwice: "conv is called 2 times",
    WritesWhatIsRead: "relu_ writes in place",
    WritesByMethod: "relu_ writes in place",
    AnyNumber: "_images takes any number of inputs",
    WritesBesideAReader: "relu writes in place what is read elsewhere",
    NormTwice: "second is folded into what is itself folded",
    NoStatistics: "join keeps no statistics",
}


@pytest.mark.parametrize("network", REFUSED)
def test_a_network_that_cannot_be_put_together_is_compressed(network, images_of, outputs, precisions, network_task):
    original = read_original(network_task(network()))
    candidates, recipe = Candidates(original), precisions(original)
    assert candidates.refusal(recipe) == REFUSED[network]
    compressed, inputs = candidates.network(recipe), images_of(4, seed=6)
    assert isinstance(compressed, fx.GraphModule)
    assert torch.equal(outputs(compressed, inputs), outputs(compress(original, recipe), inputs))


def test_a_layer_that_does_or_gives_more_than_its_kind_is_compressed(precisions, network_task):
    class Own(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv, self.linear = conv, nn.Linear(8, 5)

        def forward(self, images):
            return self.linear(self.conv(images).mean((2, 3)))

    derived, hooked = Own(nn.Conv2d(3, 8, 1)), Own(nn.Conv2d(3, 8, 1))
    derived.linear = NonDynamicallyQuantizableLinear(8, 5)
    hooked.conv.register_forward_hook(lambda module, inputs, output: 2 * output)
    for network, reason in (
        (Own(nn.Sequential(nn.Conv2d(3, 8, 1), OwnNorm(1, 8))), "conv.1 is not called as one module"),
        (derived, "linear is a NonDynamicallyQuantizableLinear, which may do more than the layer that it derives from"),
        (hooked, "conv has hooks"),
        (ReadsWeights(), "linear.weight is read beside its module"),
    ):
        original = read_original(network_task(network))
        assert Candidates(original).refusal(precisions(original)) == reason


def test_a_recipe_that_is_finetuned_is_compressed(originals, precisions):
    original = originals["residual"]
    recipe = Recipe(precisions(original).layers, Finetune(1))
    candidates = Candidates(original)
    assert candidates.refusal(recipe) == "the recipe is fine-tuned"
    with pytest.raises(InputError, match=r"must have `training\(epoch\)`"):
        candidates.network(recipe)


# Each with a layer where it makes a difference.
SPECIAL = (
    ("pointwise", Sparsify(0.5, criterion="taylor")),
    ("strided", Sparsify(0.5, reconstruct=True)),
    ("pointwise", Sparsify(0.5, "2:4")),
    ("dilated", Decompose(4, "tucker2", 3)),
    ("dilated", Decompose(4, data_aware=True)),
    ("strided", Quantize(symmetric=False)),
    ("dilated", Quantize(weight_scales="mse")),
    ("linear1", Quantize(group_size=16)),
    ("dilated", Quantize(rounding="gptq")),
    ("dilated", Quantize(equalize=True)),
    ("dilated", Quantize(correct_bias=True)),
)


@pytest.mark.parametrize(("name", "choice"), SPECIAL, ids=str)
def test_a_recipe_that_is_not_plain_is_compressed(name, choice, originals, images_of, outputs, precisions):
    original = originals["convolutions"]
    candidates, slot = Candidates(original), type(choice).__name__.lower()
    layers = dict(precisions(original, (8, 6)).layers)
    plain = Recipe(layers | {name: LayerRecipe(**{slot: type(choice)(next(iter(vars(choice).values())))})})
    recipe = Recipe(layers | {name: LayerRecipe(**{slot: choice})})
    assert candidates.refusal(plain) is None
    words = f"{name} asks for more than a ratio, a rank of a kind and bits with a calibrator"
    assert candidates.refusal(recipe) == f"{words}: {choice}"
    network, inputs = candidates.network(recipe), images_of(4, seed=3)
    assert isinstance(network, fx.GraphModule)
    assert torch.equal(outputs(network, inputs), outputs(compress(original, recipe), inputs))
    assert not torch.equal(outputs(network, inputs), outputs(candidates.network(plain), inputs))


class Pooled(nn.Module):
    """A layer that reads values, and one that reads the largest of them."""

    def __init__(self):
        super().__init__()
        self.first, self.fine, self.coarse = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 1)

    def forward(self, images):
        values = self.first(images)
        return self.fine(values) + self.coarse(nn.functional.max_pool2d(values, 3, 2))


def test_where_pooled_values_share_a_calibrated_range_with_others_a_recipe_is_compressed(precisions, network_task):
    original = read_original(network_task(Pooled()))
    candidates = Candidates(original)
    assert candidates.refusal(precisions(original, (8, 8))) is None
    recipe = precisions(original, (8, 8, "mse"))
    assert "may share a calibrated range" in candidates.refusal(recipe)
    assert isinstance(candidates.network(recipe), fx.GraphModule)
