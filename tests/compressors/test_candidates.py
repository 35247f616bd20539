"""Conformance: a candidate's network returns to the last bit what `compress` does."""

import gc
import random

import pytest
import torch
from gulliver.compressors.calibrators import Histogram
from gulliver.compressors.candidate_network import CandidateNetwork, SharedPrefix
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import compress, read_original
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.network_identity import network_hash
from gulliver.spaces.recipe import (
    CALIBRATORS,
    DECOMPOSITIONS,
    Decompose,
    FoundFor,
    LayerRecipe,
    Quantize,
    Recipe,
    Sparsify,
)
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from torch import nn
from torch.overrides import TorchFunctionMode

BITS = ((8, 8), (4, 8), (8, 5))
CAPABILITIES = Capabilities("float32", dict.fromkeys(("conv1d", "conv2d", "linear"), BITS), 4, 4, 64)
LARGE, SMALL = 64 << 20, 40_000


class Activations(nn.Module):
    """Activations that are not zero at zero, or write in place, or have weights, and a gate."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv3, self.norm3 = nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24, affine=False)
        self.gate, self.learned = nn.Conv2d(24, 24, 1), nn.PReLU(24)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.linear = nn.Linear(24, 5)

    def forward(self, images):
        features = torch.sigmoid(self.norm1(self.stem(images)))
        hidden = self.norm2(self.conv2(self.drop(features)))
        hidden += features
        hidden = nn.functional.relu(hidden, inplace=True)
        hidden = self.relu(self.norm3(self.conv3(torch.cos(hidden))))
        hidden = hidden * torch.sigmoid(self.gate(self.learned(hidden) + 1.0))
        return self.linear(self.drop(hidden.flatten(2).mean(-1)))


class Sequences(nn.Module):
    """One-dimensional convolutions, a batch norm before any layer, and a second input that may be left out."""

    def __init__(self):
        super().__init__()
        self.norm0 = nn.BatchNorm1d(3)
        self.conv1, self.norm1 = nn.Conv1d(3, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.conv2 = nn.Conv1d(16, 16, 3, padding=1)
        self.linear = nn.Linear(16, 5)

    def forward(self, values, offset=0.5):
        first = torch.relu(self.norm1(self.conv1(self.norm0(values.flatten(2)))))
        return self.linear(torch.stack([first, self.conv2(first) + offset], 0).amax(-1).sum(0))


class OwnConvolution(nn.Conv2d):
    def forward(self, images):
        return 2 * super().forward(images)


class Others(nn.Module):
    """Convolutions that are no layers, one transposed and one of an own class, among layers that lose channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.transposed = nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 16, 3)
        self.norm, self.conv, self.own = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), OwnConvolution(16, 16, 1)
        self.last, self.linear = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, images):
        features = torch.relu(self.norm(self.transposed(torch.relu(self.stem(images)))))
        hidden = self.last(torch.relu(self.own(self.conv(features))))
        return self.linear(torch.relu(hidden).mean((2, 3)))


@pytest.fixture(scope="module")
def originals_of_all(originals, network_task):
    networks = (Activations, Sequences, Others)
    return originals | {cls.__name__.lower(): read_original(network_task(cls())) for cls in networks}


def space_of(original):
    options = SpaceOptions(
        bits=BITS, max_ratio=0.8, reconstruct=False, calibrators=CALIBRATORS, decompositions=DECOMPOSITIONS
    )
    return Space(original.graph, CAPABILITIES, options)


def random_recipes(original, count, seed=0):
    """Return recipes of which some thin, some only quantize, and half are a change of one rung of the last."""
    space, draw = space_of(original), random.Random(seed)
    recipes, rungs = [], {}
    for number in range(count):
        changed = draw.sample(space.dimensions, 1) if number % 2 else space.dimensions
        # A quarter as they are: of the rungs of a precision, only the first is none.
        rungs |= {it.name: draw.randrange(it.rungs) * (draw.random() < 0.75) for it in changed}
        kept = {name: rung for name, rung in rungs.items() if number % 5 or name.startswith("precision")}
        recipes.append(space.decode(kept))
    return recipes


class Calls(TorchFunctionMode):
    """Count the convolutions that are run."""

    def __init__(self):
        super().__init__()
        self.convolutions = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.convolutions += function is torch.conv2d
        return function(*args, **(kwargs or {}))


def convolutions_of(candidates, recipe):
    with Calls() as calls:
        candidates.network(recipe)
    return calls.convolutions


ALL = ["convolutions", "residual", "concatenation", "activations", "sequences", "others"]


