import csv
from dataclasses import replace

import pytest
from gulliver.evaluators.latency import kernel_table
from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.kernel_benchmark import REFERENCE
from gulliver.evaluators.latency.kernel_table import KernelTable


def kernel(batch=1, **changes):
    facts = ("conv2d", batch, 16, 32, (9, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1, "int8", "bfloat16")
    return ComputeKernel(*facts)


LINEAR = ComputeKernel("linear", 7, 16, 10, (), (), (), (), (), 1, "bfloat16", "bfloat16")


class Stopwatch:
    """Count what is measured; a kernel takes a third of its batch in microseconds."""

    def __init__(self):
        self.measured = []

    def __call__(self, kernels):
        self.measured.append(list(kernels))
        return {kernel: kernel.batch / 3e6 for kernel in kernels}


@pytest.fixture
def stopwatch():
    return Stopwatch()


@pytest.fixture
def table(stopwatch, tmp_path):
    return KernelTable(tmp_path / "folder" / "table.csv", stopwatch)


def test_what_is_forgotten_is_measured_again_and_all_else_and_the_reference_are_kept(table, stopwatch):
    table.require([kernel(2), kernel(4), REFERENCE])
    table.forget([kernel(2), REFERENCE])
    again = KernelTable(table.path, stopwatch)
    again.require([kernel(2), kernel(4), REFERENCE])
    assert stopwatch.measured[1:] == [[kernel(2)]]


def test_a_kernel_is_measured_once(table, stopwatch):
    assert table.seconds(kernel(2)) == 2 / 3e6
    assert table.seconds(kernel(2)) == 2 / 3e6
    table.require([kernel(2), kernel(2)])
    assert stopwatch.measured == [[kernel(2)]]


def test_what_is_required_is_measured_together_sorted_and_without_repetition(table, stopwatch):
    table.require([LINEAR, kernel(3), kernel(1), kernel(3)])
    table.require([kernel(2), kernel(1)])
    assert stopwatch.measured == [[kernel(1), kernel(3), LINEAR], [kernel(2)]]
    assert len(table) == 4
    assert table.missing([kernel(4), kernel(1), LINEAR]) == [kernel(4)]


def test_nothing_is_measured_or_written_where_nothing_is_missing(table, stopwatch):
    table.require([])
    assert stopwatch.measured == []
    assert not table.path.exists()


def test_a_table_that_is_read_back_is_the_same_and_measures_nothing(table, stopwatch):
    table.require([LINEAR, kernel(3), kernel(1)])
    again = KernelTable(table.path, stopwatch)
    assert again == table
    assert [again.seconds(it) for it in (LINEAR, kernel(3), kernel(1))] == [7 / 3e6, 3 / 3e6, 1 / 3e6]
    assert len(stopwatch.measured) == 1
    again.require([kernel(9)])
    assert len(KernelTable(table.path, stopwatch)) == 4


def test_the_file_is_sorted_with_one_kernel_a_line(table):
    table.require([LINEAR, kernel(3), kernel(1)])
    with table.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["batch"]) for row in rows] == [("conv2d", "1"), ("conv2d", "3"), ("linear", "7")]
    assert rows[0]["input_size"] == "[9, 8]"
    assert float(rows[0]["seconds"]) == 1 / 3e6


def test_a_measurement_that_fails_leaves_the_file_as_it_was(table, tmp_path):
    table.require([kernel(1)])
    before = table.path.read_bytes()

    def fail(kernels):
        raise RuntimeError("no such kernel")

    broken = KernelTable(table.path, fail)
    with pytest.raises(RuntimeError, match="no such kernel"):
        broken.require([kernel(1), kernel(2)])
    assert table.path.read_bytes() == before
    assert list(table.path.parent.iterdir()) == [table.path]


def test_a_measurement_that_is_stopped_or_killed_keeps_the_portions_before(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_table, "_PORTION", 2)
    monkeypatch.setattr(kernel_table, "_SAVED_EVERY", 2)
    wanted = [kernel(batch) for batch in range(1, 8)]
    portions, saved = [], []

    def stopped_in_the_fourth(kernels):
        portions.append(list(kernels))
        saved.append(len(KernelTable(table.path, None)))
        if len(portions) == 4:
            raise KeyboardInterrupt
        return {it: it.batch / 3e6 for it in kernels}

    table = KernelTable(tmp_path / "times.csv", stopped_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        table.require(wanted)
    assert saved == [0, 0, 4, 4]
    KernelTable(table.path, stopped_in_the_fourth).require(wanted)
    assert portions == [wanted[:2], wanted[2:4], wanted[4:6], wanted[6:], wanted[6:]]


def test_kernels_measured_later_are_set_right_by_the_reference_kernel(tmp_path):
    other = replace(REFERENCE, out_channels=128)
    speeds = iter([1.0, 2.0])

    def time_kernels(kernels):
        speed = next(speeds)
        return dict.fromkeys((REFERENCE, *kernels), 0.001 * speed)

    table = KernelTable(tmp_path / "times.csv", time_kernels)
    table.require([replace(REFERENCE, out_channels=32)])
    table.require([other])
    assert table.seconds(other) == pytest.approx(1e-3)
    assert table.seconds(REFERENCE) == pytest.approx(1e-3)


def disturbed_once(slow, longer):
    """Return a stopwatch by which one kernel takes so many times as long when it is first measured."""
    calls = []

    def time_kernels(kernels):
        calls.append(list(kernels))
        return {it: 1e-4 * (longer if it == slow and len(calls) == 1 else 1) for it in kernels}

    return time_kernels, calls


def test_a_time_that_cannot_be_right_is_measured_again_and_the_lesser_is_kept(tmp_path):
    narrow, wide = replace(REFERENCE, out_channels=32), replace(REFERENCE, out_channels=128)
    time_kernels, calls = disturbed_once(narrow, longer=6)
    table = KernelTable(tmp_path / "times.csv", time_kernels)
    table.require([wide, narrow])
    assert calls == [[narrow, wide], [narrow]]
    assert table.seconds(narrow) == KernelTable(table.path, time_kernels).seconds(narrow) == 1e-4


def test_a_time_that_stays_implausible_is_kept_and_not_measured_in_later_calls(tmp_path):
    narrow, wide = replace(REFERENCE, out_channels=32), replace(REFERENCE, out_channels=128)
    calls = []

    def time_kernels(kernels):
        calls.append(list(kernels))
        return {it: 3e-4 if it == narrow else 1e-4 for it in kernels}

    table = KernelTable(tmp_path / "times.csv", time_kernels)
    table.require([narrow, wide])
    assert (table.seconds(narrow), calls) == (3e-4, [[narrow, wide], [narrow], [narrow]])
    table.require([narrow, wide, replace(wide, in_channels=128)])
    assert len(calls) == 4
