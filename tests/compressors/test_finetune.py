import copy
from pathlib import Path

import pytest
import torch
from gulliver.compressors.distillation import reading, similarity_difference
from gulliver.compressors.finetune import Recovery, finetune, recover
from gulliver.spaces.recipe import Finetune
from gulliver.tasks.errors import InputError
from torch import nn
from torch.nn import functional as F


class TrainableTask:
    """A network with training inputs that can be drawn without end."""

    name = "trainable"

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        ).eval()
        self.epochs = []

    def example_inputs(self):
        raise AssertionError("not needed")

    def calibration(self):
        raise AssertionError("not needed")

    def training(self, epoch):
        self.epochs.append(epoch)
        generator = torch.Generator().manual_seed(epoch)
        return [(torch.randn(16, 3, 8, 8, generator=generator),) for _ in range(8)]


@pytest.fixture
def task():
    return TrainableTask()


def student_of(task):
    student = copy.deepcopy(task.model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return student


def distance(student, task):
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        given, wanted = student(images).log_softmax(-1), task.model(images).log_softmax(-1)
        return F.kl_div(given, wanted, log_target=True, reduction="batchmean").item()


def test_a_student_learns_the_originals_outputs(task, capfd):
    student = student_of(task)
    before = distance(student, task)
    assert finetune(student, task, Finetune(4, 0.05)) is student
    assert distance(student, task) < before / 2
    assert not student.training
    assert all(it.is_contiguous() for it in student.parameters())


def test_every_epoch_is_drawn_by_its_number(task, capfd):
    finetune(student_of(task), task, Finetune(3))
    assert task.epochs == [0, 0, 1, 2]  # the first to count the steps


def test_the_original_learns_nothing(task, capfd):
    before = copy.deepcopy(task.model.state_dict())
    finetune(student_of(task), task, Finetune(1))
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())
    assert not task.model.training
    assert all(parameter.grad is None for parameter in task.model.parameters())


@pytest.mark.parametrize(("groups", "kind"), [(1, torch.bfloat16), (8, torch.float32)])
def test_it_computes_in_bfloat16_but_for_grouped_convolutions(groups, kind, task, capfd):
    task.model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=groups), nn.Flatten())
    kinds = []
    for network in (task.model, student := copy.deepcopy(task.model)):
        network[1].register_forward_hook(lambda layer, inputs, outputs: kinds.append(outputs.dtype))
    finetune(student, task, Finetune(1, 0.01))
    assert set(kinds) == {kind}


def test_the_same_student_learns_the_same_and_no_random_number_is_used_up(task, capfd):
    first, second = student_of(task), student_of(task)
    state = torch.get_rng_state()
    finetune(first, task, Finetune(1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    with torch.no_grad():
        finetune(second, task, Finetune(1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 20, 24])
def test_recovery_takes_exactly_its_steps_however_few_the_inputs(count, task):
    steps = []
    student = student_of(task)
    student.register_forward_hook(lambda *arguments: steps.append(1))
    inputs = task.training(0)[:3]
    with torch.no_grad():
        outputs = [task.model(*batch) for batch in inputs]
    before = distance(student, task)
    steps.clear()
    recover(student, task, inputs, outputs, Recovery(steps=count, learning_rate=0.05))
    assert len(steps) == count
    assert distance(student, task) < before or count < 9
    assert not student.training


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"steps": -1}, "`trial.finetune.steps >= 0` must hold, but it is -1"),
        ({"learning_rate": 0}, "`trial.finetune.learning_rate` and `trial.finetune.temperature` must be above zero"),
        ({"temperature": -1}, "`trial.finetune.learning_rate` and `trial.finetune.temperature` must be above zero"),
    ],
)
def test_settings_out_of_range_are_refused(settings, rule):
    with pytest.raises(InputError) as caught:
        Recovery(**settings)
    assert str(caught.value) == rule


def test_a_task_without_training_inputs_is_refused_by_name(task):
    bare = type("Bare", (), {"name": "bare", "model": task.model})()
    with pytest.raises(InputError, match=r"^the task bare must have `training\(epoch\)` for its networks to be fine-"):
        finetune(student_of(task), bare, Finetune(1))


@pytest.mark.parametrize("batches_per_epoch", [None, 7])
def test_no_epoch_takes_more_batches_than_the_first(batches_per_epoch, task, capfd):
    whole, steps = task.training, []
    task.training = lambda epoch: whole(epoch) + whole(epoch)[:epoch]
    student = student_of(task)
    student.register_forward_hook(lambda module, *arguments: steps.append(1) if module.training else None)
    finetune(student, task, Finetune(3, 0.05, batches_per_epoch=batches_per_epoch))
    assert len(steps) == 3 * (batches_per_epoch or 8)


@pytest.mark.parametrize("empty", [0, 1])
def test_an_epoch_without_batches_is_refused_and_the_task_named(empty, task, capfd):
    whole = task.training
    task.training = lambda epoch: [] if epoch == empty else whole(epoch)
    with pytest.raises(InputError) as caught:
        finetune(student_of(task), task, Finetune(2))
    rule = "`training(epoch)` of the task trainable must give batches anew"
    assert str(caught.value) == f"{rule}, but epoch {empty} has none"


