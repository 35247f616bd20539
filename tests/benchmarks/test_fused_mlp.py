import csv
import math
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from gulliver.fused_mlp import reference
from gulliver.fused_mlp.schedules import Schedule, TileSizes
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fused_mlp, record
from benchmarks.gpu.card import CardState, Ceilings, data_sheet, parse_card
from benchmarks.gpu.problem import make_problem, relative_error
from benchmarks.gpu.shapes import Shape, even_rows, shapes, skewed_rows
from benchmarks.gpu.table import Measurement, describe, make_row
from benchmarks.gpu.timing import Times, summarize
from benchmarks.gpu.unfused import unfused_calls

MEASURED = Ceilings(operations_per_s=1000e12, bytes_per_s=4e12)


class TestShapes:
    @given(st.integers(0, 9000), st.integers(1, 40))
    def test_routing_loses_no_row(self, rows, groups):
        assert sum(even_rows(rows, groups)) == sum(skewed_rows(rows, groups)) == rows
        assert max(even_rows(rows, groups)) - min(even_rows(rows, groups)) <= 1

    def test_skewed_rows_follow_zipf(self):
        # 1 + 1/2 + 1/3 + 1/4 = 25/12: of 100 rows 48, 24, 16 and 12.
        assert skewed_rows(100, 4) == (48, 24, 16, 12)

    def test_every_combination_is_measured_and_one_group_only_evenly(self):
        made = list(shapes(["int8", "fp8"], [16, 64], [1, 8]))
        assert len(made) == 2 * 2 * 3
        assert [shape.routing for shape in made[:3]] == ["even", "even", "skewed"]

    def test_work_is_counted_by_hand(self):
        shape = Shape("int8", "even", (64,))
        # 7168 x 4096 and 2048 x 7168 weights, 44,040,192 in all.
        assert shape.operations == 2 * 64 * 44_040_192
        assert shape.least_bytes == 44_040_192 + 4 * (4096 + 7168) + 64 * (7168 + 4 + 2 * 7168)

    def test_the_weights_of_empty_groups_are_not_read(self):
        few, all_groups = Shape("int8", "skewed", (60, 4, 0, 0)), Shape("int8", "even", (16, 16, 16, 16))
        assert all_groups.least_bytes - few.least_bytes == 2 * (44_040_192 + 4 * (4096 + 7168))


class TestTheCard:
    def test_what_nvidia_smi_answers_is_read(self):
        answer = "NVIDIA H200, 580.159.04, 1980, 1980, 3201, 700.00\n"
        assert parse_card(answer) == CardState("NVIDIA H200", "580.159.04", 1980.0, 1980.0, 3201.0, 700.0)

    @pytest.mark.parametrize(
        ("card", "precision", "operations", "bandwidth"),
        [
            # NVIDIA's data sheets: 1979 dense TOPS and TFLOPS and 4.8 TB/s; 624 TOPS and 2.039 TB/s, no fp8.
            ("NVIDIA H200", "int8", 1979e12, 4.8e12),
            ("NVIDIA H200", "fp8", 1979e12, 4.8e12),
            ("NVIDIA A100-SXM4-80GB", "int8", 624e12, 2.039e12),
            ("NVIDIA A100-SXM4-80GB", "fp8", 0, 2.039e12),
        ],
    )
    def test_the_data_sheet_is_found_by_the_name(self, card, precision, operations, bandwidth):
        sheet = data_sheet(card, precision)
        assert sheet.operations_per_s == pytest.approx(operations, rel=0.01)
        assert sheet.bytes_per_s == pytest.approx(bandwidth)

    @pytest.mark.parametrize("card", ["NVIDIA GeForce RTX 4090", "NVIDIA L40"])
    def test_a_card_without_data_sheet_has_none(self, card):
        assert data_sheet(card, "int8") is None


