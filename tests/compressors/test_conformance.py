"""Conformance: every method, alone and combined, on every kind of layer, is exported as it is simulated.

OpenVINO runs as it does for a user; ONNX Runtime runs what the file says, node by node (see test_export_onnx.py).

The tolerance: a twentieth of one of the 255 steps of the largest output where activations are rounded. There a value
that lies within float32's error of the middle between two levels may go either way, which moves all of a sample's
outputs; so each sample must be met by the simulation, or by the simulation with the values that are rounded moved by a
small share of their steps, all in the same direction or each in one of its own. Where nothing is rounded, a
ten-thousandth of the largest output. A new method joins by one entry of METHODS, a new kind of layer by one layer in
NETWORKS.
"""

import itertools
from dataclasses import dataclass

import onnxruntime
import openvino
import pytest
import torch
from gulliver.compressors import adaround
from gulliver.compressors.compress import compress, read_original
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.compressors.export_onnx import save_onnx, to_onnx
from gulliver.compressors.quantize import QuantizedActivation
from gulliver.evaluators.size import Size
from gulliver.spaces.recipe import Decompose, Finetune, LayerRecipe, Quantize, Recipe, Sparsify
from torch import nn

BATCH = 16
CORE = openvino.Core()
# Shares of a step: an output of some hundred products is off by up to a ten-thousandth of a step in float32.
SHARES = (1e-5, -1e-5, 3e-5, -3e-5, 1e-4, -1e-4)
# A sample with two ties may need them to go apart: directions are drawn so many times for the largest shares.
DRAWS = 30


