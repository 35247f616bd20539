import pytest
import torch
from gulliver.compressors import apply
from gulliver.compressors.compress import compress, is_thinned, read_original, thin
from gulliver.compressors.finetune import Recovery
from gulliver.compressors.quantize import QuantizedLayer
from gulliver.spaces.network_identity import network_hash
from gulliver.spaces.recipe import Decompose, Finetune, FoundFor, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.tasks.errors import InputError
from torch import nn
from torch_pruning import DependencyGraph

EVERYTHING = LayerRecipe(Sparsify(0.5), Decompose(4), Quantize())


def recipe_of(original, **choices):
    return Recipe({name: choices.get(name.replace(".", "_"), LayerRecipe()) for name in original.graph.layers})


def test_what_is_read_of_a_task_once_is_what_the_task_has(originals, images_of):
    original = originals["residual"]
    assert original.network == network_hash(original.task.model)
    assert next(iter(original.graph.layers)) == "stem"
    assert len(original.calibration) == len(original.outputs) == 2
    with torch.no_grad():
        torch.testing.assert_close(original.outputs[1], original.task.model(images_of(8, seed=3)))


def test_the_dependencies_of_a_networks_channels_are_found_once(network_task, monkeypatch):
    found = []
    build = DependencyGraph.build_dependency

    def counted(*given, **named):
        found.append(build(*given, **named))
        return found[-1]

    monkeypatch.setattr(DependencyGraph, "build_dependency", counted)
    read_original(network_task(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))))
    assert len(found) == 1


def test_methods_are_applied_in_order_thin_then_split_then_round(originals, images_of):
    original = originals["convolutions"]
    model = compress(original, recipe_of(original, strided=EVERYTHING))
    first, second = model.get_submodule("strided.0"), model.get_submodule("strided.1")
    assert isinstance(first, QuantizedLayer)
    assert first.layer.weight.shape == (4, 3, 3, 1)
    assert second.layer.weight.shape == (8, 4, 1, 3)
    assert not any(isinstance(node.target, str) and "norm" in node.target for node in model.graph.nodes)
    assert model(images_of(2, seed=0)).shape == (2, 5)


def test_the_tasks_network_is_untouched_by_all_of_it(originals):
    original = originals["residual"]
    before = network_hash(original.task.model)
    prunable = dict.fromkeys(("block1_conv1",), EVERYTHING)
    compress(original, recipe_of(original, **prunable), recovery=Recovery(steps=1))
    assert network_hash(original.task.model) == before
    assert not original.task.model.training


def test_equal_recipes_give_equal_networks(originals, images_of):
    original = originals["residual"]
    recipe = recipe_of(original, block1_conv1=EVERYTHING)
    inputs = images_of(4, seed=6)
    with torch.no_grad():
        assert torch.equal(compress(original, recipe)(inputs), compress(original, recipe)(inputs))


def test_apply_is_compress_for_one_recipe(originals, images_of):
    original = originals["concatenation"]
    recipe = recipe_of(original, join=LayerRecipe(None, Decompose(4), Quantize()))
    inputs = images_of(4, seed=6)
    with torch.no_grad():
        assert torch.equal(apply(original.task, recipe)(inputs), compress(original, recipe)(inputs))


@pytest.mark.parametrize(
    ("choice", "thinned"),
    [
        (LayerRecipe(), False),
        (LayerRecipe(quantize=Quantize()), False),
        (LayerRecipe(Sparsify(0.5)), True),
        (LayerRecipe(None, Decompose(3)), True),
    ],
)
def test_a_recipe_thins_where_it_removes_channels_or_splits(choice, thinned, originals):
    assert is_thinned(Recipe({"a": LayerRecipe(), "b": choice})) is thinned