class TestTheTable:
    def test_times_are_summarized(self):
        assert summarize([float(time) for time in range(11)]) == Times(5.0, 1.0, 9.0, 11)

    def test_shares_are_computed_by_hand(self):
        # 2 x 1024 x 44,040,192 operations in 0.1 ms are 901.9e12 a second.
        shape = Shape("int8", "even", (1024,))
        schedule = Schedule(TileSizes(128, 128, 128, warps=8), TileSizes(128, 256, 128, warps=8))
        measurement = Measurement("fused, Triton", Times(0.1, 0.09, 0.12, 100), 2e-4, schedule)
        row = make_row(shape, measurement, MEASURED, None)
        assert row.tera_operations_per_s == pytest.approx(901.94, abs=0.01)
        assert row.share_of_measured_peak == pytest.approx(0.9019, abs=1e-4)
        assert row.share_of_measured_bandwidth == pytest.approx(shape.least_bytes / 1e-4 / 4e12, abs=1e-4)
        assert (row.share_of_sheet_peak, row.share_of_sheet_bandwidth) == (None, None)
        assert row.schedule == "128x128x128 8w 4s + 128x256x128 8w 4s, quantized apart"

    def test_a_schedule_says_where_h_is_quantized(self):
        tiles = TileSizes(16, 32, 256)
        assert describe(Schedule(tiles, tiles, quantize_on_load=True)).endswith("16x32x256 4w 4s, quantized on load")

    def test_what_failed_has_a_reason_and_no_times(self):
        failed = Measurement("unfused, torch._int_mm", failure="self.size(0) needs to be greater than 16")
        row = make_row(Shape("int8", "even", (16,)), failed, MEASURED, MEASURED)
        assert (row.median_ms, row.share_of_measured_peak) == (None, None)
        assert row.failure == "self.size(0) needs to be greater than 16"

    @pytest.mark.parametrize(
        ("words", "reason"),
        [(("out of memory. Tried to allocate 2 GiB\nsee above",), "out of memory"), ((), "RuntimeError")],
    )
    def test_a_rival_that_fails_is_told_by_its_first_sentence_or_where_it_has_no_words_by_its_name(self, words, reason):
        def fail():
            raise RuntimeError(*words)

        measurement, replay = fused_mlp.prepare(fused_mlp.Call("unfused", fail), torch.zeros(1))
        assert (measurement.failure, replay) == (reason, None)

    def test_a_card_without_the_precision_has_no_share_of_its_peak(self):
        measurement = Measurement("fused, Triton", Times(0.1, 0.09, 0.12, 100), 2e-4)
        row = make_row(Shape("fp8", "even", (64,)), measurement, MEASURED, Ceilings(0, 2e12))
        assert row.share_of_sheet_peak is None
        assert row.share_of_sheet_bandwidth > 0


@pytest.mark.parametrize(
    # The rivals of fp8 round y1 to bfloat16, by up to 2^-9, which moves an eighth of q = E4M3 to a neighbour.
    ("precision", "largest_error"),
    [("int8", 0.0), ("fp8", 0.03)],
)
@pytest.mark.parametrize("group_rows", [(40,), (33, 0, 3)])
def test_the_unfused_rivals_compute_the_same(precision, largest_error, group_rows):
    problem = make_problem(Shape(precision, "even", group_rows), "cpu", (64, 96, 80))
    truth = reference.fused_mlp(**{it.name: getattr(problem, it.name) for it in fields(problem)})
    on_cpu = [run for name, run in unfused_calls(problem).items() if "grouped" not in name]
    assert len(on_cpu) == 1
    assert relative_error(on_cpu[0](), truth) <= largest_error


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_problem_has_typical_values_and_contiguous_inner_sizes(precision):
    problem = make_problem(Shape(precision, "even", (8, 8)), "cpu", (256, 64, 32))
    assert problem.x1.float().std() == pytest.approx(74, rel=0.05)
    assert problem.weight1.stride(1) == problem.weight2.stride(2) == 1
    assert problem.group_list.tolist() == [8, 16]


