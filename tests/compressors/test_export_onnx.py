"""What the ONNX file holds, and what ONNX Runtime makes of it as it runs by default."""

import numpy as np
import onnxruntime
import pytest
import torch
from gulliver.compressors.compress import compress
from gulliver.compressors.export_onnx import save_onnx, to_onnx
from gulliver.compressors.quantize import quantize
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from onnx import TensorProto, numpy_helper
from torch import nn

BATCH = 4


def run(exported, inputs, optimized):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Where a machine has no VNNI, sums of products must not saturate at 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])


def weights_of(exported):
    """Return by name the integer weights, with the scales that the nodes multiply them by."""
    stored = {tensor.name: tensor for tensor in exported.graph.initializer}
    nodes = [it for it in exported.graph.node if it.op_type == "DequantizeLinear" and it.input[0] in stored]
    return {node.input[0]: (stored[node.input[0]], numpy_helper.to_array(stored[node.input[1]])) for node in nodes}


def everywhere(original, choice):
    return Recipe(dict.fromkeys(original.graph.layers, choice))


@pytest.mark.parametrize(("bits", "kind"), [(8, TensorProto.INT8), (4, TensorProto.INT4), (3, TensorProto.INT4)])
def test_weights_are_stored_in_their_integers_and_stand_for_the_simulated_ones(bits, kind, originals):
    original = originals["convolutions"]
    model = compress(original, everywhere(original, LayerRecipe(quantize=Quantize(bits))))
    weights = weights_of(to_onnx(model, original.task.example_inputs, BATCH))
    assert {name.removesuffix(".levels") for name in weights} == set(original.graph.layers)
    for name, (levels, scales) in weights.items():
        layer = model.get_submodule(name.removesuffix(".levels"))
        assert levels.data_type == kind
        rows = torch.fake_quantize_per_channel_affine(
            layer.layer.weight, layer.scales, layer.zero_points, 0, -layer.highest_level, layer.highest_level
        )
        integers = numpy_helper.to_array(levels).astype(np.float32)
        given = torch.from_numpy(integers) * torch.tensor(scales).reshape(-1, *[1] * (rows.dim() - 1))
        torch.testing.assert_close(given, rows.detach(), rtol=1e-6, atol=0)


def test_removed_channels_are_gone_and_split_layers_are_split(originals):
    original = originals["residual"]
    layers = dict.fromkeys(original.graph.layers, LayerRecipe())
    layers["block1.conv1"] = LayerRecipe(Sparsify(0.5), Decompose(4), Quantize())
    exported = to_onnx(compress(original, Recipe(layers)), original.task.example_inputs, BATCH)
    shapes = {name: tuple(levels.dims) for name, (levels, _) in weights_of(exported).items()}
    assert shapes == {"block1.conv1.0.levels": (4, 16, 3, 1), "block1.conv1.1.levels": (8, 4, 1, 3)}
    (reader,) = [it for it in exported.graph.initializer if it.name == "block1.conv2.weight"]
    assert tuple(reader.dims) == (16, 8, 3, 3)


def test_the_file_takes_the_bytes_of_its_integers(tmp_path):
    network = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    inputs = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    for bits in (8, 4):
        recipe = Recipe(dict.fromkeys("02", LayerRecipe(quantize=Quantize(bits))))
        exported = to_onnx(quantize(network, recipe, [(inputs,)]), (inputs,), BATCH)
        size = save_onnx(exported, tmp_path / "folder" / "network.onnx")
        assert size == (tmp_path / "folder" / "network.onnx").stat().st_size
        # Beside the integers, a scale and a bias in 32 bits for each of 512 rows, and what the nodes are.
        assert size == pytest.approx(2 * 256 * 256 * bits / 8 + 512 * 8, rel=0.05)


@pytest.mark.parametrize(
    "choice",
    [
        Quantize(8, 8, symmetric=False),
        *[Quantize(8, bits) for bits in (4, 5, 12, 16)],
        Quantize(8, 12, symmetric=False),
        Quantize(8, 16, symmetric=False),
        Quantize(4, 6, "mse", False, "mse", None, "gptq", True, True),
    ],
    ids=str,
)
def test_inputs_of_any_width_are_rounded_as_they_are_simulated(choice, images_of):
    torch.manual_seed(0)
    # The first reads numbers of both signs, the second none below zero, the third some.
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3)).eval()
    recipe = Recipe(dict.fromkeys("024", LayerRecipe(quantize=choice)))
    inputs = images_of(BATCH, seed=5)
    model = quantize(network, recipe, [(inputs,)])
    with torch.no_grad():
        wanted = model(2 * inputs)
    steps = (2**choice.activation_bits - 1) * (run(to_onnx(model, (inputs,), BATCH), 2 * inputs, False) - wanted).abs()
    # At 16 bits a sum of products is itself off by a share of a step in float32.
    assert (steps / wanted.abs().max()).median() <= (0.5 if choice.activation_bits == 16 else 0.05)
    assert (steps / wanted.abs().max()).max() <= 3


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "kind"), [(4, TensorProto.INT4), (8, TensorProto.INT8)])
def test_weights_in_groups_are_run_as_they_are_simulated(bits, kind, symmetric):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    inputs = torch.randn(BATCH, 64)
    choice = Quantize(bits, 8, group_size=16, symmetric_weights=symmetric)
    recipe = Recipe(dict.fromkeys("02", LayerRecipe(quantize=choice)))
    model = quantize(network, recipe, [(inputs,)])
    exported = to_onnx(model, (inputs,), BATCH)
    assert {tuple(levels.dims) for levels, _ in weights_of(exported).values()} == {(128, 16), (16, 16)}
    assert {levels.data_type for levels, _ in weights_of(exported).values()} == {kind}
    for optimized in (False, True):
        torch.testing.assert_close(run(exported, inputs, optimized), model(inputs).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "concatenation"])
def test_by_default_it_runs_on_integers_near_to_what_is_simulated(name, originals, images_of):
    original = originals[name]
    model = compress(original, everywhere(original, LayerRecipe(quantize=Quantize())))
    inputs = images_of(BATCH, seed=5)
    with torch.no_grad():
        wanted = model(inputs)
    given = run(to_onnx(model, original.task.example_inputs, BATCH), inputs, True)
    # The runtime rounds biases to the product of two scales: values near the middle between two levels may move.
    assert (255 * (given - wanted).abs() / wanted.abs().max()).max() <= 3


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pooling_to_any_size_is_exported(size, images_of):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d((size, 5)), nn.Flatten(), nn.Linear(20 * size, 2))
    inputs = images_of(BATCH, seed=1)
    given = run(to_onnx(network.eval(), (inputs,), BATCH), inputs, True)
    torch.testing.assert_close(given, network(inputs).detach(), rtol=1e-4, atol=1e-5)


def test_the_network_that_is_exported_is_left_as_it_was(originals, images_of):
    original = originals["convolutions"]
    model = compress(original, everywhere(original, LayerRecipe(quantize=Quantize())))
    inputs = images_of(BATCH, seed=5)
    before = model(inputs)
    to_onnx(model, original.task.example_inputs, BATCH)
    assert torch.equal(model(inputs), before)
