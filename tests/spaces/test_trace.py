import pytest
import torch
from gulliver.spaces.trace import symbolic_trace, trace
from gulliver.tasks.errors import InputError
from torch import nn


def test_shapes_and_multiply_accumulates_are_those_by_hand(plain):
    conv1, conv2, linear = (plain.layers[name] for name in ("conv1", "conv2", "linear"))
    assert (conv1.kind, conv1.kernel_size, conv1.stride, conv1.padding, conv1.dilation, conv1.groups) == (
        "conv2d",
        (3, 3),
        (2, 2),
        (1, 1),
        (1, 1),
        1,
    )
    assert (conv1.input_shape, conv1.output_shape) == ((1, 3, 8, 8), (1, 64, 4, 4))
    assert (conv1.macs, conv1.weight_count) == (16 * 64 * 3 * 9, 64 * 3 * 9)
    assert (conv2.macs, conv2.weight_count) == (16 * 64 * 64 * 9, 64 * 64 * 9)
    assert (linear.kind, linear.kernel_size, linear.stride) == ("linear", (), ())
    assert (linear.in_channels, linear.out_channels, linear.macs) == (1024, 10, 10240)
    assert [layer.has_bias for layer in (conv1, conv2, linear)] == [False, True, True]


def test_grouped_layers_cost_a_share_and_padding_in_words_becomes_numbers(mixed):
    assert mixed.layers["depthwise"].macs == 64 * 32 * 1 * 9
    assert mixed.layers["grouped"].macs == 64 * 16 * 8 * 9
    assert mixed.layers["grouped"].weight_count == 16 * 8 * 9
    assert mixed.layers["left"].padding == (2, 2)


def test_shapes_are_of_the_whole_batch_of_examples(plain_network):
    graph = trace(plain_network, (torch.zeros(5, 3, 8, 8),))
    assert graph.layers["conv1"].output_shape == (5, 64, 4, 4)
    assert graph.layers["linear"].macs == 5 * 10240


def test_a_batch_norm_is_paired_with_the_layer_that_it_alone_follows(plain, residual):
    assert {name: layer.batch_norm for name, layer in plain.layers.items()} == {
        "conv1": "norm1",
        "conv2": None,
        "linear": None,
    }
    assert residual.layers["conv2"].batch_norm == "norm2"


def test_a_batch_norm_is_not_paired_where_the_layers_output_is_read_elsewhere_too():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

        def forward(self, images):
            features = self.conv(images)
            return self.norm(features) + features

    assert trace(Shared().eval(), (torch.zeros(1, 3, 4, 4),)).layers["conv"].batch_norm is None


def test_operations_are_in_order_with_what_they_read(residual):
    operations = {operation.name: operation for operation in residual.operations}
    assert [(it.kind, it.layer) for it in residual.operations] == [
        ("input", None),
        ("conv2d", "stem"),
        ("relu", None),
        ("conv2d", "conv1"),
        ("batch_norm", None),
        ("relu", None),
        ("conv2d", "conv2"),
        ("batch_norm", None),
        ("add", None),
        ("relu", None),
        ("pool", None),
        ("flatten", None),
        ("linear", "linear"),
    ]
    assert operations["add"].inputs == ("norm2", "relu")
    assert operations["add"].shape == (1, 32, 8, 8)
    assert operations["flatten"].shape == (1, 32)


def test_what_does_nothing_is_no_operation():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(), nn.Identity(), nn.ReLU()).eval()
    operations = trace(network, (torch.zeros(1, 3, 4, 4),)).operations
    assert [(it.kind, it.inputs) for it in operations] == [("input", ()), ("conv2d", ("input_1",)), ("relu", ("_0",))]


def test_an_unknown_operation_is_named_other():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, images):
            return torch.sin(self.conv(images)) * 2

    kinds = [operation.kind for operation in trace(Odd(), (torch.zeros(1, 3, 4, 4),)).operations]
    assert kinds == ["input", "conv2d", "other", "other"]


def test_one_dimensional_layers_are_read_too():
    network = nn.Sequential(nn.Conv1d(4, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU()).eval()
    layer = trace(network, (torch.zeros(1, 4, 20),)).layers["0"]
    assert (layer.kind, layer.kernel_size, layer.output_shape, layer.batch_norm) == ("conv1d", (5,), (1, 8, 10), "1")
    assert layer.macs == 10 * 8 * 4 * 5


def test_control_flow_that_depends_on_data_is_refused_in_one_line():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, values):
            return self.linear(values) if values.sum() > 0 else values

    with pytest.raises(InputError, match=r"^the network cannot be traced by torch.fx: symbolically traced") as caught:
        trace(Branching(), (torch.zeros(1, 4),))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        symbolic_trace(Branching())


def test_a_loop_over_data_is_refused():
    class Looping(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, values):
            for _ in range(len(values)):
                values = self.linear(values)
            return values

    with pytest.raises(InputError, match="cannot be traced"):
        trace(Looping(), (torch.zeros(2, 4),))


@pytest.mark.parametrize("named", ["conv", "norm", "drop"])
def test_a_module_that_is_given_its_input_by_name_is_refused_a_function_is_not(named):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout()

        def forward(self, values):
            for name in ("conv", "norm", "drop"):
                module = getattr(self, name)
                values = module(input=values) if name == self.named else module(values)
            return torch.relu(input=values)

    network, inputs = Network().eval(), (torch.zeros(1, 3, 4, 4),)
    network.named = named
    with pytest.raises(InputError, match=f"^modules must be .* by position, but {named} is given it by name$"):
        trace(network, inputs)
    network.named = ""
    assert trace(network, inputs).operations[-1].kind == "relu"


def test_a_network_without_a_layer_is_refused():
    with pytest.raises(InputError, match="must have at least one Conv1d, Conv2d or Linear layer, but has none"):
        trace(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)).eval(), (torch.zeros(1, 3, 4, 4),))


def test_tracing_leaves_the_network_as_it_was(plain_network):
    before = {name: value.clone() for name, value in plain_network.state_dict().items()}
    trace(plain_network, (torch.randn(2, 3, 8, 8),))
    assert not plain_network.training
    assert all(torch.equal(before[name], value) for name, value in plain_network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in plain_network.parameters())


def test_what_others_depend_on_is_named_beside_its_kind():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.up, self.silu = nn.Linear(4, 4), nn.Linear(4, 4), nn.SiLU()

        def forward(self, values):
            return self.silu(self.gate(values)) * torch.nn.functional.silu(self.up(values)) + torch.mul(values, 2)

    operations = trace(Gated().eval(), (torch.zeros(1, 4),)).operations
    named = [(it.kind, it.function) for it in operations if it.function]
    assert named == [("activation", "silu"), ("activation", "silu"), ("other", "mul"), ("other", "mul")]
