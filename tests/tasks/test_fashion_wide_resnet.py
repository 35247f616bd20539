import torch
from gulliver.tasks.fashion_resnet import FashionResNet
from gulliver.tasks.fashion_wide_resnet import FashionWideResNet


def test_every_layer_is_as_wide_as_its_stage():
    network = FashionWideResNet()._untrained_model()
    convolutions = [it for it in network.modules() if isinstance(it, torch.nn.Conv2d)]
    assert [it.out_channels for it in convolutions] == [64, 64, 64, 128, 128, 128, 256, 256, 256]
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_network_has_more_than_a_million_parameters():
    # By hand: stem 704; blocks of 73,984, 230,144 and 919,040; classifier 2,570.
    network = FashionWideResNet()._untrained_model()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_226_442


def test_its_weights_are_kept_apart_from_those_of_the_narrow_one():
    assert FashionWideResNet().weights_path != FashionResNet().weights_path


def test_its_data_is_that_of_the_narrow_one(fashion_splits, monkeypatch):
    monkeypatch.setattr(FashionResNet, "_load_splits", lambda self: fashion_splits)
    wide, narrow = FashionWideResNet(), FashionResNet()
    assert torch.equal(wide.example_inputs[0], narrow.example_inputs[0])
    assert (wide.size("search"), wide.size("test")) == (5000, 5000)
