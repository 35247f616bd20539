import copy
from dataclasses import dataclass, field

import pytest
import torch
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import compress, read_original
from gulliver.compressors.decompose import split_layer
from gulliver.evaluators import taylor
from gulliver.evaluators.divergence import kl_divergence, mean_divergence
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.taylor import TaylorLoss
from gulliver.spaces.recipe import (
    CALIBRATORS,
    DECOMPOSITIONS,
    IN_FOURS,
    Decompose,
    LayerRecipe,
    Quantize,
    Recipe,
    Sparsify,
)
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from scipy.stats import spearmanr
from torch import nn

SAMPLES = 4000
ROUNDED = LayerRecipe(quantize=Quantize(5, 16))
SMALL = {
    "weights of 5 bits": {"last": ROUNDED},
    "activations of 4 bits": {"last": LayerRecipe(quantize=Quantize(8, 4))},
    "activations of 4 bits, clipped": {"last": LayerRecipe(quantize=Quantize(8, 4, "mse"))},
    "rank 3 of 4": {"last": LayerRecipe(decompose=Decompose(3))},
    "rank and bits": {"last": LayerRecipe(decompose=Decompose(3), quantize=Quantize(8, 16))},
    "a channel removed": {"first": LayerRecipe(sparsify=Sparsify(0.125))},
    "a channel and bits": {"first": LayerRecipe(sparsify=Sparsify(0.125)), "last": ROUNDED},
}


def taylor_losses(original, recipes, samples):
    return [*map(TaylorLoss(original, samples), recipes)]