def test_the_relative_error_is_of_norms_and_nan_is_not_lost():
    assert relative_error(torch.tensor([3.0, 4.1]), torch.tensor([3.0, 4.0])) == pytest.approx(0.02)
    assert math.isnan(relative_error(torch.tensor([3.0, math.nan]), torch.tensor([3.0, 4.0])))


class TestTheCommand:
    def test_what_is_asked_for_is_measured(self):
        options = fused_mlp.parse(["--precisions", "fp8", "--rows", "16", "64", "--repetitions", "5"])
        assert (options.precisions, options.rows, options.repetitions) == (["fp8"], [16, 64], 5)
        assert options.groups == (1, 8)

    @pytest.mark.parametrize(
        "arguments", [["--rows", "0"], ["--groups", "two"], ["--precisions", "int4"], ["--repetitions", "1"]]
    )
    def test_what_cannot_be_measured_ends_with_status_2(self, arguments, capsys):
        with pytest.raises(SystemExit, match="2"):
            fused_mlp.main(arguments)
        assert arguments[0] in capsys.readouterr().err

    def test_without_a_gpu_it_says_so_in_one_line_and_ends_with_status_2(self, monkeypatch, capsys):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert fused_mlp.main([]) == 2
        assert capsys.readouterr() == (
            "",
            "benchmarks.fused_mlp: torch sees no CUDA GPU here, and nothing else is measured\n",
        )

    def test_a_line_is_written_for_every_implementation_also_for_a_rival_that_fails(self, monkeypatch, tmp_path):
        def fails():
            raise RuntimeError("no kernel for this. Among those there are...")

        def truth(problem):
            return reference.fused_mlp(**fused_mlp.tensors(problem))

        one_ms = Times(1.0, 0.9, 1.1, 10)
        fakes = {
            "what_is_missing": lambda: None,
            "card_state": lambda: CardState("NVIDIA H200", "580", 1980.0, 1980.0, 3201.0, 700.0),
            "ceilings_of": lambda precision, repetitions: MEASURED,
            "make_problem": lambda shape, device: make_problem(shape, "cpu", (32, 32, 16)),
            "fused_calls": lambda problem, repetitions: [fused_mlp.Call("fused, Triton", lambda: truth(problem))],
            "unfused_calls": lambda problem, *compiler: {"fails": fails, "works": lambda: truth(problem)},
            "capture": lambda run: run,
            "time_in_turns": lambda runs, repetitions: dict.fromkeys(runs, one_ms),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(fused_mlp, name, fake)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        monkeypatch.setattr(torch._dynamo, "reset", lambda: None)
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.7.0"))
        monkeypatch.setattr(record, "RESULTS", tmp_path)
        assert fused_mlp.main(["--precisions", "int8", "--rows", "16", "--groups", "1", "2"]) == 0
        with (tmp_path / "fused_mlp.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert [line["implementation"] for line in lines] == 3 * ["fused, Triton", "fails", "works"]
        assert [line["failure"] for line in lines[:3]] == ["", "no kernel for this", ""]
        assert [line["median_ms"] for line in lines[:3]] == ["1.0", "", "1.0"]
        assert lines[0]["relative_error"] == "0.0"
        assert lines[0]["card"] == "NVIDIA H200"
        assert lines[0]["sm_clock_mhz"] == "1980.0"

    def test_a_precision_that_the_card_lacks_is_left_out_with_the_reason(self):
        assert "8.9" in fused_mlp.why_left_out("fp8", (8, 0))
        assert fused_mlp.why_left_out("fp8", (9, 0)) is None
        assert fused_mlp.why_left_out("int8", (8, 0)) is None

    @pytest.mark.parametrize("error", [2e-3, math.nan, None])
    def test_a_wrong_kernel_is_not_timed(self, error):
        with pytest.raises(ValueError, match=r"fused, Triton must be within 0\.001 of the reference"):
            fused_mlp.check_error("int8", Measurement("fused, Triton", relative_error=error))

    def test_a_right_one_is(self):
        assert fused_mlp.check_error("int8", Measurement("fused, Triton", relative_error=9e-4)) is None