class Joined(nn.Module):
    """A residual addition and a concatenation of the same branches, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.join = nn.Conv2d(32, 16, 3, stride=2)
        self.twice = nn.Linear(16, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, images):
        stem = torch.relu(self.norm(self.stem(images)))
        left, right = torch.relu(self.left(stem)), self.right(stem) + stem
        features = torch.relu(self.join(torch.cat([left, right], 1))).mean((2, 3))
        return self.last(torch.relu(self.twice(torch.relu(self.twice(features)))))


def two_dimensional():
    """Every kind of 2-D convolution, the depthwise one before a 1 x 1 as in MobileNet, and linear layers."""
    return nn.Sequential(
        *[nn.Conv2d(4, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()],
        *[nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.BatchNorm2d(16), nn.SiLU()],
        *[nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.ReLU()],
        *[nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.BatchNorm2d(24), nn.ReLU6()],
        *[nn.Conv2d(24, 16, (3, 5), (2, 1), (1, 2)), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()],
        *[nn.Linear(64, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 5)],
    )


def one_dimensional():
    """Plain, strided, dilated, grouped, depthwise and 1-wide 1-D convolutions, and two linear layers in a row."""
    return nn.Sequential(
        *[nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 16, 3, 2, 2, 2), nn.BatchNorm1d(16), nn.ReLU()],
        *[nn.Conv1d(16, 16, 3, padding=1, groups=4), nn.ReLU(), nn.Conv1d(16, 24, 1), nn.ReLU()],
        *[nn.Conv1d(24, 24, 3, padding=1, groups=24), nn.BatchNorm1d(24), nn.ReLU(), nn.Conv1d(24, 16, 3), nn.ReLU()],
        *[nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)],
    )


NETWORKS = {"one_dimensional": one_dimensional, "two_dimensional": two_dimensional, "joined": Joined}

METHODS = {
    "sparsify": Sparsify(0.5),
    "reconstruct": Sparsify(0.25, criterion="taylor", reconstruct=True),
    "2:4": Sparsify(0.5, "2:4"),
    "unstructured": Sparsify(0.6, "unstructured"),
    "svd": Decompose(6),
    "channel_svd": Decompose(6, "channel_svd", data_aware=True),
    "tucker2": Decompose(6, "tucker2", 5),
    "int8": Quantize(),
    "int4": Quantize(4, 8, "mse", False, "mse", None, "gptq", True, True),
    "adaround": Quantize(3, 8, rounding="adaround"),
    "entropy": Quantize(calibrator="entropy", symmetric=False),
    "smooth": Quantize(calibrator="percentile", smooth=0.5),
    "groups": Quantize(4, group_size=4),
    "asymmetric_groups": Quantize(4, group_size=4, rounding="gptq", symmetric_weights=False),
    "per_tensor": Quantize(per_channel=False),
    "learned_steps": Finetune(1, learning_rate=0.01, quantization_aware=True),
}
SLOTS = {name: type(choice).__name__.lower() for name, choice in METHODS.items()}
COMBINATIONS = [
    *[(name,) for name in METHODS if name not in ("unstructured", "adaround", "learned_steps")],
    *itertools.product(("sparsify", "reconstruct"), ("channel_svd",), ("int8",)),
    ("reconstruct", "tucker2", "int4"),
    ("sparsify", "svd", "int4"),
    ("2:4", "int8"),
    ("2:4", "int4"),
    ("unstructured", "adaround"),
    ("int4", "learned_steps"),
    ("per_tensor", "learned_steps"),
]


@dataclass
class ConformanceTask:
    name: str
    model: nn.Module
    example_inputs: tuple

    def calibration(self):
        return [(inputs_of(self.example_inputs[0].shape, seed),) for seed in (2, 3)]

    def training(self, epoch):
        return [(inputs_of(self.example_inputs[0].shape, 4),)]


def inputs_of(shape, seed):
    return torch.randn(BATCH, *shape[1:], generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def networks():
    """Return every network, read once, its batch norms given statistics of their own."""
    found = {}
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        shape = (1, 4, 12) if name == "one_dimensional" else (1, 4, 10, 10)
        network = build()
        for seed in range(3):
            network(2 * inputs_of(shape, seed))
        found[name] = read_original(ConformanceTask(name, network.eval(), (torch.zeros(shape),)))
    return found


@pytest.fixture(autouse=True)
def _learn_briefly(monkeypatch):
    """What is learned is exported alike however long it takes."""
    monkeypatch.setattr(adaround, "STEPS", 10)


def recipe_of(graph, names):
    """Return the recipe that does the methods to every layer that can take them."""
    prunable = {name for group in graph.channel_groups if not group.not_prunable for name in group.layers}
    choices = {SLOTS[name]: METHODS[name] for name in names}
    finetune = choices.pop("finetune", None)
    return Recipe(
        {
            name: LayerRecipe(**{slot: it for slot, it in choices.items() if takes(layer, it, name in prunable)})
            for name, layer in graph.layers.items()
        },
        finetune,
    )


def takes(layer, choice, prunable):
    if isinstance(choice, Quantize):
        return choice.group_size is None or layer.kind == "linear"
    if isinstance(choice, Sparsify):
        if choice.kind == "2:4":
            return layer.in_channels // layer.groups % 4 == 0
        return prunable or choice.kind == "unstructured"
    kinds = {"svd": ("conv2d", "linear"), "channel_svd": ("conv1d", "conv2d", "linear")}
    return layer.groups == 1 and layer.kind in kinds.get(choice.kind, ("conv1d", "conv2d"))


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("network", list(NETWORKS))
def test_what_is_exported_is_what_is_simulated(network, names, networks, tmp_path):
    original = networks[network]
    recipe = recipe_of(original.graph, names)
    assert any(choice != LayerRecipe() for choice in recipe.layers.values()), "no layer takes it"
    model = compress(original, recipe)
    inputs = inputs_of(original.task.example_inputs[0].shape, seed=5)
    is_rounded = "quantize" in map(SLOTS.get, names)
    tolerance = 0.05 if is_rounded else 255e-4
    converted = to_openvino(model, (inputs,), BATCH)
    given = {"OpenVINO": run_openvino(converted, inputs, tmp_path), "ONNX": run_onnx(model, inputs, tmp_path)}
    for name, outputs in given.items():
        off = steps_off(outputs, simulated(model, inputs))
        assert (off <= tolerance).float().mean() > 0.7, name  # ties are rare
        for wanted in nudged(model, inputs) if is_rounded else ():
            if off.max() <= tolerance:
                break
            off = torch.minimum(off, steps_off(outputs, wanted))
        assert off.max() <= tolerance, name
    # Beside weights, a file holds a few shapes, which no recipe changes.
    assert Size(original.graph)(recipe) == pytest.approx(save_openvino(converted, tmp_path / "half.xml"), rel=0.03)


def run_openvino(converted, inputs, folder):
    save_openvino(converted, folder / "network.xml", half=False)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = CORE.compile_model(folder / "network.xml", "CPU", settings)
    return torch.from_numpy(compiled([inputs.numpy()])[0].copy())


def run_onnx(model, inputs, folder):
    save_onnx(to_onnx(model, (inputs,), BATCH), folder / "network.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "network.onnx", options)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])


def nudged(model, inputs):
    """Yield what the model gives with every value that is rounded moved: all alike, then each in a drawn direction."""
    for share in SHARES:
        yield simulated(model, inputs, share)
    for seed in range(DRAWS):
        yield simulated(model, inputs, SHARES[2 + seed % 4], torch.Generator().manual_seed(seed))


def simulated(model, inputs, share=0.0, directions=None):
    """Run the model, every value that is rounded moved by a share of its step, in drawn directions or alike."""

    def nudge(module, values):
        sign = 1 if directions is None else 2 * torch.randint(2, values[0].shape, generator=directions) - 1
        return (values[0] + sign * share * module.scale,)

    roundings = [module for module in model.modules() if isinstance(module, QuantizedActivation)]
    handles = [module.register_forward_pre_hook(nudge) for module in roundings] if share else []
    with torch.no_grad():
        outputs = model(inputs)
    for handle in handles:
        handle.remove()
    return outputs


def steps_off(given, wanted):
    """Return how far each sample's outputs are off, in 255ths of the largest output."""
    return 255 * (given - wanted).abs().amax(1) / wanted.abs().max()
