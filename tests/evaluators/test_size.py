import pytest
import torch
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.compressors.quantize import quantize
from gulliver.evaluators.size import Size
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.trace import trace
from torch import nn

INT8, INT4 = Quantize(8, 8), Quantize(4, 8)


def recipe_of(graph, default=None, **choices):
    return Recipe({name: choices.get(name, default or LayerRecipe()) for name in graph.layers})


def test_size_is_minimized_in_bytes(block):
    assert (Size(block).name, Size(block).direction) == ("size_bytes", "minimize")


# Weights of the block: stem 16*16*9 = 2304, conv1 and conv2 4608 each, linear 160; outputs 16 + 32 + 16 + 10 = 74.
# Where a layer is quantized, its inputs have a range, and all biases take 4 bytes.
@pytest.mark.parametrize(
    ("choice", "size_bytes"),
    [
        (LayerRecipe(), 2 * (2304 + 4608 + 4608 + 160) + 2 * 74),
        (LayerRecipe(quantize=INT8), (2304 + 4608 + 4608 + 160) + (4 + 4) * 74 + 4 * 4),
        (LayerRecipe(quantize=INT4), (2304 + 4608 + 4608 + 160) // 2 + (4 + 4) * 74 + 4 * 4),
        (LayerRecipe(quantize=Quantize(5, 8)), (2304 + 4608 + 4608 + 160) + (4 + 4) * 74 + 4 * 4),
    ],
)
def test_weights_scales_and_biases_are_counted_by_hand(choice, size_bytes, block):
    assert Size(block)(recipe_of(block, choice)) == size_bytes


def test_removed_channels_take_no_bytes(block):
    # conv1 keeps 16 of 32: 16*16*9 weights, and conv2 reads 16: the same number.
    recipe = recipe_of(block, conv1=LayerRecipe(Sparsify(0.5)))
    assert Size(block)(recipe) == 2 * (2304 + 2304 + 2304 + 160) + 2 * (74 - 16)


def test_a_split_layer_takes_the_bytes_of_its_halves(block):
    # conv1 at rank 8: 8*16*3 + 32*8*3 = 1152 weights; 8 + 32 scales where they are integers, and three ends of ranges.
    others = 2 * (2304 + 4608 + 160) + 2 * (74 - 32)
    whole = recipe_of(block, conv1=LayerRecipe(None, Decompose(8)))
    assert Size(block)(whole) == others + 2 * 1152 + 2 * 32
    quantized = recipe_of(block, conv1=LayerRecipe(None, Decompose(8), INT8))
    assert Size(block)(quantized) == others + 2 * (74 - 32) + 1152 + 4 * 40 + 4 * 32 + 4 * 3


@pytest.mark.parametrize(
    ("choice", "weights", "scales"),
    [
        (Decompose(4, "channel_svd"), 4 * 16 * 9 + 4 * 32, 4 + 32),
        (Decompose(6, "tucker2", 5), 16 * 5 + 5 * 6 * 9 + 6 * 32, 5 + 6 + 32),
        (Decompose(6, "tucker2"), 16 * 6 + 6 * 6 * 9 + 6 * 32, 6 + 6 + 32),
    ],
)
def test_every_kind_of_split_takes_the_bytes_of_its_parts(choice, weights, scales, block):
    def size(decompose):
        return Size(block)(recipe_of(block, conv1=LayerRecipe(None, decompose, INT8)))

    parts = 3 if choice.kind == "tucker2" else 2
    assert size(choice) - size(None) == (weights - 4608) + 4 * (scales - 32) + 4 * (2 * parts - 2)


def test_every_group_of_weights_has_a_scale(block):
    def size(group_size, **choice):
        layer = LayerRecipe(quantize=Quantize(4, 8, group_size=group_size, **choice))
        return Size(block)(recipe_of(block, linear=layer))

    # Their inputs stay in floating point, and have no range.
    assert size(4) - size(None) == 4 * (160 // 4 - 10 - 1)
    assert size(4, symmetric_weights=False) - size(4) == 4 * (160 // 4)


@pytest.mark.parametrize(("kind", "largest"), [("svd", 48), ("channel_svd", 32), ("tucker2", 32)])
def test_no_rank_is_larger_than_that_of_the_layer(kind, largest, block):
    def size(rank):
        return Size(block)(recipe_of(block, conv1=LayerRecipe(None, Decompose(rank, kind), INT8)))

    assert size(largest - 1) < size(largest) == size(largest + 1) == size(1000)


def test_corrected_biases_are_those_of_all_parts_whether_the_layer_had_one_or_not():
    network = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False)).eval()
    graph = trace(network, (torch.zeros(1, 8),))

    def size(correct_bias):
        choice = LayerRecipe(None, Decompose(3), Quantize(correct_bias=correct_bias))
        return Size(graph)(Recipe({"0": choice, "2": LayerRecipe()}))

    assert size(True) - size(False) == 4 * (3 + 8)


def test_a_depthwise_convolution_has_one_input_per_output():
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1)).eval()
    graph = trace(network, (torch.zeros(1, 3, 8, 8),))
    assert Size(graph)(recipe_of(graph)) == 2 * (48 + 144 + 64) + 2 * 36
    thinned = recipe_of(graph, **{"0": LayerRecipe(Sparsify(0.5)), "1": LayerRecipe(Sparsify(0.5))})
    assert Size(graph)(thinned) == 2 * (24 + 72 + 32) + 2 * 20


