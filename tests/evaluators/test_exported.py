import pytest
import torch
from gulliver.compressors.compress import compress
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.evaluators.accuracy import score
from gulliver.evaluators.exported import OpenvinoModule
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe

CHOICES = {
    "float": LayerRecipe(),
    "int8": LayerRecipe(quantize=Quantize()),
    "split": LayerRecipe(None, Decompose(12, "channel_svd"), Quantize(calibrator="entropy")),
    "split by tucker": LayerRecipe(None, Decompose(12, "tucker2"), Quantize(calibrator="mse")),
}


@pytest.fixture(scope="module", params=CHOICES)
def network(request, digits_original, tmp_path_factory):
    """Return a simulated network of the digits task and the file that it is exported to."""
    choice = CHOICES[request.param]
    model = compress(digits_original, Recipe(dict.fromkeys(digits_original.graph.layers, choice)))
    path = tmp_path_factory.mktemp("exported") / "network.xml"
    save_openvino(to_openvino(model, digits_original.task.example_inputs, 32), path)
    return model, path


@pytest.mark.parametrize("split", ["search", "test"])
@pytest.mark.parametrize("float_type", ["float32", "bfloat16"])
def test_the_exported_network_scores_what_the_simulated_one_does(float_type, split, network, digits):
    model, path = network
    assert score(digits, OpenvinoModule(path, float_type), split) == pytest.approx(
        score(digits, model, split), abs=0.01
    )


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_an_exported_network_takes_any_batch(batch, network, digits):
    model, path = network
    images = digits.normalization(digits.splits.search.images[:batch])
    with torch.no_grad():
        wanted = model(images)
    given = OpenvinoModule(path, "float32")(images)
    assert given.shape == (batch, 10)
    torch.testing.assert_close(given, wanted, rtol=0, atol=0.02 * wanted.abs().max().item())


def test_outputs_are_not_overwritten_by_the_next_call(network, digits):
    module = OpenvinoModule(network[1], "float32")
    images = digits.normalization(digits.splits.search.images[:2])
    first = module(images)
    kept = first.clone()
    module(-images)
    assert torch.equal(first, kept)
