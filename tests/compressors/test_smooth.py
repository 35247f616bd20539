import copy

import openvino
import pytest
import torch
from gulliver.compressors.compress import compress, read_original
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.compressors.smooth import smooth, smoothing_scales, smoothings
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe
from torch import fx, nn


class Attentive(nn.Module):
    """Two layers that read one LayerNorm, as queries and keys do, and a pair with a ReLU between."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.left, self.right = nn.Linear(16, 24), nn.Linear(16, 24, bias=False)
        self.up, self.down = nn.Linear(24, 32), nn.Linear(32, 5)

    def forward(self, values):
        values = self.norm(values)
        return self.down(torch.relu(self.up(torch.sigmoid(self.left(values)) * self.right(values))))


class AttentiveTask:
    name = "attentive"
    example_inputs = (torch.zeros(1, 16),)

    def __init__(self):
        torch.manual_seed(0)
        self.model = Attentive().eval()
        with torch.no_grad():
            # A few channels are far from the others, as they are in language models.
            self.model.norm.weight[:3] *= 60
            self.model.norm.bias.uniform_(-1, 1)

    def calibration(self):
        return [(torch.randn(64, 16, generator=torch.Generator().manual_seed(seed)),) for seed in (0, 1)]


@pytest.fixture(scope="module")
def original():
    """Return the network with outlying channels, read once."""
    return read_original(AttentiveTask())


def recipe_of(original, choice, **others):
    return Recipe(dict.fromkeys(original.graph.layers, choice) | others)


def test_scales_are_those_of_the_paper():
    # sqrt(2 / 2), sqrt(16 / 1), sqrt(2 / 2) and sqrt(9 / 1), as in the paper's example (figure 5).
    largest, weights = torch.tensor([2.0, 16, 2, 9]), torch.tensor([[2.0, 1, 2, -1], [1, -1, -1, -1], [-2, -1, -2, 1]])
    torch.testing.assert_close(smoothing_scales(largest, weights, 0.5), torch.tensor([1.0, 4, 1, 3]))
    torch.testing.assert_close(smoothing_scales(largest, weights, 1.0), largest)
    torch.testing.assert_close(smoothing_scales(largest, weights, 0.0), torch.tensor([0.5, 1, 0.5, 1]))


def test_channels_that_are_always_zero_or_never_read_stay_as_they_are():
    scales = smoothing_scales(torch.tensor([0.0, 4.0]), torch.tensor([[9.0, 0.0]]), 0.5)
    assert scales.tolist() == [1.0, 1.0]


def test_outputs_stay_and_inputs_and_weights_meet_halfway(original):
    model, (values,) = original.task.model, original.calibration[0]
    before = copy.deepcopy(model.state_dict())
    traced = smooth(fx.symbolic_trace(model), dict.fromkeys(original.graph.layers, 0.5), original.calibration)
    with torch.no_grad():
        torch.testing.assert_close(traced(values), model(values), rtol=1e-4, atol=1e-4)
        seen = torch.cat([traced.norm(inputs) for (inputs,) in original.calibration]).abs().amax(0)
    columns = torch.cat([traced.left.weight, traced.right.weight]).abs().amax(0).detach()
    torch.testing.assert_close(seen, columns, rtol=1e-4, atol=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_all_that_reads_a_norm_is_smoothed_together_or_not_at_all(original):
    traced = fx.symbolic_trace(original.task.model)
    whole = smoothings(traced, {"left": 0.5, "right": 0.5, "down": 0.7})
    assert {(it.source, it.readers) for it in whole} == {("up", ("down",)), ("norm", ("left", "right"))}
    assert smoothings(traced, {"left": 0.5}) == smoothings(traced, {"left": 0.5, "right": 0.6}) == ()


def test_layers_with_nothing_to_scale_before_them_are_named_and_quantized_all_the_same(original):
    recipe, reasons = original.applicable(recipe_of(original, LayerRecipe(quantize=Quantize(smooth=0.5))))
    assert set(reasons) == {"up"}
    assert reasons["up"] == "not smoothed: no LayerNorm or layer feeds linear layers of this strength alone"
    assert recipe.layers["up"] == LayerRecipe(quantize=Quantize())
    # Of a split layer, the second half reads the first.
    split = recipe_of(original, LayerRecipe(), up=LayerRecipe(None, Decompose(8), Quantize(smooth=0.5)))
    assert original.applicable(split) == (split, {})
    assert compress(original, split)(original.calibration[0][0]).isfinite().all()


def test_outlying_channels_cost_less_where_they_are_smoothed(original):
    def error(share):
        model = compress(original, recipe_of(original, LayerRecipe(quantize=Quantize(8, 6, smooth=share))))
        pairs = zip(original.calibration, original.outputs, strict=True)
        with torch.no_grad():
            return sum((model(*inputs) - wanted).square().sum() for inputs, wanted in pairs).item()

    assert error(0.5) < error(None)


def test_what_is_smoothed_is_exported_as_it_is_simulated(original, tmp_path):
    model = compress(original, recipe_of(original, LayerRecipe(quantize=Quantize(smooth=0.5))))
    (inputs,) = original.calibration[0]
    save_openvino(to_openvino(model, (inputs,), 64), tmp_path / "network.xml", half=False)
    compiled = openvino.Core().compile_model(tmp_path / "network.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        wanted = model(inputs)
    steps = 255 * (torch.from_numpy(compiled([inputs.numpy()])[0]) - wanted).abs() / wanted.abs().max()
    # A tie that is broken the other way moves an output by about a step; few outputs may move at all.
    assert steps.max() <= 3
    assert steps.median() <= 0.05