@pytest.mark.parametrize(
    ("first", "second"),
    [(None, None), (INT8, INT8), (INT4, INT4), (INT8, None), (None, INT4), (INT4, INT8)],
    ids=str,
)
def test_modelled_bytes_are_those_of_the_exported_weights(first, second, tmp_path):
    network = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    inputs = torch.randn(1, 64, 6, 6)
    graph = trace(network, (inputs,))
    recipe = Recipe({"0": LayerRecipe(quantize=first), "2": LayerRecipe(quantize=second)})
    model = quantize(network, recipe, [(inputs,)])
    stored = save_openvino(to_openvino(model, (inputs,), 1), tmp_path / "network.xml")
    assert Size(graph)(recipe) == pytest.approx(stored, rel=0.001)


class Embedded(nn.Module):
    """Nearly all weights are of no layer: an embedding, places, a LayerNorm. One layer is never used."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(1000, 32), nn.Parameter(torch.ones(7, 32))
        self.norm, self.first, self.folded = nn.LayerNorm(32), nn.Linear(32, 64), nn.BatchNorm1d(64)
        self.last, self.unused = nn.Linear(64, 5), nn.Linear(64, 1000)

    def forward(self, words):
        values = self.norm(self.words(words) + self.places).mean(1)
        return self.last(torch.relu(self.folded(self.first(values))))


@pytest.mark.parametrize("choice", [LayerRecipe(), LayerRecipe(quantize=Quantize())])
def test_weights_that_no_layer_has_are_counted(choice, tmp_path):
    network, words = Embedded().eval(), torch.arange(14).reshape(2, 7)
    graph = trace(network, (words,))
    assert (graph.embedding_weight_count, graph.other_weight_count) == (1000 * 32, 7 * 32 + 2 * 32)
    recipe = recipe_of(graph, choice)
    exported = to_openvino(quantize(network, recipe, [(words,)]), (words,), 2)
    assert Size(graph)(recipe) == pytest.approx(save_openvino(exported, tmp_path / "model.xml"), rel=0.03)


class Tied(nn.Module):
    """Its last layer has the weights of its embedding."""

    def __init__(self):
        super().__init__()
        self.words, self.inner, self.last = nn.Embedding(1000, 32), nn.Linear(32, 32), nn.Linear(32, 1000, bias=False)
        self.last.weight = self.words.weight

    def forward(self, words):
        return self.last(torch.relu(self.inner(self.words(words))))


@pytest.mark.parametrize("choice", [LayerRecipe(), LayerRecipe(quantize=Quantize())])
def test_an_embeddings_weights_are_stored_beside_those_of_a_tied_layer_that_is_quantized(choice, tmp_path):
    network, words = Tied().eval(), torch.arange(14).reshape(2, 7)
    graph = trace(network, (words,))
    recipe = recipe_of(graph, choice)
    exported = to_openvino(quantize(network, recipe, [(words,)]), (words,), 2)
    assert Size(graph)(recipe) == pytest.approx(save_openvino(exported, tmp_path / "model.xml"), rel=0.001)
