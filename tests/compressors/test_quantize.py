import operator

import numpy as np
import pytest
import torch
from gulliver.compressors.compress import compress
from gulliver.compressors.quantize import QuantizedActivation, QuantizedLayer, quantize
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe
from gulliver.tasks.errors import InputError
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
    quantized = QuantizedLayer(layer, Quantize(bits))
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


def test_the_range_is_the_one_that_the_calibrator_chooses():
    values = torch.randn(40960, 1, generator=torch.Generator().manual_seed(0)).abs()
    values[0] = 40
    scales = {}
    for calibrator in ("min_max", "percentile", "entropy", "mse"):
        recipe = Recipe({"0": LayerRecipe(quantize=Quantize(8, 4, calibrator))})
        model = quantize(nn.Sequential(nn.Linear(1, 1)), recipe, [(values[:20480],), (values[20480:],)])
        scales[calibrator] = roundings(model)["rounded_input_1"].scale
    assert scales["min_max"] == pytest.approx(40 / 15)
    assert scales["percentile"] == pytest.approx(values.quantile(1 - 1e-4).item() / 15, rel=0.02)
    assert scales["mse"] < scales["min_max"] / 3
    assert scales["entropy"] < scales["min_max"] / 3


@pytest.mark.parametrize("bits", [4, 8])
def test_activations_with_a_zero_point_are_rounded_as_by_hand(bits):
    quantizer = QuantizedActivation(-0.5, 2.0, bits, symmetric=False)
    scale = 2.5 / (2**bits - 1)
    zero_point = round(0.5 / scale)
    values = torch.linspace(-1, 3, 997)
    wanted = (np.clip(np.rint(values.numpy() / scale) + zero_point, 0, 2**bits - 1) - zero_point) * scale
    np.testing.assert_allclose(quantizer(values), wanted, atol=1e-5)


def test_scales_of_least_squared_error_are_the_best_of_a_fine_search():
    layer = nn.Linear(64, 4)
    rows = layer.weight.detach()
    rows[0, 0] = 1.0
    quantized = QuantizedLayer(layer, Quantize(4, weight_scales="mse"))

    def error(row, scale):
        return ((row / scale).round().clamp(-7, 7) * scale - row).square().sum().item()

    for row, scale in zip(rows, quantized.scales, strict=True):
        largest = row.abs().max().item() / 7
        best = min(error(row, largest * share) for share in np.linspace(0.2, 1, 400))
        assert error(row, scale.item()) == pytest.approx(best, rel=0.03)
        assert error(row, scale.item()) <= error(row, largest)


def test_weights_in_groups_have_a_scale_each_and_inputs_that_stay_as_they_are():
    layer = nn.Linear(8, 3)
    recipe = Recipe({"0": LayerRecipe(quantize=Quantize(4, 8, group_size=4))})
    weight = layer.weight.detach().numpy().reshape(6, 4)
    scales = np.abs(weight).max(1, keepdims=True) / 7
    wanted = torch.from_numpy(rounded(weight, scales, -7, 7).reshape(3, 8))
    model = quantize(nn.Sequential(layer), recipe, [(torch.rand(4, 8),)])
    inputs = torch.randn(5, 8)
    assert not roundings(model)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), inputs @ wanted.T + layer.bias)


def test_groups_with_zero_points_have_all_levels_from_their_least_to_their_greatest_weight_or_zero():
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.2, 0.57, 1.3, 0.04], [0.3, 0.9, 1.5, 0.61]]))
    choice = LayerRecipe(quantize=Quantize(4, 8, group_size=4, symmetric_weights=False))
    model = quantize(nn.Sequential(layer), Recipe({"0": choice}), [(torch.rand(4, 4),)])
    # Both in steps of 0.1: 15 from -0.2 to 1.3, and 15 from 0 to 1.5; level -8 stands for the least.
    torch.testing.assert_close(model.get_submodule("0").scales, torch.tensor([0.1, 0.1]))
    assert model.get_submodule("0").zero_points.tolist() == [-6, -8]
    wanted = torch.tensor([[-0.2, 0.6, 1.3, 0.0], [0.3, 0.9, 1.5, 0.6]])
    torch.testing.assert_close(model(torch.eye(4)).T.detach(), wanted)


def test_a_layer_not_per_channel_has_one_scale_that_its_largest_weight_decides():
    layer = nn.Conv2d(2, 3, 3)
    choice = LayerRecipe(quantize=Quantize(4, 8, per_channel=False))
    model = quantize(nn.Sequential(layer), Recipe({"0": choice}), [(torch.rand(2, 2, 5, 5),)])
    largest = layer.weight.abs().max().item()
    torch.testing.assert_close(model.get_submodule("0").scales, torch.full((3,), largest / 7))


@pytest.mark.parametrize("layer", [nn.Linear(6, 3), nn.Conv2d(4, 4, 1)])
def test_weights_that_cannot_be_grouped_are_refused_by_name(layer):
    recipe = Recipe({"0": LayerRecipe(quantize=Quantize(4, 8, group_size=4))})
    inputs = torch.rand(2, 6) if isinstance(layer, nn.Linear) else torch.rand(2, 4, 3, 3)
    with pytest.raises(InputError, match=r"^`group_size` must divide the inputs of a Linear layer, but 0 is .*=4$"):
        quantize(nn.Sequential(layer), recipe, [(inputs,)])


def test_corrected_biases_give_the_mean_outputs_of_the_exact_network(originals):
    original = originals["residual"]
    choice = LayerRecipe(quantize=Quantize(3, 4, correct_bias=True))
    recipe = Recipe(dict.fromkeys(original.graph.layers, choice))
    before = original.task.model.linear.bias.clone()

    def means(model):
        with torch.no_grad():
            return torch.cat([model(*inputs) for inputs in original.calibration]).mean(0)

    wanted = means(original.task.model)
    torch.testing.assert_close(means(compress(original, recipe)), wanted, rtol=0, atol=1e-4)
    plain = Recipe(dict.fromkeys(original.graph.layers, LayerRecipe(quantize=Quantize(3, 4))))
    assert (means(compress(original, plain)) - wanted).abs().max() > 0.01
    assert torch.equal(original.task.model.linear.bias, before)


@pytest.mark.parametrize(
    "choice", [{}, {"per_channel": False}, {"group_size": 8}, {"group_size": 8, "symmetric_weights": False}], ids=str
)
@pytest.mark.parametrize("by_inputs", ["gptq", "adaround"])
def test_rounding_by_what_is_read_gives_outputs_nearer_to_the_exact_ones(by_inputs, choice):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 16)).eval()
    inputs = torch.randn(200, 32) @ torch.randn(32, 32) + 1
    before = network[0].weight.clone()

    def distance(rounding):
        layer = LayerRecipe(quantize=Quantize(3, 16, rounding=rounding, **choice))
        model = quantize(network, Recipe({"0": layer}), [(inputs,)])
        with torch.no_grad():
            return (model(inputs) - network(inputs)).square().sum()

    assert distance(by_inputs) < distance("nearest")
    assert torch.equal(network[0].weight, before)


def test_grouped_and_depthwise_convolutions_are_rounded_in_order_too(originals):
    original = originals["convolutions"]

    def distance(rounding):
        choice = LayerRecipe(quantize=Quantize(3, 16, rounding=rounding))
        model = compress(original, Recipe(dict.fromkeys(original.graph.layers, choice)))
        with torch.no_grad():
            pairs = zip(original.calibration, original.outputs, strict=True)
            return sum((model(*inputs) - outputs).square().sum() for inputs, outputs in pairs)

    assert distance("gptq") < distance("nearest")
