import pytest
from gulliver.evaluators.latency.published_kernel import chip_of, read_kernel
from gulliver.tasks.errors import InputError

ROW = {
    "hardware": "ascend910b2",
    "op": "grouped_matmul",
    "activation_dtype": "fp16",
    "weight_dtype": "float16",
    "groups": "4",
    "m": "64",
    "n": "32",
    "k": "48",
    "group_list": "[16, 16, 48, 60]",
    "notes": "",
    "time_us": "",
    "source": "",
}


def test_group_lists_are_cumulative():
    kernel = read_kernel(ROW)
    assert kernel.group_rows == (16, 0, 32, 12)
    assert (kernel.chip, kernel.activation, kernel.time_us) == ("ascend_910b2", "float16", None)


def test_without_a_list_groups_are_alike():
    assert read_kernel(ROW | {"group_list": "", "m": "10"}).group_rows == (3, 3, 2, 2)


def test_rows_of_routed_experts_are_those_that_reach_the_card():
    notes = "tokens/global-rank=8 topk8 E256 ep=32 dist=balanced"
    experts = {"op": "moe_ffn_2gemm_swiglu", "hardware": "nvidia_h200", "groups": "8", "group_list": "", "m": "32"}
    assert read_kernel(ROW | experts | {"notes": notes}).group_rows == (1,) * 8


def test_cores_that_a_table_leaves_open_are_in_the_notes():
    assert chip_of("ascend910b(20/24core)", "20 AIC, L1 128x256x256 (24 tiles)") == "ascend_910b3"
    assert chip_of("ascend910b(20/24core)", "24 AIC, 6 tiles") == "ascend_910b2"
    assert chip_of("nvidia_l40s") == "nvidia_l40s"


def test_a_stated_tile_is_taken():
    assert read_kernel(ROW | {"notes": "20 AIC, L1 128x256x256 (24 tiles)"}).tile == (128, 256)


@pytest.mark.parametrize(
    ("changes", "output"),
    [
        ({}, "float16"),
        ({"activation_dtype": "bf16"}, "bfloat16"),
        ({"activation_dtype": "int8"}, "float16"),
        ({"notes": '{"output_dtype": "int32"}'}, "int32"),
        ({"notes": '{"output_dtype": "bf16"}'}, "bfloat16"),
        ({"notes": '{"output_dtype": "char"}'}, "float16"),
    ],
)
def test_a_result_is_of_the_type_that_the_notes_state_or_of_the_activations(changes, output):
    assert read_kernel(ROW | changes).output == output


@pytest.mark.parametrize(
    ("activation", "weight", "scheme"),
    [
        ("fp16", "bf16", "float"),
        ("fp16", "int8", "w8"),
        ("bf16", "fp8", "w8"),
        ("fp16", "int4", "w4"),
        ("int8", "int8", "int8"),
        ("int8", "int4", "w4a8"),
        ("int4", "int4", "int4"),
        ("fp8", "fp8", "float8"),
    ],
)
def test_precisions_of_both_sides_make_a_scheme(activation, weight, scheme):
    kernel = read_kernel(ROW | {"activation_dtype": activation, "weight_dtype": weight})
    assert (kernel.scheme, kernel.family) == (scheme, f"grouped_matmul-{scheme}")


def test_a_pass_without_a_matmul_is_of_the_float_scheme():
    row = ROW | {"op": "dequant_swiglu_quant", "activation_dtype": "int32", "weight_dtype": "fp32", "k": "0"}
    assert read_kernel(row).scheme == "float"


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({}, "rows"),
        ({"notes": '{"transpose_weight": true}'}, "columns"),
        ({"notes": "B in zN"}, "nz"),
        ({"notes": "with TransData"}, "nz"),
        ({"op": "grouped_matmul_swiglu_quant"}, "nz"),
    ],
)
def test_weights_lie_as_the_notes_or_the_kernel_say(changes, layout):
    assert read_kernel(ROW | changes).weight_layout == layout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hardware": "nvidia_h800"}, "unknown hardware nvidia_h800; known are"),
        ({"hardware": ""}, r"unknown hardware \(empty\)"),
        ({"op": "conv3d"}, "op conv3d is not modelled"),
        ({"weight_dtype": "fp3"}, "weight_dtype must be one of .*, but is fp3"),
        ({"m": "1.5"}, "m must be a whole number of at least 1, but is 1.5"),
        ({"m": "-4"}, "m must be a whole number"),
        ({"k": "0"}, "k must be a whole number of at least 1, but is 0"),
        ({"n": "nan"}, "n must be a whole number"),
        ({"op": "grouped_matmul_swiglu_quant", "n": "33"}, "n must be even, half of it act and half gate, but is 33"),
        ({"op": "dequant_swiglu_quant", "n": "1"}, "n must be even, half of it act and half gate, but is 1"),
        ({"groups": "99999"}, "groups must be at most 1024"),
        ({"time_us": "-3"}, "time_us must be from 0.001 to 8.64e\\+10 or empty, but is -3"),
        ({"time_us": "nan"}, "time_us must be from"),
        ({"time_us": "1e300"}, "time_us must be from"),
        ({"group_list": "[16, 32]"}, "group_list must be a list of 4 whole numbers"),
        ({"group_list": "{}"}, "group_list must be a list of 4"),
        ({"group_list": "[1, 2, 3"}, "group_list must be a list of 4"),
        ({"group_list": "[" * 100_000}, "group_list must be a list of 4"),
        ({"group_list": "[16, 8, 48, 60]"}, "group_list must not fall"),
        ({"group_list": "[16, 16, 48, 65]"}, "must end at m = 64 or before"),
    ],
)
def test_malformed_rows_name_column_rule_and_value(changes, message):
    with pytest.raises(InputError, match=message):
        read_kernel(ROW | changes)
