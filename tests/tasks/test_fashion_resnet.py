from dataclasses import replace

import pytest
import torch
from gulliver.tasks import image_classification
from gulliver.tasks.errors import InputError
from gulliver.tasks.fashion_resnet import FashionResNet
from gulliver.tasks.protocol import ScoredTask, TrainingTask


@pytest.fixture(autouse=True)
def _use_empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def make_task(fashion_splits, monkeypatch):
    monkeypatch.setattr(FashionResNet, "_load_splits", lambda self: fashion_splits)
    return FashionResNet


def test_construction_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(FashionResNet, "_load_splits", lambda self: pytest.fail("read the data"))
    FashionResNet()
    assert list(tmp_path.iterdir()) == []


def test_the_network_has_a_quarter_of_a_million_parameters():
    network = FashionResNet()._untrained_model()
    assert 250_000 < sum(parameter.numel() for parameter in network.parameters()) < 280_000
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_arguments_are_checked():
    with pytest.raises(InputError, match="search_samples: must be a whole number from 1 to 5000, got 5001"):
        FashionResNet(search_samples=5001)


def test_it_satisfies_the_protocols(make_task, monkeypatch):
    # Python 3.11 reads every property in isinstance, and this one would train for minutes.
    monkeypatch.setattr(FashionResNet, "model", None)
    assert isinstance(make_task(), ScoredTask)
    assert isinstance(make_task(), TrainingTask)


def test_a_few_samples_train_and_are_cached(fashion_splits, monkeypatch):
    few = replace(fashion_splits, train=fashion_splits.train[:700])
    monkeypatch.setattr(FashionResNet, "_load_splits", lambda self: few)
    model = FashionResNet(epochs=1).model
    monkeypatch.setattr(image_classification, "train_classifier", None)
    loaded = FashionResNet(epochs=1).model
    images = FashionResNet(epochs=1).example_inputs[0]
    assert torch.equal(model(images), loaded(images))


def test_calibration_is_fixed_and_from_the_training_images(make_task):
    task = make_task()
    batches = [images for (images,) in task.calibration()]
    assert [batch.shape for batch in batches] == [(128, 1, 28, 28)] * 4
    assert torch.equal(torch.cat(batches), task.normalization(task.splits.train.images[:512]))
    assert torch.equal(task.example_inputs[0], batches[0][:1])


def test_training_mirrors_about_half_of_the_first_training_images(make_task):
    task = make_task(training_samples=700)
    batches = [images for (images,) in task.training(0)]
    assert [len(batch) for batch in batches] == [128, 128, 128, 128, 128, 60]
    seen = {image.numpy().tobytes() for image in torch.cat(batches)}
    upright = task.normalization(task.splits.train.images[:700])
    as_stored = {image.numpy().tobytes() for image in upright} & seen
    mirrored = {image.numpy().tobytes() for image in upright.flip(3)} & seen
    assert seen == as_stored | mirrored
    assert 250 < len(mirrored) < 450


def test_slices_of_scores_agree_with_the_whole(make_task):
    task = make_task(search_samples=1100)
    network = task._untrained_model().eval()
    whole = task.scores(network, "search", 0, task.size("search"))
    assert whole.shape == (1100,)
    parts = [task.scores(network, "search", *bounds) for bounds in ((0, 500), (500, 501), (501, 1100))]
    assert torch.equal(torch.cat(parts), whole)
    assert task.size("test") == 5000