def test_batch_norms_are_estimated_again_only_where_layers_are_thinned(originals):
    original = originals["residual"]
    before = original.task.model.block1.norm2.running_mean
    same = thin(original, recipe_of(original, stem=LayerRecipe(quantize=Quantize())), original.calibration)
    assert torch.equal(same.block1.norm2.running_mean, before)
    thinned = thin(original, recipe_of(original, block1_conv1=LayerRecipe(Sparsify(0.5))), original.calibration)
    assert not torch.equal(thinned.block1.norm2.running_mean, before)
    assert not thinned.training


def test_recovery_brings_a_thinned_network_nearer_to_the_original(originals):
    original = originals["residual"]
    recipe = recipe_of(original, block1_conv1=LayerRecipe(Sparsify(0.75)), block2_conv1=LayerRecipe(Sparsify(0.75)))

    def distance(model):
        with torch.no_grad():
            return sum(
                nn.functional.kl_div(
                    model(*inputs).log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"
                )
                for inputs, wanted in zip(original.calibration, original.outputs, strict=True)
            ).item()

    assert distance(compress(original, recipe, recovery=Recovery(steps=30))) < distance(compress(original, recipe))


def test_each_stage_of_the_finetuning_is_heard_of_and_has_a_checkpoint_of_its_own(network_task, tmp_path):
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    task, heard = network_task(nn.Sequential(*layers)), []
    task.training = lambda epoch: task.calibration()
    choices = {"0": LayerRecipe(None, Decompose(4), Quantize()), "5": LayerRecipe(quantize=Quantize())}
    recipe = Recipe(choices, Finetune(1, quantization_aware=True))
    compress(
        read_original(task), recipe, checkpoints=tmp_path, watch=lambda stage, epoch, _: heard.append((stage, epoch))
    )
    assert heard == [(stage, epoch) for stage in ("fine-tuning", "quantization-aware training") for epoch in (0, 1)]
    assert {it.name for it in tmp_path.iterdir()} == {"thinned.pt", "rounded.pt"}


def test_a_recipe_for_another_network_is_refused(originals):
    original = originals["residual"]
    recipe = Recipe({name: LayerRecipe() for name in original.graph.layers}, found_for=FoundFor(network="f00d"))
    with pytest.raises(InputError, match=r"^the recipe must be for this network \(.*\), but was found for f00d$"):
        compress(original, recipe)


def test_finetuning_without_training_inputs_is_refused(originals):
    original = originals["residual"]
    recipe = Recipe({name: LayerRecipe() for name in original.graph.layers}, Finetune(1))
    with pytest.raises(InputError, match=r"^the task residual must have `training\(epoch\)` for its networks to be"):
        compress(original, recipe)


def test_reading_a_network_that_cannot_be_traced_is_refused(originals):
    class Branching(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    task = type("Task", (), {"model": Branching(), "calibration": list, "example_inputs": (torch.zeros(1),)})()
    with pytest.raises(InputError, match=r"cannot be traced by torch\.fx"):
        read_original(task)


class Pair(nn.Linear):
    """A layer that returns its outputs twice, as `container` holds them."""

    def __init__(self, container):
        super().__init__(4, 2)
        self.container = container

    def forward(self, values):
        outputs = super().forward(values)
        return self.container([("first", outputs), ("second", outputs)])


@pytest.mark.parametrize(
    ("model", "values", "refusal"),
    [
        (Pair(tuple), torch.zeros(1, 4), "the network of own must return one tensor, but returns a tuple"),
        (Pair(dict), torch.zeros(1, 4), "the network of own must return one tensor, but returns a dict"),
        (
            nn.Linear(4, 2).double(),
            torch.zeros(1, 4).double(),
            "the network of own must be in float32, but weight is in float64",
        ),
    ],
)
def test_reading_a_network_of_several_outputs_or_of_another_type_is_refused(model, values, refusal):
    members = {"name": "own", "model": model, "calibration": lambda self: [(values,)], "example_inputs": (values,)}
    with pytest.raises(InputError) as refused:
        read_original(type("Task", (), members)())
    assert str(refused.value) == refusal
