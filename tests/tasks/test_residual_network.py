import pytest
import torch
from gulliver.tasks.residual_network import ResidualNetwork
from torch import fx


def network(widths=(8, 16), stem_stride=1):
    return ResidualNetwork(widths, blocks_per_stage=2, stem_stride=stem_stride, in_channels=3, classes=5).eval()


@pytest.mark.parametrize(("widths", "stem_stride"), [((8,), 1), ((8, 16), 2), ((5, 7, 9), 1)])
def test_logits_have_one_column_per_class(widths, stem_stride):
    assert network(widths, stem_stride)(torch.zeros(2, 3, 13, 11)).shape == (2, 5)


def test_tracing_changes_nothing():
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    plain = network()
    torch.testing.assert_close(fx.symbolic_trace(plain)(images), plain(images), rtol=0, atol=0)


def test_names_say_where_a_layer_is():
    names = {name for name, module in network().named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert {"stem.conv", "stages.0.0.conv1", "stages.1.1.conv2", "stages.1.0.shortcut.conv"} <= names
    assert "stages.0.0.shortcut.conv" not in names


def test_each_later_stage_halves_the_map():
    shapes = {}
    model = network((8, 16, 32))
    for name in ("stages.0", "stages.1", "stages.2"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: output.shape[2:]})
        )
    model(torch.zeros(1, 3, 16, 16))
    assert shapes == {"stages.0": (16, 16), "stages.1": (8, 8), "stages.2": (4, 4)}