def test_batches_that_can_be_drawn_but_once_are_refused(task, capfd):
    once = iter(task.training(0))
    task.training = lambda epoch: once
    with pytest.raises(InputError, match="must give batches anew, but epoch 0 has none"):
        finetune(student_of(task), task, Finetune(1))


class StoppedError(Exception):
    pass


def interrupting(task, epoch):
    """Make the task fail in the middle of an epoch."""
    whole = task.training

    def training(asked):
        batches = whole(asked)
        yield from batches[:3]
        if asked == epoch:
            raise StoppedError
        yield from batches[3:]

    task.training = training
    return whole


@pytest.mark.parametrize("patience", [None, 5])
def test_a_run_that_goes_on_from_its_checkpoint_ends_as_one_that_was_not_interrupted(patience, task, tmp_path, capfd):
    task.calibration = lambda: task.training(77)
    settings = Finetune(4, 0.05, patience=patience)
    straight = finetune(student_of(task), task, settings)
    whole = interrupting(task, 2)
    with pytest.raises(StoppedError):
        finetune(student_of(task), task, settings, checkpoint=tmp_path / "run" / "student.pt")
    task.training, task.epochs = whole, []
    resumed = finetune(student_of(task), task, settings, checkpoint=tmp_path / "run" / "student.pt")
    assert [epoch for epoch in task.epochs if epoch != 77] == [0, 2, 3]  # the first to count the steps
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["student.pt"]


def test_who_watches_hears_of_the_student_in_evaluation_mode_before_the_first_epoch_and_after_each(task, capfd):
    heard = []

    def watch(stage, epoch, student):
        assert not student.training
        heard.append((stage, epoch, student(*next(iter(task.training(0))))))

    watched = finetune(student_of(task), task, Finetune(2, 0.05), watch=watch)
    assert [it[:2] for it in heard] == [("fine-tuning", 0), ("fine-tuning", 1), ("fine-tuning", 2)]
    assert not torch.equal(heard[0][2], heard[1][2])
    alone = finetune(student_of(task), task, Finetune(2, 0.05))
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))


def test_a_finished_run_learns_nothing_more(task, tmp_path, capfd):
    first = finetune(student_of(task), task, Finetune(1), checkpoint=tmp_path / "student.pt")
    task.epochs = []
    again = finetune(student_of(task), task, Finetune(1), checkpoint=tmp_path / "student.pt")
    assert task.epochs == [0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_checkpoint_of_other_settings_or_of_no_run_is_refused(task, tmp_path, capfd):
    path = tmp_path / "student.pt"
    finetune(student_of(task), task, Finetune(1), checkpoint=path)
    with pytest.raises(InputError, match=r"must be of the same settings \(.*'epochs': 2.*\), but is of .*'epochs': 1"):
        finetune(student_of(task), task, Finetune(2), checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"is no checkpoint of this fine-tuning: .*; delete or move it$"):
        finetune(student_of(task), task, Finetune(1), checkpoint=path)


def test_a_checkpoint_runs_no_code(task, tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"settings": Evil()}, tmp_path / "student.pt")
    with pytest.raises(InputError, match="is no checkpoint"):
        finetune(student_of(task), task, Finetune(1), checkpoint=tmp_path / "student.pt")
    assert not (tmp_path / "ran").exists()


def test_learning_stops_when_it_comes_no_nearer_and_the_nearest_network_is_taken(task, capfd, monkeypatch):
    task.calibration = lambda: []
    distances, students = iter([7.0, 5.0, 3.0, 4.0, 3.5, 1.0]), []

    def scripted(student, lessons, distance):
        students.append(copy.deepcopy(student.state_dict()))
        return next(distances)

    monkeypatch.setattr("gulliver.compressors.finetune.mean_distance", scripted)
    student = finetune(student_of(task), task, Finetune(5, 0.05, patience=2))
    assert task.epochs == [0, 0, 1, 2, 3]  # the second is the nearest, and two more were no nearer
    assert all(torch.equal(students[2][name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize("learning_rate", [1e4, 1e30], ids=["far", "no number"])
def test_training_that_leads_away_from_the_original_is_undone(learning_rate, task, capfd):
    student = student_of(task)
    before = copy.deepcopy(student.state_dict())
    finetune(student, task, Finetune(1, learning_rate, optimizer="sgd"))
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert not student.training
    assert "fine-tuning led away from the original and is undone" in capfd.readouterr().err


class DenseTask(TrainableTask):
    """A network that gives a value for each pixel."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1)).eval()


def test_values_for_each_pixel_are_learned_too(capfd):
    task = DenseTask()
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(5))

    def error(student):
        with torch.no_grad():
            return F.mse_loss(student(images), task.model(images)).item()

    student = student_of(task)
    before = error(student)
    finetune(student, task, Finetune(3))
    assert error(student) < 0.2 * before


def test_features_are_learned_where_they_have_a_weight(task, capfd):
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(5))

    def difference(weight):
        student = student_of(task)
        finetune(student, task, Finetune(3, 0.02, feature_weight=weight))
        with torch.no_grad(), reading(student, "5") as given, reading(task.model, "5") as wanted:
            student(images), task.model(images)
        return similarity_difference(given[0], wanted[0])

    assert difference(1e5) < 0.9 * difference(0.0)
