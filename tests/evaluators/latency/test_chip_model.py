import dataclasses
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from gulliver.evaluators.latency.chip import chip_names, read_chip
from gulliver.evaluators.latency.chip_fit import fit_efficiencies, published_kernels, read_fit, write_fit
from gulliver.evaluators.latency.chip_model import BOUNDS, price, roofline
from gulliver.evaluators.latency.chip_prediction import predict
from gulliver.evaluators.latency.chip_work import work
from gulliver.evaluators.latency.kernel_stages import StagedKernel, ways
from gulliver.evaluators.latency.mlp_kernels import GatedMlp, mlp_kernels, unfused_mlp_kernels
from gulliver.evaluators.latency.published_kernel import PublishedKernel
from gulliver.tasks.errors import InputError

ASCEND_KINDS = (
    ("quant_matmul", "int8", "int8"),
    ("quant_matmul", "int8", "int4"),
    ("grouped_matmul", "bfloat16", "bfloat16"),
    ("weight_quant_batch_matmul", "float16", "int8"),
    ("weight_quant_batch_matmul", "float16", "int4"),
    ("grouped_matmul_swiglu_quant", "int8", "int8"),
    ("gmm_deq_swiglu_quant_gmm_deq", "int8", "int8"),
)
NVIDIA_KINDS = (
    ("gemm", "int8", "int8"),
    ("gemm", "float16", "float16"),
    ("gemm", "float16", "int8"),
    ("gemm", "float16", "int4"),
    ("moe_ffn_2gemm_swiglu", "bfloat16", "bfloat16"),
)
KINDS = [(chip, *it) for chip in chip_names() for it in (NVIDIA_KINDS if "nvidia" in chip else ASCEND_KINDS)]
# Groups, rows of each, n and k; other widths than multiples of 32 may take another kernel.
GRID = ((1, 3, 16), (1, 17, 64, 65, 129, 1024), (32, 96, 576, 4096), (32, 512, 2048, 7168))
ASCEND_910 = ("ascend_910b1", "ascend_910b2", "ascend_910b3", "ascend_910b4")


def matmul(chip, m, n, k, activation="int8", weight="int8", operation="quant_matmul", **rest):
    return PublishedKernel(chip, operation, activation, weight, rest.pop("group_rows", (m,)), m, n, k, **rest)


def grouped(chip, group_rows, operation="grouped_matmul_swiglu_quant", **rest):
    return PublishedKernel(chip, operation, "int8", "int8", tuple(group_rows), sum(group_rows), 4096, 7168, **rest)


def of_all_sizes(chip, operation, activation, weight):
    return [
        matmul(chip, groups * rows, n, k, activation, weight, operation, group_rows=(rows,) * groups)
        for groups, rows, n, k in product(*GRID)
    ]


def seconds(*kernels, mode="model"):
    return sum(it.seconds for it in predict(kernels, mode))