class Classifier(nn.Module):
    """Two linear layers on the last dimension; the last channels of the hidden ones hardly matter."""

    def __init__(self, activation=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
        self.activation = activation or nn.ReLU()
        with torch.no_grad():
            for weight, dimension in ((self.first.weight, 0), (self.last.weight, 1)):
                weight.mul_(torch.tensor([3.0] * 6 + [0.3] * 2).unsqueeze(1 - dimension))

    def forward(self, values):
        return self.last(self.activation(self.first(values)))


@dataclass
class GivenTask:
    model: nn.Module
    inputs: list
    name: str = "given"
    example_inputs: tuple = field(init=False)

    def __post_init__(self):
        self.model.eval()
        self.example_inputs = (self.inputs[0][:1],)

    def calibration(self):
        return [(values,) for values in self.inputs]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def original_of(model, *inputs):
    return read_original(GivenTask(model, list(inputs)))


def recipe_of(original, layers):
    return Recipe({name: layers.get(name, LayerRecipe()) for name in original.graph.layers})


def expected_loss(logits, difference):
    """Return 1/2 d F d of each sample, F the Fisher information of its softmax, and the deviation of its estimate.

    The gradient of the log-likelihood of label y is e_y - p, so its product with d is d_y less the mean of d.
    """
    probabilities = logits.double().softmax(-1)
    effects = 0.5 * (difference - (probabilities * difference).sum(-1, keepdim=True)).square()
    mean = (probabilities * effects).sum(-1)
    return mean, ((probabilities * effects.square()).sum(-1) - mean.square()).clamp_min(0).sqrt()


@pytest.mark.parametrize("name", SMALL)
def test_a_small_change_costs_half_its_square_under_the_fisher_information(name):
    original = original_of(Classifier(), noise(SAMPLES, 6))
    recipe = recipe_of(original, SMALL[name])
    (logits,) = original.outputs
    changed = compress(original, recipe)(*original.calibration[0]).detach()
    expected, deviations = expected_loss(logits, (changed - logits).double())
    (estimate,) = taylor_losses(original, [recipe], SAMPLES)
    # One label is drawn for each sample: four standard errors of the mean.
    standard_error = float(deviations.square().sum().sqrt()) / SAMPLES
    assert abs(estimate - float(expected.mean())) < 4 * standard_error
    assert 4 * standard_error < 0.2 * estimate, "the sampling error hides the estimate"
    # What is left out beyond the second order is small, because the change is.
    assert float(expected.mean()) == pytest.approx(kl_divergence(logits, changed).mean().item(), rel=0.15)


def test_weights_in_fours_cost_what_they_do_to_the_outputs():
    original = original_of(Classifier(), noise(SAMPLES, 6))
    recipe = recipe_of(original, {"last": LayerRecipe(sparsify=IN_FOURS)})
    (logits,) = original.outputs
    changed = compress(original, recipe)(*original.calibration[0]).detach()
    expected, deviations = expected_loss(logits, (changed - logits).double())
    (estimate,) = taylor_losses(original, [recipe], SAMPLES)
    # As above; the change is not small, nor is the sampling error.
    assert (
        abs(estimate - float(expected.mean())) < 4 * float(deviations.square().sum().sqrt()) / SAMPLES < 0.3 * estimate
    )


def test_a_small_change_of_values_costs_their_squared_error_relative_to_their_variance():
    original = original_of(nn.Sequential(Classifier(), nn.Linear(4, 1)), noise(SAMPLES, 6))
    recipe = recipe_of(original, {"0.last": ROUNDED})
    changed = compress(original, recipe)(*original.calibration[0]).detach()
    (values,) = original.outputs
    by_hand = ((changed - values) ** 2).mean() / ((values - values.mean()) ** 2).mean()
    # With one value a sample its sign does not matter.
    assert taylor_losses(original, [recipe], SAMPLES) == pytest.approx([by_hand.item()], rel=1e-3)


def test_effects_of_several_layers_add_up_before_they_are_squared():
    original = original_of(Classifier(nn.Identity()), noise(SAMPLES, 6))
    recipe = recipe_of(original, {"first": ROUNDED, "last": ROUNDED})
    (logits,) = original.outputs
    changed = compress(original, recipe)(*original.calibration[0]).detach()
    expected, deviations = expected_loss(logits, (changed - logits).double())
    (estimate,) = taylor_losses(original, [recipe], SAMPLES)
    # Beside the sampling error: the product of both changes, which is of higher order.
    tolerance = 4 * float(deviations.square().sum().sqrt()) / SAMPLES + 0.05 * estimate
    assert abs(estimate - float(expected.mean())) < tolerance


def test_a_recipe_that_changes_nothing_costs_nothing():
    original = original_of(Classifier(), noise(10, 6))
    assert taylor_losses(original, [recipe_of(original, {})], 10) == [0.0]


def test_a_layer_that_nothing_reads_costs_nothing():
    class Unread(Classifier):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(6, 2)

        def forward(self, values):
            self.spare(values)
            return super().forward(values)

    original = original_of(Unread(), noise(20, 6))
    assert taylor_losses(original, [recipe_of(original, {"spare": ROUNDED})], 20) == [0.0]


def test_several_labels_of_a_sample_count_by_their_mean_as_in_the_divergence():
    original = original_of(Classifier(), noise(SAMPLES // 4, 4, 6))
    for layers in SMALL.values():
        recipe = recipe_of(original, layers)
        (logits,) = original.outputs
        changed = compress(original, recipe)(*original.calibration[0]).detach()
        expected = float(expected_loss(logits, (changed - logits).double())[0].mean())
        # The square of a sum of 4 independent effects varies more than 4 squares do; half is far from 4 times as much.
        assert taylor_losses(original, [recipe], SAMPLES)[0] == pytest.approx(expected, rel=0.5)


class Folded(Classifier):
    """The same, each token of a sequence by itself."""

    def forward(self, values):
        return super().forward(values.flatten(0, 1)).unflatten(0, (-1, 4))


@pytest.mark.parametrize("layers", SMALL.values(), ids=SMALL)
def test_tokens_that_are_folded_into_the_batch_count_for_their_sequence(layers):
    folded, plain = (original_of(model(), noise(50, 4, 6)) for model in (Folded, Classifier))
    losses = [taylor_losses(it, [recipe_of(it, layers)], 50)[0] for it in (folded, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Convolutions(nn.Module):
    """Convolutions, the activation between them made where its input is."""

    def __init__(self, inplace):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)
        self.activation = nn.ReLU(inplace)

    def forward(self, images):
        return self.last(self.activation(self.first(images))).mean((2, 3))


def test_an_activation_in_place_changes_no_estimate():
    apart, in_place = (original_of(Convolutions(inplace), noise(20, 3, 8, 8)) for inplace in (False, True))
    layers = {"first": ROUNDED}
    losses = [taylor_losses(it, [recipe_of(it, layers)], 20)[0] for it in (apart, in_place)]
    assert losses[0] == losses[1] > 0


def test_channels_of_a_convolution_are_removed_where_they_are_read():
    original = original_of(Convolutions(False), noise(20, 3, 8, 8))
    gone = original.ranking["first"][:2]
    by_hand = copy.deepcopy(original.task.model)
    with torch.no_grad():
        by_hand.last.weight[:, list(gone)] = 0.0
        changed = by_hand(*original.calibration[0])
    expected = expected_loss(original.outputs[0], (changed - original.outputs[0]).double())[0].mean()
    (estimate,) = taylor_losses(original, [recipe_of(original, {"first": LayerRecipe(sparsify=Sparsify(0.125))})], 20)
    # 20 labels: only the order of magnitude is sure.
    assert 0.3 < estimate / expected < 3


@pytest.mark.parametrize("kind", DECOMPOSITIONS)
def test_every_kind_of_split_is_estimated_as_what_it_makes_of_the_layer(kind):
    original = original_of(Convolutions(False), noise(1000, 3, 8, 8))
    recipe = recipe_of(original, {"last": LayerRecipe(decompose=Decompose(3, kind))})
    (logits,) = original.outputs
    changed = compress(original, recipe)(*original.calibration[0]).detach()
    expected, deviations = expected_loss(logits, (changed - logits).double())
    (estimate,) = taylor_losses(original, [recipe], 1000)
    standard_error = float(deviations.square().sum().sqrt()) / 1000
    assert abs(estimate - float(expected.mean())) < 4 * standard_error
    assert 4 * standard_error < 0.5 * estimate, "the sampling error hides the estimate"


class Words(nn.Module):
    """Whole numbers in, of which nothing has a gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = nn.Embedding(9, 8), nn.Linear(8, 4)

    def forward(self, words):
        return self.last(self.embedding(words))


def test_frozen_weights_and_whole_numbers_for_inputs_change_no_estimate():
    words = torch.randint(9, (30,), generator=torch.Generator().manual_seed(0))
    losses = []
    for model in (Words(), Words().requires_grad_(False)):
        original = original_of(model, words)
        losses += taylor_losses(original, [recipe_of(original, {"last": ROUNDED})], 30)
    assert losses[0] == losses[1] > 0


def test_the_network_and_its_gradients_are_left_as_they_are():
    original = original_of(Classifier(), noise(20, 6))
    model = original.task.model
    model.first.weight.requires_grad_(False)
    model.last.bias.grad = torch.ones(4)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        taylor_losses(original, [recipe_of(original, layers) for layers in SMALL.values()], 20)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {name: it.requires_grad for name, it in model.named_parameters()} == {
        "first.weight": False,
        "first.bias": True,
        "last.weight": True,
        "last.bias": True,
    }
    assert model.last.weight.grad is None
    assert model.last.bias.grad.tolist() == [1.0] * 4
    assert not any(module._forward_hooks for module in model.modules())


def test_choices_that_were_seen_apart_run_no_layer_again_when_they_come_together(monkeypatch):
    original = original_of(Classifier(), noise(16, 6), noise(4, 6, seed=1))
    first, last = SMALL["a channel removed"], SMALL["activations of 4 bits"]
    together = recipe_of(original, {"first": ROUNDED, **last})
    (wanted,) = taylor_losses(original, [together], 20)
    loss = TaylorLoss(original, 20)
    for layers in (first, last, {"first": ROUNDED}):
        loss(recipe_of(original, layers))
    monkeypatch.setattr(taylor, "_effect_on", None)
    assert loss(together) == wanted
    with pytest.raises(TypeError):
        loss(recipe_of(original, {**first, **last}))


def test_layers_that_see_too_much_are_seen_in_groups_with_the_same_estimates(monkeypatch):
    parts = noise(16, 6), noise(4, 6, seed=1)
    original, observe, seen = original_of(Classifier(), *parts), taylor._observe, []
    recipes = [recipe_of(original, it) for it in SMALL.values()]
    wanted = taylor_losses(original, recipes, 20)

    def observed(original, layers, inputs, samples):
        seen.append((layers, samples))
        return observe(original, layers, inputs, samples)

    monkeypatch.setattr(taylor, "_observe", observed)
    # Of 20 samples the first layer sees 6 inputs and 8 gradients of 4 bytes, the last one 8 and 4.
    assert [*TaylorLoss(original, 20, 20 * 4 * 14 + 20 * 4 * 12).losses(recipes)] == wanted
    assert seen == [(("first", "last"), 16), (("first", "last"), 4)]
    seen.clear()
    assert [*TaylorLoss(original, 20, 20 * 4 * 14 + 20 * 4 * 12 - 1).losses(recipes)] == wanted
    assert seen == [(("last",), 16), (("last",), 4)], "the first layer reads inputs that stay"


def test_a_layer_is_split_once_for_all_batches(monkeypatch):
    original, split, made = original_of(Classifier(), *(noise(4, 6, seed=it) for it in range(5))), split_layer, []
    monkeypatch.setattr(taylor, "split_layer", lambda *given: made.append(given) or split(*given))
    TaylorLoss(original, 20)(recipe_of(original, SMALL["rank 3 of 4"]))
    assert len(made) == 1


def test_no_more_samples_are_seen_than_asked_for():
    parts = noise(16, 6), noise(16, 6, seed=1)
    whole, less = original_of(Classifier(), *parts), original_of(Classifier(), parts[0], parts[1][:4])
    losses = [taylor_losses(it, [recipe_of(it, {"last": ROUNDED})], 20) for it in (whole, less)]
    assert losses[0] == losses[1] != taylor_losses(whole, [recipe_of(whole, {"last": ROUNDED})], 32)


def test_what_is_not_estimated_is_refused():
    original = original_of(Classifier(), noise(16, 6))
    recipe = recipe_of(original, {"last": LayerRecipe(quantize=Quantize(4, 8, rounding="gptq"))})
    with pytest.raises(InputError, match=r"^the loss of plain choices alone can be estimated, but last asks"):
        taylor_losses(original, [recipe], 16)


def test_calibrators_and_kinds_of_a_trained_network_are_ordered_as_their_measured_divergences_are(digits_original):
    options = SpaceOptions(
        ((8, 4),), max_ratio=0.0, ranks=(0.5,), calibrators=CALIBRATORS, decompositions=DECOMPOSITIONS
    )
    space = Space(digits_original.graph, CpuOpenvino(precisions=((8, 4),)).capabilities, options)
    recipes = [space.decode({it.name: rung}) for it in space.dimensions for rung in range(1, it.rungs)]
    candidates = Candidates(digits_original)
    inputs, outputs = digits_original.calibration, digits_original.outputs
    direct = [mean_divergence(candidates.network(it), inputs, outputs, kl_divergence) for it in recipes]
    assert spearmanr(direct, taylor_losses(digits_original, recipes, 256)).statistic > 0.8


def test_choices_of_a_trained_network_are_ordered_as_their_measured_divergences_are(digits_original):
    space = Space(digits_original.graph, CpuOpenvino().capabilities, SpaceOptions(reconstruct=False))
    recipes = [space.decode({it.name: rung}) for it in space.dimensions for rung in range(1, it.rungs)]
    candidates = Candidates(digits_original)
    inputs, outputs = digits_original.calibration, digits_original.outputs
    direct = [mean_divergence(candidates.network(it), inputs, outputs, kl_divergence) for it in recipes]
    assert spearmanr(direct, taylor_losses(digits_original, recipes, 256)).statistic > 0.9
