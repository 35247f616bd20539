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
    assert (record["task"], record["search_samples"], record["test_samples"]) == (
        *(task.name, task.size("search"), task.size("test")),
    )
    others = record_of(MoeBlock(width=16, hidden=16, samples=4))
    assert {key for key in record if record[key] != others[key]} >= {"search_samples"}


def test_other_calibration_inputs_are_told_apart():
    class Shifted(MoeBlock):
        def calibration(self):
            return [tuple(tensor + 1 for tensor in inputs) for inputs in super().calibration()]

    record, shifted = (record_of(it(width=16, hidden=16, samples=3)) for it in (MoeBlock, Shifted))
    assert {key for key in record if record[key] != shifted[key]} == {"calibration"}


def test_a_metric_that_is_no_mean_has_no_samples_to_count():
    class Whole(MoeBlock):
        def metric(self, model, split):
            return 0.0

    assert torch.is_tensor(next(iter(Whole(width=16, hidden=16, samples=3).calibration()))[0])
    assert set(record_of(Whole(width=16, hidden=16, samples=3))) == {"task", "network", "calibration"}
