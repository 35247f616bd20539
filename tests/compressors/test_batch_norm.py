import copy

import pytest
import torch
from gulliver.compressors.batch_norm import fold_batch_norms, reestimate_batch_norms
from torch import fx, nn


def lively(network):
    """Give every batch norm statistics and an affine map that differ from channel to channel."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -1, 2)
                nn.init.uniform_(module.bias, -1, 1)
    return network.eval()


def batch_norms(module):
    return [it for it in module.modules() if isinstance(it, nn.BatchNorm1d | nn.BatchNorm2d)]


def folded(network):
    traced = fold_batch_norms(fx.symbolic_trace(network))
    left = [node for node in traced.graph.nodes if isinstance(_module(traced, node), nn.BatchNorm1d | nn.BatchNorm2d)]
    return traced, len(left)


def _module(traced, node):
    return traced.get_submodule(node.target) if node.op == "call_module" else None


IMAGES, ROWS = (4, 3, 9, 9), (4, 3)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()), IMAGES),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), IMAGES),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False)), IMAGES),
        (nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)), (4, 3, 9)),
        (nn.Sequential(nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8)), ROWS),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)), IMAGES),
    ],
)
def test_a_folded_network_gives_what_it_gave_without_any_batch_norm(network, shape):
    network = lively(network)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    traced, left = folded(network)
    assert left == 0
    with torch.no_grad():
        torch.testing.assert_close(traced(inputs), network(inputs), rtol=1e-5, atol=1e-5)


class SharedConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.second(self.conv(torch.relu(self.first(self.conv(images)))))


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images):
        features = self.conv(images)
        return self.norm(features) + features


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (SharedConvolution(), 2),
        (ReadTwice(), 1),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)), 1),
    ],
)
def test_a_batch_norm_that_cannot_be_folded_stays_and_the_outputs_with_it(network, left):
    network = lively(network)
    inputs = torch.randn(IMAGES)
    traced, remaining = folded(network)
    assert remaining == left
    with torch.no_grad():
        torch.testing.assert_close(traced(inputs), network(inputs))


def test_folding_leaves_the_network_itself_untouched():
    network = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    before = copy.deepcopy(network.state_dict())
    folded(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert len(batch_norms(network)) == 1


def test_statistics_are_the_averages_over_all_calibration_inputs():
    network = lively(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)))
    calibration = [(torch.randn(4, 3, 8, 8) * 3 + 1,), (torch.randn(4, 3, 8, 8) - 2,), (torch.rand(4, 3, 8, 8),)]
    conv, momentum = network[1], network[0].momentum
    first, second, means, variances = [], [], [], []
    with torch.no_grad():
        for (images,) in calibration:
            first.append(images.mean((0, 2, 3)))
            second.append(images.var((0, 2, 3)))
            mean, variance = images.mean((0, 2, 3), keepdim=True), images.var((0, 2, 3), unbiased=False, keepdim=True)
            scale, shift = (value[None, :, None, None] for value in (network[0].weight, network[0].bias))
            features = conv((images - mean) / (variance + 1e-5).sqrt() * scale + shift)
            means.append(features.mean((0, 2, 3)))
            variances.append(features.var((0, 2, 3)))
    assert reestimate_batch_norms(network, calibration) is network
    torch.testing.assert_close(network[0].running_mean, torch.stack(first).mean(0))
    torch.testing.assert_close(network[0].running_var, torch.stack(second).mean(0))
    torch.testing.assert_close(network[2].running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(network[2].running_var, torch.stack(variances).mean(0))
    assert network[0].momentum == momentum
    assert not any(module.training for module in network.modules())
