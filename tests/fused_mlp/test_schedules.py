import math
from dataclasses import replace

import pytest
import torch
from gulliver.fused_mlp.schedules import (
    H200,
    Gpu,
    Schedule,
    TileSizes,
    candidate_schedules,
    default_schedule,
    most_row_tiles,
)
from hypothesis import given
from hypothesis import strategies as st

DTYPES = (torch.int8, torch.float8_e4m3fn)
# Compute capabilities 8.0 and 8.9: 163 and 99 KiB a program (CUDA C++ Programming Guide, table of technical
# specifications); the A100 has 108 multiprocessors, the L4 58.
A100, L4 = Gpu((8, 0), 108, 163 * 1024), Gpu((8, 9), 58, 99 * 1024)


def test_shared_memory_is_counted_by_hand() -> None:
    # First: 4 steps of 128 x (128 rows + 128 act + 128 gate) bytes. Second: 3 of 256 x (16 rows of float32 + 64).
    wide = Schedule(TileSizes(128, 128, 128, stages=4), TileSizes(16, 16, 32))
    assert wide.shared_memory_bytes == 4 * 128 * 384 == 196_608
    on_load = Schedule(TileSizes(16, 16, 32), TileSizes(16, 64, 256, stages=3), quantize_on_load=True)
    assert on_load.shared_memory_bytes == 3 * 256 * (16 * 4 + 64) == 98_304
    assert replace(on_load, quantize_on_load=False).shared_memory_bytes == 3 * 256 * (16 + 64)


def test_sums_per_thread_are_counted_by_hand() -> None:
    # 128 x (128 act + 128 gate) sums and 128 x 256, in 8 x 32 threads; 64 x 128 in half as many.
    assert Schedule(TileSizes(128, 128, 128, warps=8), TileSizes(128, 256, 128, warps=8)).sums_per_thread == 128
    assert Schedule(TileSizes(16, 16, 32), TileSizes(64, 128, 128)).sums_per_thread == 64


def test_ampere_takes_half_the_columns_that_hopper_does() -> None:
    # Compiled for 8.0, the larger ones spill up to 856 bytes a thread: benchmarks/results/fused_mlp_compiled.csv.
    largest = {gpu: default_schedule(4096, 1, 2048, torch.int8, gpu).first for gpu in (H200, A100)}
    assert [(tiles.rows, tiles.columns) for tiles in largest.values()] == [(128, 128), (128, 64)]


@pytest.mark.parametrize("gpu", [H200, A100, L4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows_per_group", [1, 16, 17, 64, 65, 8192])
def test_every_gpu_has_candidates_that_fit_it(gpu: Gpu, dtype: torch.dtype, rows_per_group: int) -> None:
    candidates = candidate_schedules(rows_per_group, dtype, gpu)
    assert len(candidates) == len(set(candidates)) > 0
    assert all(schedule.shared_memory_bytes <= gpu.shared_memory_bytes for schedule in candidates)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows_per_group", [16, 64, 8192])
def test_every_tile_is_one_that_triton_takes(dtype: torch.dtype, rows_per_group: int) -> None:
    for schedule in candidate_schedules(rows_per_group, dtype, H200):
        for tiles in (schedule.first, schedule.second):
            sizes = (tiles.rows, tiles.columns, tiles.inner, tiles.warps)
            assert all(size & (size - 1) == 0 for size in sizes)
            assert min(tiles.rows, tiles.columns) >= 16
            assert tiles.inner >= 32


def test_e4m3_takes_no_tiles_below_64_rows() -> None:
    assert {schedule.first.rows for schedule in candidate_schedules(1, torch.float8_e4m3fn, H200)} == {64}
    assert {schedule.first.rows for schedule in candidate_schedules(1, torch.int8, H200)} == {16}


class TestTheDefault:
    def test_one_group_of_16_rows_takes_columns_narrow_enough_for_all_multiprocessors(self) -> None:
        # 2048 columns of h in tiles of 16 make 128 programs, the most there are: none reaches 132.
        assert default_schedule(16, 1, 2048, torch.int8, H200).first.columns == 16

    def test_eight_groups_of_8_rows_take_the_widest_columns(self) -> None:
        # 8 x 2048 / 64 = 256 programs.
        assert default_schedule(64, 8, 2048, torch.int8, H200).first.columns == 64

    def test_fewer_rows_than_groups_leave_groups_empty(self) -> None:
        # 3 x 2048 / 32 = 192 programs, but 3 x 2048 / 64 = 96.
        assert default_schedule(3, 8, 2048, torch.int8, H200).first.columns == 32

    def test_many_rows_take_the_largest_tiles(self) -> None:
        first = default_schedule(4096, 1, 2048, torch.int8, H200).first
        assert (first.rows, first.columns) == (128, 128)

    def test_e4m3_takes_half_the_columns_that_int8_does(self) -> None:
        assert default_schedule(4096, 1, 2048, torch.float8_e4m3fn, H200).first.columns == 64


class TestMostRowTiles:
    @given(st.lists(st.integers(0, 70), min_size=1, max_size=6), st.integers(0, 70), st.sampled_from([1, 16, 64]))
    def test_no_group_list_makes_more(self, row_counts: list[int], tail: int, tile_rows: int) -> None:
        tiles = sum(math.ceil(count / tile_rows) for count in (*row_counts, tail))
        assert tiles <= most_row_tiles(sum(row_counts) + tail, len(row_counts), tile_rows)

    def test_one_row_in_all_groups_but_one_makes_that_many(self) -> None:
        # Groups of 1, 1 and 1 row and a tail of 30: 1 + 1 + 1 + 2 tiles of 16.
        assert most_row_tiles(33, 3, 16) == 5

    def test_few_rows_make_a_tile_each(self) -> None:
        assert most_row_tiles(3, 8, 16) == 3