@pytest.mark.parametrize("memory_bytes", [LARGE, SMALL, 0])
@pytest.mark.parametrize("name", ALL)
def test_outputs_are_those_of_compress_to_the_last_bit(name, memory_bytes, originals_of_all, images_of, outputs):
    original = originals_of_all[name]
    candidates = Candidates(original, memory_bytes)
    inputs = images_of(5, seed=8)
    for recipe in random_recipes(original, 12 if memory_bytes == LARGE else 6):
        assert candidates.refusal(recipe) is None
        network = candidates.network(recipe)
        assert isinstance(network, CandidateNetwork)
        assert not network.training
        assert next(network.parameters()).device == inputs.device
        assert torch.equal(outputs(network, inputs), outputs(compress(original, recipe), inputs))
        assert candidates.used_bytes <= memory_bytes


def test_the_recipes_that_are_compared_choose_from_everything(originals_of_all):
    chosen = [
        choice for it in originals_of_all.values() for one in random_recipes(it, 12) for choice in one.layers.values()
    ]
    assert {(it.quantize.weight_bits, it.quantize.activation_bits) for it in chosen if it.quantize} == set(BITS)
    assert all(sum(getattr(it, slot) is not None for it in chosen) > 30 for slot in ("sparsify", "decompose"))
    assert {it.quantize.calibrator for it in chosen if it.quantize} == set(CALIBRATORS)
    assert {it.decompose.kind for it in chosen if it.decompose and it.quantize} == set(DECOMPOSITIONS)
    assert {it.decompose.kind for it in chosen if it.decompose and not it.quantize} == set(DECOMPOSITIONS)


def test_networks_stay_what_they_are_when_others_are_made(originals, images_of, outputs):
    original = originals["residual"]
    candidates, inputs = Candidates(original), images_of(4, seed=9)
    recipes = random_recipes(original, 6, seed=1)
    networks = [candidates.network(recipe) for recipe in recipes]
    for network, recipe in zip(networks, recipes, strict=True):
        assert torch.equal(outputs(network, inputs), outputs(compress(original, recipe), inputs))


def test_the_tasks_network_is_untouched(originals_of_all):
    original = originals_of_all["activations"]
    before = network_hash(original.task.model)
    candidates = Candidates(original)
    for recipe in random_recipes(original, 4):
        candidates.network(recipe)(torch.randn(2, 3, 12, 12))
    assert network_hash(original.task.model) == before
    assert original.task.model.relu.inplace
    assert not original.task.model.training


def test_what_is_kept_is_no_more_than_the_bound_in_the_tensors_of_this_process(originals):
    def bytes_of_all_tensors():
        gc.collect()
        tensors = [it for it in gc.get_objects() if issubclass(type(it), torch.Tensor)]
        return sum({it.untyped_storage().data_ptr(): it.untyped_storage().nbytes() for it in tensors}.values())

    original = originals["residual"]
    candidates = Candidates(original, 300_000)
    before = bytes_of_all_tensors()
    for recipe in random_recipes(original, 10):
        candidates.network(recipe)
    assert 200_000 < candidates.used_bytes <= 300_000
    assert 100_000 < bytes_of_all_tensors() - before <= candidates.used_bytes


def test_a_layer_is_decomposed_once_for_each_choice_of_its_channels(originals, monkeypatch):
    original, decompositions, svd = originals["residual"], [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda matrix, **keys: decompositions.append(1) or svd(matrix, **keys))
    candidates = Candidates(original, LARGE)
    for ratio in (0.0, 0.5, 0.0, 0.5):
        for rank in (4, 8):
            choices = dict.fromkeys(original.graph.layers, LayerRecipe())
            choices["block1.conv1"] = LayerRecipe(Sparsify(ratio), Decompose(rank))
            choices["block2.conv1"] = LayerRecipe(None, Decompose(rank), Quantize(4, 8))
            candidates.network(Recipe(choices))
    # block1.conv1 with all its channels and with half of them, block2.conv1 with all.
    assert len(decompositions) == 3


def test_precisions_are_changed_without_any_calibration(originals, precisions):
    original = originals["convolutions"]
    candidates = Candidates(original, LARGE)
    # The network's four convolutions on each of two calibration batches, for the ranges only.
    assert convolutions_of(candidates, precisions(original)) == 2 * 4
    assert convolutions_of(candidates, precisions(original, (4, 8))) == 0
    thinned = dict(precisions(original).layers) | {"strided": LayerRecipe(Sparsify(0.5))}
    assert convolutions_of(candidates, Recipe(thinned)) > 0
    thinned["dilated"] = LayerRecipe()
    assert convolutions_of(candidates, Recipe(thinned)) == 0


def test_calibrators_are_changed_without_any_forward_pass(originals, monkeypatch, precisions):
    original, counted = originals["convolutions"], []
    monkeypatch.setattr(
        Histogram, "add", lambda self, values, add=Histogram.add: counted.append(1) or add(self, values)
    )
    candidates = Candidates(original, LARGE)
    convolutions_of(candidates, precisions(original))
    # The inputs of six layers are kept, and counted once in each of two batches for all calibrators and bits.
    for bits, calibrator in ((8, "mse"), (8, "entropy"), (5, "percentile")):
        assert convolutions_of(candidates, precisions(original, (8, bits, calibrator))) == 0
        assert len(counted) == 2 * 6


