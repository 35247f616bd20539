import pytest
import torch
from gulliver.compressors.layer_inputs import (
    as_memory_holds,
    calls_of,
    outputs_as_rows,
    patches,
    product_sums,
    weight_matrix,
)
from torch import nn

LAYERS = [
    (nn.Linear(6, 5), (4, 6)),
    (nn.Linear(6, 5), (4, 3, 6)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (3, 4, 11)),
    (nn.Conv1d(4, 6, 3, padding="same", groups=2), (3, 4, 11)),
    (nn.Conv2d(4, 6, 3), (3, 4, 9, 8)),
    (nn.Conv2d(4, 6, (3, 1), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (3, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=(1, 3)), (3, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="valid"), (3, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (3, 4, 9, 8)),
    (nn.Conv2d(4, 8, 3, groups=2), (3, 4, 9, 8)),
    (nn.Conv2d(4, 4, 3, groups=4, padding=1), (3, 4, 9, 8)),
    (nn.Conv2d(4, 6, 1), (3, 4, 9, 8)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda it: str(it).replace(" ", ""))
def test_a_layers_outputs_are_its_patches_times_its_weights(layer, shape):
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        products = patches(layer, inputs) @ weight_matrix(layer).transpose(1, 2)
        by_patches = products.transpose(0, 1).flatten(1) + layer.bias
        torch.testing.assert_close(by_patches, outputs_as_rows(layer, layer(inputs)), rtol=1e-4, atol=1e-5)


def test_products_are_summed_over_all_inputs():
    layer = nn.Linear(3, 2)
    batches = [torch.randn(40, 3), torch.randn(5, 3)]
    rows = torch.cat(batches).double()
    torch.testing.assert_close(product_sums(layer, batches)[0], rows.T @ rows, rtol=1e-5, atol=1e-5)


def test_a_layer_that_is_called_twice_gives_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, values):
            return self.linear(self.linear(values))

    network = Twice()
    (first, middle), (second, last) = calls_of(network, "linear", [(torch.ones(1, 2),)])
    assert torch.equal(first, torch.ones(1, 2))
    assert torch.equal(middle, second)
    assert torch.equal(last, network(torch.ones(1, 2)))
    assert not network.linear._forward_hooks


def test_names_come_in_order_as_many_as_memory_holds_or_one_that_it_does_not():
    sizes = {"a": 3, "b": 2, "c": 9, "d": 1, "e": 4}
    assert [*as_memory_holds(sizes, 5)] == [("a", "b"), ("c",), ("d", "e")]
    assert [*as_memory_holds({}, 5)] == []