def test_the_roofline_by_hand():
    # 2 * 1024 * 4096 * 4096 int8 operations over 2 * 24 * 8192 * 1.8e9 a second: 48.54 us; memory takes 16.4 us less.
    compute_bound = matmul("ascend_910b2", 1024, 4096, 4096)
    # 4096 * 4096 weights, as many scales of 4 bytes as columns, 4096 inputs, 4096 float16 results over 1.6e12 bytes/s.
    memory_bound = matmul("ascend_910b2", 1, 4096, 4096)
    expected = [1024 * 4096 * 4096 / (24 * 8192 * 1.8e9), (4096**2 + 4 * 4096 + 4096 + 2 * 4096) / 1.6e12]
    assert roofline([compute_bound, memory_bound]) == pytest.approx(expected, rel=1e-12)
    assert expected[0] == pytest.approx(48.55e-6, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_the_model_is_never_faster_than_the_roofline(kind):
    kernels = of_all_sizes(*kind)
    assert (price(kernels, read_fit(read_chip(kind[0]).fit)).seconds > roofline(kernels)).all()


def test_a_table_is_priced_as_its_rows_are():
    kernels = [kernel for kernel in published_kernels() if kernel.chip == "ascend_910b2"]
    fit = read_fit("ascend_910b")
    together = price(kernels, fit)
    alone = [price([kernel], fit) for kernel in kernels]
    assert together.seconds == pytest.approx([it.seconds[0] for it in alone], rel=1e-12)
    assert list(together.bound_by) == [it.bound_by[0] for it in alone]


def test_tiles_are_dealt_to_cores_in_turn_from_group_to_group():
    # 7 tiles of 128 rows and 3 of 16 rows on 24 cores: one a core, so the busiest has one full tile.
    one_wave = work([matmul("ascend_910b2", 944, 256, 512, group_rows=(896, 16, 16, 16), notes="L1 128x256")])
    assert one_wave.tiles[0, 0] == 1
    assert one_wave.matrix_s[0, 0] == pytest.approx(8 * 16 * 16 / 1.8e9)
    # 23 full tiles and 2 small ones: the second small one comes after a full tile, on the first core.
    two_waves = work([matmul("ascend_910b2", 2976, 256, 512, group_rows=(2944, 16, 16), notes="L1 128x256")])
    assert two_waves.tiles[0, 0] == 2
    assert two_waves.matrix_s[0, 0] == pytest.approx((8 + 1) * 16 * 16 / 1.8e9)


def test_the_busiest_core_has_a_full_tile_where_its_group_has_one():
    # 129 rows are one tile of 128 and one of 1, 257 columns one of 256 and one of 1: four tiles, one a core.
    done = work([matmul("ascend_910b2", 129, 257, 512, notes="L1 128x256")])
    assert done.tiles[0, 0] == 1
    assert done.matrix_s[0, 0] == pytest.approx(8 * 16 * 16 / 1.8e9)


def test_outside_the_fused_kernels_the_vector_unit_starts_when_the_matrix_unit_is_done():
    plain = matmul("ascend_910b2", 1024, 3584, 3584, notes='{"output_dtype": "float16"}')
    by_rows = replace(plain, notes='{"output_dtype": "float16"} pertoken')
    done, fit = work([by_rows]), read_fit("ascend_910b")
    # 8 float16 operations on each of 1024 x 3584 results, and 8 bytes of each through L2 besides.
    vector_s = 8 * 1024 * 3584 / 11.06e12 / fit.vector_efficiency
    assert done.in_turn[0, 0]
    assert done.vector_s[0, 0] == pytest.approx(8 * 1024 * 3584 / 11.06e12)
    assert seconds(by_rows) - seconds(plain) > vector_s
    assert work([replace(plain, operation="catlass_quant_matmul")]).in_turn.all()
    assert not work([grouped("ascend_910b2", [64])]).in_turn.any()
    assert not work([replace(by_rows, chip="ascend_950pr")]).in_turn.any()


def test_widened_weights_are_handed_to_the_matrix_unit_block_by_block():
    widened = matmul(
        "ascend_910b2", 128, 2048, 4096, "float16", "int8", "weight_quant_batch_matmul", notes="L1 128x256"
    )
    # 2048 / 256 tiles on 24 cores: one each, of 4096 / 256 blocks.
    assert work([widened]).blocks[0, 0] == 16
    assert work([replace(widened, weight="float16")]).blocks[0, 0] == 0
    assert work([replace(widened, chip="ascend_950pr")]).blocks[0, 0] == 0


def test_multiprocessors_widen_weights_for_every_tile_of_rows():
    widened = matmul("nvidia_a100", 1024, 2048, 4096, "float16", "int8", "gemm", notes="L1 128x256")
    # 8 tiles of rows, 2 float16 operations a weight, 38.98e12 of them a second.
    assert work([widened]).widening_s[0, 0] == pytest.approx(8 * 2048 * 4096 * 2 / 38.98e12)
    two_groups = replace(widened, group_rows=(1000, 24))
    assert work([two_groups]).widening_s[0, 0] == pytest.approx((8 + 1) * 2048 * 4096 * 2 / 38.98e12)
    assert not work([replace(widened, weight="float16"), replace(widened, chip="ascend_950pr")]).widening_s.any()


def test_multiprocessors_multiply_no_weights_while_they_widen_them():
    kernel = matmul("nvidia_a100", 4096, 4096, 4096, "float16", "int8", "gemm", notes="L1 256x128")
    done, fit = work([kernel]), read_fit("nvidia_a100")
    none_widened = price([kernel], fit, replace(done, widening_s=0 * done.widening_s))
    widening_s = done.widening_s[0, 0] / fit.vector_efficiency
    # The matrix unit bounds it, and what else there is hides behind it.
    assert (price([kernel], fit, done).seconds - none_widened.seconds)[0] == pytest.approx(widening_s, rel=0.1)


def test_weights_of_few_rows_are_multiplied_as_they_are_by_activations_in_two_int8_parts():
    few = matmul("ascend_910b2", 64, 2048, 4096, "float16", "int8", "weight_quant_batch_matmul", notes="L1 64x256")
    (plain,), (decompose, multiply) = ways(few)
    assert (plain.precision, plain.hands_weights_over) == ("float16", True)
    assert (decompose.k, decompose.rows) == (0, 64)
    assert (multiply.precision, multiply.row_factor) == ("int8", 2)
    # 8 of 24 cores have a tile of 64 rows, each in two parts: 8 x 16 x 128 blocks of 16 x 16 x 32.
    assert work([few]).matrix_s[2, 0] == pytest.approx(8 * 16 * 128 / 1.8e9)
    assert (work([few]).blocks[:, 0] > 0).tolist() == [True, False, False]
    more = matmul("ascend_910b2", 65, 2048, 4096, "float16", "int8", "weight_quant_batch_matmul")
    assert len(ways(more)) == 1
    assert work([more]).blocks.min() > 0


@pytest.mark.parametrize(("m", "k", "fastest"), [(64, 32, 0), (1, 4096, 1)])
def test_weights_of_few_rows_take_the_faster_of_two_ways(m, k, fastest):
    few = matmul("ascend_910b2", m, 14336, k, "float16", "int4", "weight_quant_batch_matmul")
    alone = [StagedKernel(few.chip, few.operation, few.family, way) for way in ways(few)]
    seconds_alone = price(alone, read_fit("ascend_910b")).seconds
    assert seconds_alone.argmin() == fastest
    assert seconds(few) == pytest.approx(seconds_alone.min())


def test_columns_of_few_rows_are_dealt_evenly_to_the_cores():
    # 7168 / 24 = 298.7, so 304 columns a core and one turn; of tiles of 256 columns four cores would have a second.
    done = work([matmul("ascend_910b2", 1, 7168, 7168)])
    assert done.tiles[0, -1] == 1
    assert done.tiles[0, 0] == 2
    assert done.pieces[0, -1] == 7168 + 7168 / 512 / 24
    # 1536 / 24 = 64, the narrowest; 65 rows are not few, and get the first tile again.
    assert work([matmul("ascend_910b2", 2, 1536, 5120)]).tiles[0, -1] == 1
    many = work([matmul("ascend_910b2", 65, 1536, 5120)])
    assert many.load_s[0, -1] == many.load_s[0, 0]


def test_even_columns_end_where_their_group_does():
    # 5 groups on 24 cores: 4 tiles of 512 columns each; of 432, as many as a core has, each would have a fifth.
    five_groups = matmul("ascend_910b2", 5, 2048, 512, group_rows=(1,) * 5)
    assert work([five_groups]).tiles[0, -1] == 1


def test_even_columns_of_few_rows_are_those_of_64():
    # A wider tile has more pieces of 512 bytes in a row: at 8 rows it would take longer than a narrow one at 17.
    rows = [(8,) * 16, (17,) * 16, (64,) * 16]
    kernels = [matmul("ascend_910b2", sum(it), 4096, 14336, weight="int4", group_rows=it) for it in rows]
    few, more, most = (work([kernel]) for kernel in kernels)
    assert few.pieces[0, -1] < more.pieces[0, -1] < most.pieces[0, -1]
    assert few.tiles[0, -1] == more.tiles[0, -1] == most.tiles[0, -1]


def test_a_core_waits_for_every_512_bytes_of_a_row_that_is_not_in_l2():
    kernel = matmul("ascend_910b2", 256, 6144, 2048, "float16", "float16", "grouped_matmul", notes="L1 128x256")
    # 24 tiles of weights, of 2048 rows of 512 bytes, and 2 of activations, of 128 rows of 8 pieces, on 24 cores.
    assert work([kernel]).pieces[0, 0] == pytest.approx(2048 + 2 / 24 * 128 * 8)
    three_groups = replace(kernel, m=768, group_rows=(256,) * 3)
    assert work([three_groups]).pieces[0, 0] == pytest.approx(3 * 2048 + 6 / 24 * 128 * 8)
    transposed = replace(kernel, notes='"transpose_weight": true L1 128x256')
    assert work([transposed]).pieces[0, 0] == pytest.approx(256 * 8 + 2 / 24 * 128 * 8)
    own_layout = replace(kernel, notes="B zN L1 128x256")
    assert work([own_layout]).pieces[0, 0] == pytest.approx(2 / 24 * 128 * 8)
    assert seconds(own_layout) < seconds(transposed)
    assert seconds(own_layout) < seconds(kernel)
    assert not work([replace(kernel, chip="nvidia_a100")]).pieces.any()


def test_results_of_the_last_tiles_have_nothing_to_hide_behind():
    kernel = matmul("ascend_950pr", 1024, 2048, 2048, notes="L1 256x256")
    # 32 tiles on 32 cores: all results, of two bytes, at 1.6e12 bytes a second.
    assert work([kernel]).drain_s[0, 0] == pytest.approx(1024 * 2048 * 2 / 1.6e12)
    # 40 tiles, of which 8 have a single row: a core may end with a full one.
    for rows in (1025, 4096):
        longer = replace(kernel, m=rows, group_rows=(rows,))
        assert work([longer]).drain_s[0, 0] == pytest.approx(1024 * 2048 * 2 / 1.6e12)
    # 32 tiles of 256 rows have room for more results than there are.
    shorter = replace(kernel, m=1000, group_rows=(1000,))
    assert work([shorter]).drain_s[0, 0] == pytest.approx(1000 * 2048 * 2 / 1.6e12)
    assert not work([replace(kernel, chip="nvidia_l40s", operation="gemm")]).drain_s.any()


def test_20_tiles_are_faster_than_24_on_20_cores():
    shape = ("ascend_910b3", 1024, 576, 6144, "float16", "float16", "catlass_matmul")
    tall, wide = matmul(*shape, notes="20 AIC, L1 256x128x256"), matmul(*shape, notes="20 AIC, L1 128x256x256")
    assert work([tall]).tiles[0, 0] == 1
    assert work([wide]).tiles[0, 0] == 2
    assert seconds(wide) / seconds(tall) == pytest.approx(72.5 / 48.6, rel=0.1)


def test_weights_in_the_cubes_own_layout_are_faster():
    rows = (128,) * 8
    assert seconds(grouped("ascend_910b2", rows)) < 0.6 * seconds(
        grouped("ascend_910b2", rows, notes="INCLUDES a TransData ND->NZ kernel")
    )


@pytest.mark.parametrize("chip", [*ASCEND_910, "ascend_950pr"])
def test_empty_groups_are_cheaper(chip):
    assert seconds(grouped(chip, [32, 32, 0, 32, 32, 0, 0, 0])) < 0.8 * seconds(grouped(chip, [16] * 8))


@pytest.mark.parametrize("chip", [*ASCEND_910, "ascend_950pr"])
@pytest.mark.parametrize("skewed", [[4089, 1, 1, 1, 1, 1, 1, 1], [2000, 1000, 500, 300, 196, 50, 30, 20]])
def test_skewed_groups_are_not_cheaper_at_many_tokens(chip, skewed):
    assert seconds(grouped(chip, skewed)) >= 0.99 * seconds(grouped(chip, [512] * 8))


@pytest.mark.parametrize(
    ("chip", "operation"),
    [("ascend_910b2", "weight_quant_batch_matmul"), ("nvidia_a100", "gemm"), ("nvidia_l40s", "gemm")],
)
@pytest.mark.parametrize("weight", ["int8", "int4"])
def test_weight_only_quantization_gains_with_few_rows_and_nothing_with_many(chip, operation, weight):
    def ratio(m):
        plain = "grouped_matmul" if operation.startswith("weight") else operation
        quantized = matmul(chip, m, 8192, 8192, "float16", weight, operation)
        return seconds(quantized) / seconds(matmul(chip, m, 8192, 8192, "float16", "float16", plain))

    assert ratio(1) < 0.8
    assert all(ratio(m) > 0.93 for m in (1024, 4096))


def test_w4a8_halves_the_weights_but_not_the_arithmetic():
    int8, int4 = (matmul("ascend_910b2", 4096, 4096, 4096, "int8", weight) for weight in ("int8", "int4"))
    assert work([int4]).matrix_s[0] == pytest.approx(work([int8]).matrix_s[0])
    few8, few4 = (matmul("ascend_910b2", 1, 8192, 8192, "int8", weight) for weight in ("int8", "int4"))
    assert work([few4]).memory_s[0, 0] == pytest.approx(work([few8]).memory_s[0, 0] / 2, rel=0.01)
    assert seconds(few4) < 0.8 * seconds(few8)


@pytest.mark.parametrize(("n", "k"), [(4097, 4096), (4096, 4097), (1025, 4096)])
def test_unaligned_widths_cost_1_2_to_3_1_times_on_910b2(n, k):
    aligned, unaligned = (matmul("ascend_910b2", 1024, *shape) for shape in ((n // 16 * 16, k // 16 * 16), (n, k)))
    assert 1.2 < seconds(unaligned) / seconds(aligned) < 3.1


@pytest.mark.parametrize("chip", ASCEND_910)
@pytest.mark.parametrize("rows", [(64,), (16,) * 8, (1024,) * 8])
def test_fused_is_less_than_unfused(chip, rows):
    mlp = GatedMlp(rows, 4096, 7168)
    assert len(mlp_kernels(chip, mlp)) == 1
    assert seconds(*mlp_kernels(chip, mlp)) < seconds(*unfused_mlp_kernels(chip, mlp))


@pytest.mark.parametrize("precisions", [("float16", "int8"), ("int8", "float16")])
def test_one_float_matmul_makes_both_pay_unfused_prices(precisions):
    fused, mixed = (GatedMlp((64,), 4096, 7168, it) for it in (("int8", "int8"), precisions))
    kernels = mlp_kernels("ascend_910b2", mixed)
    assert [it.operation for it in kernels].count("dequant_swiglu_quant") == 1
    assert len(kernels) == 3
    assert seconds(*kernels) > seconds(*unfused_mlp_kernels("ascend_910b2", fused))


def test_what_stays_in_int8_beside_a_fallback_costs_what_it_does_unfused():
    unfused = unfused_mlp_kernels("ascend_910b2", GatedMlp((64,), 4096, 7168))
    first_falls_back = mlp_kernels("ascend_910b2", GatedMlp((64,), 4096, 7168, ("float16", "int8")))
    second_falls_back = mlp_kernels("ascend_910b2", GatedMlp((64,), 4096, 7168, ("int8", "float16")))
    assert first_falls_back[2] == unfused[2]
    assert second_falls_back[:2] == unfused[:2]


def test_a_rank_splits_a_matmul_and_breaks_the_fusion():
    mlp = GatedMlp((64,), 4096, 7168, ranks=(512, None))
    kernels = mlp_kernels("ascend_910b2", mlp)
    assert [(it.n, it.k) for it in kernels] == [(512, 7168), (4096, 512), (4096, 0), (7168, 2048)]
    assert kernels[2:] == unfused_mlp_kernels("ascend_910b2", GatedMlp((64,), 4096, 7168))[1:]


def test_a_rank_that_halves_the_arithmetic_of_a_matmul_is_still_slower_than_fused():
    # Half of 7168 * 4096 / (7168 + 4096), so half the multiply-accumulates and half the weights.
    halved = GatedMlp((64,) * 8, 4096, 7168, ranks=(1303, None))
    fused = GatedMlp((64,) * 8, 4096, 7168)
    assert seconds(*mlp_kernels("ascend_910b2", halved)) > seconds(*mlp_kernels("ascend_910b2", fused))


def test_a_chip_without_the_fused_kernel_runs_it_in_parts():
    assert len(mlp_kernels("ascend_310p3", GatedMlp((64,), 4096, 7168))) == 3


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("axis", range(4), ids=("groups", "rows", "n", "k"))
def test_a_larger_kernel_costs_no_less(kind, axis):
    prices = price(of_all_sizes(*kind), read_fit(read_chip(kind[0]).fit)).seconds.reshape([len(it) for it in GRID])
    # 0.1% are left to even columns, of which a few more may make tiles that load a little less.
    assert (prices >= 0.999 * np.maximum.accumulate(prices, axis)).all()


@pytest.mark.parametrize(
    ("kernel", "bound"),
    [
        (matmul("ascend_950pr", 8192, 8192, 8192), "matrix unit"),
        (matmul("ascend_950pr", 1, 8192, 8192), "memory"),
        (matmul("ascend_950pr", 16, 32, 32), "launch"),
        (
            PublishedKernel("ascend_910b2", "dequant_swiglu_quant", "int32", "float32", (2048,), 2048, 8192, 0),
            "vector unit",
        ),
    ],
)
def test_the_bound_is_named(kernel, bound):
    assert predict([kernel])[0].bound_by == bound
    assert bound in BOUNDS


@pytest.mark.parametrize(("chip", "activation"), [("nvidia_a100", "float8"), ("ascend_910b2", "float8")])
def test_a_precision_that_the_chip_lacks_is_named(chip, activation):
    with pytest.raises(InputError, match=f"{chip} has no matrix multiplication in {activation}"):
        predict([matmul(chip, 16, 32, 32, activation, activation)])


@pytest.mark.parametrize("weight", ["float8", "float16", "int32"])
def test_types_that_do_not_multiply_are_named(weight):
    with pytest.raises(InputError, match=f"no matrix unit multiplies int8 by {weight}"):
        predict([matmul("nvidia_h200", 16, 32, 32, "int8", weight)])


def test_huge_and_odd_shapes_have_a_finite_price():
    kernels = [
        matmul("ascend_910b2", 10**12, 10**12, 10**12),
        matmul("nvidia_a100", 1, 1, 1, operation="gemm"),
        matmul("ascend_950pr", 0, 7, 3, group_rows=(0,) * 8),
        grouped("ascend_910b2", range(1024), notes="L1 0x0"),
    ]
    assert np.isfinite([it.seconds for it in predict(kernels, "nearest")]).all()


def test_an_unknown_mode_is_named():
    with pytest.raises(InputError, match="mode must be one of model, nearest, but is guess"):
        predict([matmul("nvidia_a100", 16, 32, 32)], "guess")


def test_nearest_takes_over_what_the_model_misses_nearby():
    known = matmul("ascend_910b2", 1024, 4096, 4096)
    asked = replace(known, m=1040, group_rows=(1040,))
    measured = [replace(known, time_us=2e6 * seconds(known))]
    found = predict([asked], "nearest", measured=measured)[0]
    assert found.mode == "nearest"
    assert found.seconds == pytest.approx(2 * seconds(asked), rel=0.1)
    far = predict([replace(asked, n=64, k=64)], "nearest", measured=measured)[0]
    assert far.seconds == pytest.approx(seconds(replace(asked, n=64, k=64)), rel=0.02)


def test_nearest_never_uses_the_row_itself():
    known = matmul("ascend_910b2", 1024, 4096, 4096)
    found = predict([known], "nearest", measured=[replace(known, time_us=1e9)])[0]
    assert (found.mode, found.seconds) == ("model", seconds(known))


def test_a_fit_finds_the_efficiencies_that_made_the_times():
    truth = replace(read_fit("nvidia_l40s"), overlap=3.0, matrix_efficiency=0.6)
    kernels = [kernel for kernel in published_kernels() if kernel.chip == "nvidia_l40s"]
    times_us = 1e6 * price(kernels, truth).seconds
    made = [replace(kernel, time_us=float(time)) for kernel, time in zip(kernels, times_us, strict=True)]
    fit = fit_efficiencies(made)
    assert fit.mean_error < 0.02
    assert fit.rows == 24
    assert fit.matrix_efficiency * fit.matrix_factor["gemm-int8"] == pytest.approx(
        0.6 * truth.matrix_factor["gemm-int8"], rel=0.1
    )


@pytest.mark.parametrize("chip", ["ascend_910b2", "ascend_950pr", "nvidia_a100", "nvidia_h200", "nvidia_l40s"])
def test_five_times_move_prices_by_less_than_their_mean_scatters(chip):
    stored, scatter = read_fit(read_chip(chip).fit), 0.1
    kernels = [kernel for kernel in published_kernels() if kernel.chip == chip]
    five, prices = kernels[::5][:5], price(kernels, stored).seconds
    missed = np.exp(scatter * np.random.default_rng(0).standard_normal(5))
    times_us = 1e6 * price(five, stored).seconds * missed
    told = [replace(kernel, time_us=float(time)) for kernel, time in zip(five, times_us, strict=True)]

    moved = np.abs(price(kernels, fit_efficiencies(told, stored)).seconds / prices - 1)
    assert moved.mean() < scatter / 5**0.5


def test_what_times_do_not_tell_stays_as_it_was():
    stored = read_fit("ascend_910b")
    told = [kernel for kernel in published_kernels() if kernel.family == "quant_matmul-int8"][:5]
    fit = fit_efficiencies(told, stored)
    assert fit.row_s == pytest.approx(stored.row_s)
    assert fit.conversion_efficiency == pytest.approx(stored.conversion_efficiency)
    assert fit.launch_factor["grouped_matmul-float"] == pytest.approx(stored.launch_factor["grouped_matmul-float"])
    assert fit.launch_factor["quant_matmul-int8"] != pytest.approx(stored.launch_factor["quant_matmul-int8"])


def test_a_fit_needs_times():
    with pytest.raises(InputError, match="a fit needs kernels with a measured time"):
        fit_efficiencies([matmul("nvidia_a100", 16, 32, 32)])


def test_a_stored_fit_reads_as_it_was(tmp_path):
    source = "the published times in evaluators/latency/data/kernel_times.csv by benchmarks/latency_model.py"
    write_fit(tmp_path / "nvidia_a100.yaml", read_fit("nvidia_a100"), source)
    assert (tmp_path / "nvidia_a100.yaml").read_text() == (_conf() / "nvidia_a100.yaml").read_text()


def _conf():
    from gulliver.evaluators.latency.chip_fit import FITS

    return FITS


@pytest.mark.parametrize("name", sorted({read_chip(name).fit for name in chip_names()}))
def test_the_stored_fits_explain_the_published_times(name):
    kernels = [kernel for kernel in published_kernels() if read_chip(kernel.chip).fit == name]
    fit = read_fit(name)
    measured_us = np.array([kernel.time_us for kernel in kernels])
    errors = np.abs(1e6 * price(kernels, fit).seconds / measured_us - 1)
    assert errors.mean() == pytest.approx(fit.mean_error, abs=0.002)
    assert errors.mean() < 0.10
    assert all(value > 0 for value in dataclasses.asdict(fit).values() if isinstance(value, float))
