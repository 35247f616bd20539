import operator

import numpy as np
import pytest
import torch
from gulliver.compressors.compress import compress
from gulliver.compressors.quantize import QuantizedActivation, QuantizedLayer, quantize
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe
from torch import nn


def rounded(values, scale, lowest, highest):
    """Round as the whitepaper says: to the nearest level, ties to even, clipped to the levels."""
    return np.clip(np.rint(values / scale), lowest, highest) * scale


def roundings(model):
    return {name: it for name, it in model.named_modules() if isinstance(it, QuantizedActivation)}


def recipe_of(graph, **choices):
    return Recipe({name: choices.get(name.replace(".", "_"), LayerRecipe()) for name in graph.layers})


INT8 = LayerRecipe(quantize=Quantize())


@pytest.mark.parametrize("bits", [4, 5, 8, 12])
@pytest.mark.parametrize(("lowest", "highest"), [(0.0, 3.0), (-1.0, 3.0), (-3.0, 1.0), (-2.0, -1.0)])
def test_activations_are_rounded_as_by_hand(lowest, highest, bits):
    quantizer = QuantizedActivation(lowest, highest, bits)
    signed = lowest < 0
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = max(highest / high, lowest / low if signed else 0)
    values = torch.linspace(1.5 * min(lowest, 0) - 0.1, 1.5 * max(highest, 0) + 0.1, 997, dtype=torch.float32)
    np.testing.assert_allclose(quantizer(values), rounded(values.numpy(), scale, low, high), atol=1e-5)
    assert len(quantizer(torch.linspace(-9, 9, 100_000)).unique()) == 2**bits


def test_the_extremes_of_the_range_are_kept():
    for lowest, highest in [(0.0, 5.1), (-1.28, 1.27), (-4.0, 1.0), (-1.0, 4.0)]:
        values = torch.tensor([lowest, highest])
        quantizer = QuantizedActivation(lowest, highest, 8)
        torch.testing.assert_close(quantizer(values), values, rtol=0, atol=0.5 * quantizer.scale)
        assert quantizer.scale * 2**8 <= (highest - min(lowest, 0)) * 2.01


def test_ties_go_to_the_even_level_and_zero_stays_zero():
    quantizer = QuantizedActivation(0.0, 255.0, 8)
    assert quantizer.scale == 1
    given = torch.tensor([0.0, 0.5, 1.5, 2.5, 254.5, 300.0, -3.0])
    assert quantizer(given).tolist() == [0, 0, 2, 2, 254, 255, 0]


def test_a_tensor_that_is_always_zero_stays_so():
    assert QuantizedActivation(0.0, 0.0, 8)(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), (2, 3, 9, 9)),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=2), (2, 4, 9, 9)),
        (nn.Conv1d(3, 5, 3), (2, 3, 9)),
        (nn.Linear(6, 5), (2, 6)),
    ],
)
def test_weights_are_rounded_as_by_hand_each_output_channel_at_its_own_scale(layer, shape, bits):
    weight = layer.weight.detach().numpy()
    highest = 2 ** (bits - 1) - 1
    scales = np.abs(weight.reshape(len(weight), -1)).max(1) / highest
    wanted = rounded(weight, scales.reshape(-1, *[1] * (weight.ndim - 1)), -highest, highest)
    quantized = QuantizedLayer(layer, bits)
    np.testing.assert_allclose(quantized.scales, scales, rtol=1e-6)
    inputs = torch.randn(shape)
    with torch.no_grad():
        given = quantized(inputs)
        layer.weight.copy_(torch.from_numpy(wanted))
        torch.testing.assert_close(given, layer(inputs), rtol=1e-4, atol=1e-5)


def test_a_whole_layer_by_hand():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.27, 0.004], [-0.5, 0.254]]))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    model = quantize(nn.Sequential(layer), Recipe({"0": INT8}), [(torch.tensor([[0.0, 2.55]]),)])
    # Inputs in steps of 0.01; weights in steps of 1.27/127 = 0.01 and 0.5/127.
    wanted = [1.0 * 1.27 + 0.51 * 0.0 + 1, -0.5 * 1.0 + 65 * 0.5 / 127 * 0.51 - 1]
    torch.testing.assert_close(model(torch.tensor([[1.003, 0.511]])), torch.tensor([wanted]))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, images):
        stem = torch.relu(self.stem(images))
        return self.left(stem) + torch.sigmoid(self.right(stem)) + stem


