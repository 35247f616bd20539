import copy

import openvino
import pytest
import torch
from gulliver.compressors.compress import compress, read_original
from gulliver.compressors.export import to_openvino
from gulliver.compressors.learned_steps import LearnedActivation, LearnedLayer, learned_steps
from gulliver.compressors.quantize import QuantizedActivation, QuantizedLayer
from gulliver.spaces.recipe import Finetune, LayerRecipe, Quantize, Recipe, Sparsify
from torch import nn


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("lowest", [0.0, -1.0])
def test_what_is_trained_rounds_activations_as_what_is_exported(lowest, symmetric):
    quantizer = QuantizedActivation(lowest, 2.0, 4, symmetric)
    values = 2 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(LearnedActivation(quantizer)(values).detach(), quantizer(values))


@pytest.mark.parametrize(
    ("layer", "shape", "choice"),
    [
        (nn.Conv2d(3, 5, 3), (2, 3, 7, 7), {}),
        (nn.Conv2d(3, 5, 3), (2, 3, 7, 7), {"per_channel": False}),
        (nn.Linear(8, 5), (2, 8), {}),
        (nn.Linear(8, 5), (2, 8), {"group_size": 4}),
        (nn.Linear(8, 5), (2, 8), {"group_size": 4, "symmetric_weights": False}),
    ],
)
def test_what_is_trained_rounds_weights_as_what_is_exported(layer, shape, choice):
    quantized = QuantizedLayer(layer, Quantize(3, weight_scales="mse", **choice))
    inputs = torch.randn(shape)
    torch.testing.assert_close(LearnedLayer(quantized)(inputs), quantized(inputs), rtol=1e-4, atol=1e-5)


def test_a_steps_gradient_is_that_of_the_paper():
    # Equation 3, for levels from 0 to 15 and a step of 0.5: -v/s + round(v/s) inside, the last level beyond.
    quantizer = QuantizedActivation(0.0, 7.5, 4)
    learned = LearnedActivation(quantizer)
    values = torch.tensor([[0.6, 1.7, -3.0, 100.0]], requires_grad=True)
    learned(values).sum().backward()
    by_hand = (-1.2 + 1) + (-3.4 + 3) + 0 + 15
    assert learned.step.grad.item() == pytest.approx(by_hand / (4 * 15) ** 0.5, rel=1e-5)
    assert values.grad.tolist() == [[1, 1, 0, 0]]  # equation 5


def test_each_row_of_weights_learns_a_step_of_its_own():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.7, 0.24], [1.4, 0.1]]))
    learned = LearnedLayer(QuantizedLayer(layer, Quantize(4)))
    learned(torch.ones(1, 2)).sum().backward()
    # Steps of 0.1 and 0.2: 0.7 and 1.4 are at their levels, 0.24 is 0.4 of a step too high, 0.1 half a step (to even).
    by_hand = torch.tensor([-0.4, -0.5]) / (2 * 7) ** 0.5
    torch.testing.assert_close(learned.steps.grad, by_hand, rtol=1e-4, atol=1e-5)


class LearningTask:
    """One of the small tasks, with training inputs."""

    def __init__(self, task, images):
        self.name, self.model, self.example_inputs, self.calibration = (
            "t",
            task.model,
            task.example_inputs,
            task.calibration,
        )
        self.images = images

    def training(self, epoch):
        return [(self.images(16, seed=100 * epoch + step),) for step in range(20)]


@pytest.fixture(scope="module")
def learning(originals, images_of):
    return read_original(LearningTask(originals["residual"].task, images_of))


def recipe_of(original, choice, finetune=None):
    return Recipe(dict.fromkeys(original.graph.layers, LayerRecipe(quantize=choice)), finetune)


LEARNING = Finetune(epochs=2, learning_rate=0.1, temperature=1.0, quantization_aware=True)


def test_learned_rounding_is_nearer_to_the_original_and_exported_as_it_is_simulated(learning, images_of, capfd):
    inputs = images_of(16, seed=5)

    def distance(model):
        with torch.no_grad():
            given, wanted = model(inputs).log_softmax(-1), learning.task.model(inputs).log_softmax(-1)
        return nn.functional.kl_div(given, wanted, log_target=True, reduction="batchmean").item()

    choice = Quantize(3, 4)
    learned = compress(learning, recipe_of(learning, choice, LEARNING))
    assert distance(learned) < 0.7 * distance(compress(learning, recipe_of(learning, choice)))
    assert not learned.training
    assert not any(isinstance(it, LearnedActivation | LearnedLayer) for it in learned.modules())
    compiled = openvino.Core().compile_model(
        to_openvino(learned, learning.task.example_inputs, 16), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    with torch.no_grad():
        wanted = learned(inputs)
    steps = 15 * (torch.from_numpy(compiled([inputs.numpy()])[0].copy()) - wanted).abs() / wanted.abs().max()
    assert steps.max() <= 3
    assert steps.median() <= 0.05


def test_what_is_learned_stays_in_the_scales_and_nothing_else_changes(learning):
    model = compress(learning, recipe_of(learning, Quantize(4, 4)))
    before = copy.deepcopy(model)
    with learned_steps(model):
        for module in model.modules():
            if isinstance(module, LearnedActivation):
                module.step.data.mul_(2)
            elif isinstance(module, LearnedLayer):
                module.steps.data.mul_(3)
    for name, module in before.named_modules():
        after = model.get_submodule(name)
        if isinstance(module, QuantizedActivation):
            assert after.scale == pytest.approx(2 * module.scale)
        elif isinstance(module, QuantizedLayer):
            torch.testing.assert_close(after.scales, 3 * module.scales)
            assert torch.equal(after.layer.weight, module.layer.weight)


def test_a_thinned_network_learns_before_it_is_rounded_and_after(learning, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "gulliver.compressors.compress.finetune", lambda student, task, settings, *rest, **others: seen.append(settings)
    )
    plain = recipe_of(learning, Quantize(), LEARNING)
    compress(learning, plain)
    assert [it.learning_rate for it in seen] == [pytest.approx(0.01)]
    thinner = Recipe({**plain.layers, "block1.conv1": LayerRecipe(Sparsify(0.5), None, Quantize())}, LEARNING)
    compress(learning, thinner)
    assert [it.learning_rate for it in seen[1:]] == [0.1, pytest.approx(0.01)]