@pytest.mark.parametrize("first", CALIBRATORS)
def test_of_the_readers_of_a_tensor_the_first_with_the_most_bits_chooses_its_calibrator(
    first, originals, images_of, outputs, precisions
):
    original, inputs = originals["residual"], images_of(5, seed=8)
    candidates, layers = Candidates(original), dict(precisions(original).layers)
    # Both read what block1 gives.
    for bits, others in ((8, 8), (8, 6), (6, 8)):
        layers["block2.conv1"] = LayerRecipe(quantize=Quantize(8, bits, first))
        layers["block2.shortcut"] = LayerRecipe(quantize=Quantize(8, others, "mse"))
        network, recipe = candidates.network(Recipe(layers)), Recipe(layers)
        assert isinstance(network, CandidateNetwork)
        assert torch.equal(outputs(network, inputs), outputs(compress(original, recipe), inputs))


def test_calibration_begins_where_the_recipe_first_differs(originals):
    original = originals["convolutions"]
    candidates, layers = Candidates(original, LARGE), dict.fromkeys(original.graph.layers, LayerRecipe())
    layers["linear1"] = LayerRecipe(None, Decompose(8))
    # Two batches through four convolutions for the statistics, and none for ranges.
    assert convolutions_of(candidates, Recipe(layers)) == 2 * 4
    layers["linear1"] = LayerRecipe(None, Decompose(4))
    assert convolutions_of(candidates, Recipe(layers)) == 0
    layers["pointwise"] = LayerRecipe(None, Decompose(4))
    # The two halves of the last convolution; what it reads is known.
    assert convolutions_of(candidates, Recipe(layers)) == 2 * 2
    layers["strided"] = LayerRecipe(None, Decompose(4))
    assert convolutions_of(candidates, Recipe(layers)) == 2 * 6


def test_a_shared_prefix_gives_what_each_network_gives_and_runs_only_what_differs(
    originals, images_of, outputs, precisions
):
    original = originals["residual"]
    candidates, inputs = Candidates(original, LARGE), images_of(4, seed=7)
    shared = SharedPrefix(inputs)
    for recipe in random_recipes(original, 12):
        network = candidates.network(recipe)
        assert torch.equal(outputs(lambda _, n=network: shared(n), inputs), outputs(network, inputs))
    layers = dict(precisions(original).layers)
    changes = [("stem", 6, Quantize(4, 8)), ("linear", 0, Quantize(4, 8)), ("block2.conv2", 1, Quantize(4, 8))]
    for changed, runs, choice in [*changes, ("block2.shortcut", 1, Quantize(4, 8)), ("stem", 6, Quantize(4, 8, "mse"))]:
        shared(candidates.network(Recipe(layers)))
        layers[changed] = LayerRecipe(quantize=choice)
        network = candidates.network(Recipe(layers))
        with Calls() as calls:
            shared(network)
        assert calls.convolutions == runs


def test_a_recipe_that_does_not_fit_is_refused_as_compress_refuses_it(originals, precisions):
    original = originals["convolutions"]
    layers = dict(precisions(original).layers)
    for recipe in (
        Recipe(layers, found_for=FoundFor(network="f00d")),
        Recipe(layers | {"dilated": LayerRecipe(Sparsify(0.5))}),
    ):
        with pytest.raises(InputError) as wanted:
            compress(original, recipe)
        with pytest.raises(InputError) as given:
            Candidates(original).network(recipe)
        assert str(given.value) == str(wanted.value)


def test_inputs_are_taken_by_position_or_by_name_or_left_out(originals_of_all, images_of, outputs):
    original = originals_of_all["sequences"]
    recipe, inputs = random_recipes(original, 1)[0], images_of(3, seed=5)
    network, wanted = Candidates(original).network(recipe), compress(original, recipe)
    assert torch.equal(outputs(network, inputs, 2.0), outputs(wanted, inputs, 2.0))
    assert torch.equal(outputs(network, values=inputs, offset=2.0), outputs(wanted, inputs, 2.0))
    assert not torch.equal(outputs(network, inputs), outputs(network, inputs, 2.0))
    with pytest.raises(InputError, match=r"^the network must be given its input values$"):
        network(offset=2.0)


def test_what_is_made_in_inference_mode_can_be_used_outside_of_it(originals, images_of):
    original = originals["residual"]
    candidates, recipe = Candidates(original), random_recipes(original, 1)[0]
    with torch.inference_mode():
        candidates.network(recipe)
    inputs = images_of(2, seed=4).requires_grad_()
    candidates.network(recipe)(inputs).sum().backward()
    assert inputs.grad.abs().sum() > 0