def test_a_tensor_that_feeds_two_quantized_layers_is_rounded_once_with_the_wider_bits():
    recipe = Recipe({"stem": LayerRecipe(), "left": INT8, "right": LayerRecipe(quantize=Quantize(8, 12))})
    model = quantize(Branches().eval(), recipe, [(torch.rand(2, 3, 4, 4),)])
    assert list(roundings(model)) == ["rounded_relu"]
    assert roundings(model)["rounded_relu"].highest_level == 4095
    readers = {node.name for node in model.graph.nodes if "rounded_relu" in map(str, node.all_input_nodes)}
    assert readers == {"left", "right", "add_1"}


def test_what_is_no_layer_and_no_addition_takes_the_tensor_as_it_was():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, images):
            stem = torch.relu(self.stem(images))
            return self.left(stem), torch.sigmoid(stem)

    network = Pooled().eval()
    images = torch.rand(2, 3, 4, 4)
    model = quantize(network, Recipe({"stem": LayerRecipe(), "left": INT8}), [(images,)])
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1], network(images)[1], rtol=0, atol=0)
        assert not torch.equal(model(images)[0], network(images)[0])


def test_a_residual_addition_takes_the_rounded_tensor_through_an_identity_too(originals):
    original = originals["residual"]
    recipe = recipe_of(original.graph, block1_conv1=INT8)
    model = compress(original, recipe)
    addition = next(node for node in model.graph.nodes if node.name == "add")
    assert [str(node) for node in addition.all_input_nodes] == ["block1_conv2", "rounded_relu"]


@pytest.mark.parametrize("add", [torch.add, operator.iadd, lambda first, second: first.add(second)])
def test_every_way_to_add_takes_the_rounded_tensor(add):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, images):
            return add(self.conv(images), images)

    model = quantize(Sum().eval(), Recipe({"conv": INT8}), [(torch.rand(1, 3, 4, 4),)])
    addition = next(node for node in model.graph.nodes if node.name.strip("_1").endswith("add"))
    assert [str(node) for node in addition.all_input_nodes] == ["conv", "rounded_images"]


def test_mixed_precision_rounds_the_chosen_layers_only(originals):
    original = originals["convolutions"]
    recipe = recipe_of(original.graph, dilated=INT8, linear2=LayerRecipe(quantize=Quantize(4, 8)))
    model = compress(original, recipe)
    quantized = {name: it.highest_level for name, it in model.named_modules() if isinstance(it, QuantizedLayer)}
    assert quantized == {"dilated": 127, "linear2": 7}
    assert len(roundings(model)) == 2
    for name in ("strided", "depthwise", "pointwise", "linear1"):
        assert isinstance(model.get_submodule(name), nn.Conv2d | nn.Linear)


def test_both_halves_of_a_split_layer_are_quantized(originals):
    original = originals["convolutions"]
    recipe = recipe_of(original.graph, dilated=LayerRecipe(None, Decompose(8), Quantize(4, 8)))
    model = compress(original, recipe)
    quantized = {name: it.highest_level for name, it in model.named_modules() if isinstance(it, QuantizedLayer)}
    assert quantized == {"dilated.0": 7, "dilated.1": 7}
    assert list(roundings(model)) == ["rounded_relu", "rounded_dilated_0"]


def test_ranges_are_the_extremes_of_all_calibration_inputs():
    model = quantize(
        nn.Sequential(nn.Linear(2, 2)),
        Recipe({"0": INT8}),
        [(torch.tensor([[0.5, -1.0]]),), (torch.tensor([[2.54, 0.1]]),), (torch.tensor([[0.0, 0.0]]),)],
    )
    assert roundings(model)["rounded_input_1"].scale == pytest.approx(0.02)


def test_a_layer_that_is_called_twice_is_quantized_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, values):
            return self.linear(torch.relu(self.linear(values)))

    model = quantize(Twice().eval(), Recipe({"linear": INT8}), [(torch.randn(8, 4),)])
    assert isinstance(model.linear.layer, nn.Linear)
    assert len(roundings(model)) == 2


def test_a_network_with_nothing_to_quantize_gives_what_it_gave(originals, images_of):
    original = originals["residual"]
    inputs = images_of(4, seed=3)
    with torch.no_grad():
        given = compress(original, recipe_of(original.graph))(inputs)
        torch.testing.assert_close(given, original.task.model(inputs), rtol=1e-4, atol=1e-5)
