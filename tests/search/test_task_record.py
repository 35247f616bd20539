from dataclasses import replace

import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.search.task_record import task_record
from gulliver.tasks.moe_block import MoeBlock


def record_of(task):
    return task_record(read_original(task))


def test_a_task_is_told_by_its_network_its_calibration_inputs_and_how_many_samples_its_splits_have():
    task = MoeBlock(width=16, hidden=16, samples=3)
    record = record_of(task)
    assert record == record_of(MoeBlock(width=16, hidden=16, samples=3))
    assert record["task"] == task.name
    assert {split: record[f"{split}_samples"] for split in ("search", "test")} == {
        split: task.size(split) for split in ("search", "test")
    }
    others = record_of(MoeBlock(width=16, hidden=16, samples=4))
    assert others["search_samples"] != record["search_samples"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_calibration_inputs_are_told_apart(dtype):
    original = read_original(MoeBlock(width=16, hidden=16, samples=3))
    ones, twos = (
        task_record(replace(original, calibration=((value * torch.ones(2, 4, dtype=dtype),),))) for value in (1, 2)
    )
    assert {key for key in ones if ones[key] != twos[key]} == {"calibration"}


def test_a_metric_that_is_no_mean_has_no_samples_to_count():
    class Whole(MoeBlock):
        def metric(self, model, split):
            return 0.0

    assert set(record_of(Whole(width=16, hidden=16, samples=3))) == {"task", "network", "calibration"}
