import pytest
import torch
from gulliver.tasks import image_classification
from gulliver.tasks.digits_cnn import DigitsCNN
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import ExpectingTask, MetricTask, TrainingTask


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache_home(monkeypatch, cache_home):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))


@pytest.fixture(scope="module")
def task(cache_home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        made = DigitsCNN()
        assert not list(cache_home.iterdir())
        assert not made.model.training
    return made


def refuse_to_train(*arguments):
    raise AssertionError("trained again")


def pixels(images):
    return {tuple(image.flatten().tolist()) for image in images}


def test_it_satisfies_the_protocols(task):
    assert isinstance(task, ExpectingTask)
    assert isinstance(task, TrainingTask)
    assert not isinstance(task, MetricTask)
    assert task.name == "digits_cnn"


@pytest.mark.parametrize("split", ["search", "test"])
def test_the_model_is_accurate(task, split):
    assert task.scores(task.model, split, 0, task.size(split)).mean() >= 0.95


def test_a_second_task_loads_the_same_weights_without_training(task, monkeypatch):
    monkeypatch.setattr(image_classification, "train_classifier", refuse_to_train)
    loaded = DigitsCNN().model
    assert not loaded.training
    images = task.splits.test.images.float()
    assert torch.equal(loaded(images), task.model(images))


def test_two_trainings_give_equal_weights(task, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.get_rng_state()
    with torch.inference_mode():
        model = DigitsCNN().model
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in model.parameters())
    expected = task.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def truncated(path):
    path.write_bytes(path.read_bytes()[:1000])


def garbage(path):
    path.write_bytes(b"not weights at all")


def emptied(path):
    path.write_bytes(b"")


def of_another_network(path):
    torch.save({"weight": torch.zeros(3)}, path)


def not_a_dictionary(path):
    torch.save(torch.zeros(3), path)


def of_unsafe_type(path):
    torch.save({"weight": pytest.approx(1)}, path)


@pytest.mark.parametrize("damage", [truncated, garbage, emptied, of_another_network, not_a_dictionary, of_unsafe_type])
def test_a_corrupt_cache_file_is_trained_again_and_said_so(damage, task, monkeypatch, tmp_path, capfd):
    source = task.weights_path.read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = DigitsCNN().weights_path
    path.parent.mkdir()
    path.write_bytes(source)
    damage(path)
    trained = []
    monkeypatch.setattr(image_classification, "train_classifier", lambda *arguments: trained.append(arguments))
    assert DigitsCNN().model is not None
    assert len(trained) == 1
    error = capfd.readouterr().err
    assert str(path) in error
    assert "trained again" in error
    assert error.count("\n") == 1
    monkeypatch.setattr(image_classification, "train_classifier", refuse_to_train)
    assert DigitsCNN().model is not None


def test_other_settings_are_cached_elsewhere():
    paths = {DigitsCNN().weights_path, DigitsCNN(seed=1).weights_path, DigitsCNN(epochs=1).weights_path}
    assert len(paths) == 3
    assert DigitsCNN(search_samples=10).weights_path in paths


def test_the_splits_cover_the_data_and_share_no_sample(task):
    splits = task.splits
    assert len(splits.train) + len(splits.search) + len(splits.test) == 1797
    train, search, test = (pixels(part.images) for part in (splits.train, splits.search, splits.test))
    assert len(train) + len(search) + len(test) == 1797
    assert not train & search
    assert not train & test
    assert not search & test


def test_calibration_and_training_hold_training_images_only(task):
    known = pixels(task.normalization(task.splits.train.images))
    for batches in (task.calibration(), task.training(0)):
        for (images,) in batches:
            assert pixels(images) <= known
    assert pixels(task.example_inputs[0]) <= known
    assert task.example_inputs[0].shape == (1, 1, 8, 8)
    assert task.example_inputs[0].dtype == torch.float32


def test_calibration_is_the_same_each_time(task):
    first = list(DigitsCNN(calibration_samples=200).calibration())
    assert [len(images) for (images,) in first] == [128, 72]
    second = DigitsCNN(calibration_samples=200).calibration()
    assert all(torch.equal(a, b) for (a,), (b,) in zip(first, second, strict=True))


def test_training_is_shuffled_by_the_epoch_alone():
    def epoch(number, **arguments):
        return torch.cat([images for (images,) in DigitsCNN(**arguments).training(number)])

    assert torch.equal(epoch(1), epoch(1, seed=5))
    assert not torch.equal(epoch(1), epoch(2))
    assert len(epoch(0, training_samples=100)) == 100
    assert len(epoch(0)) == 997


def test_slices_of_scores_agree_with_the_whole(task):
    untrained = DigitsCNN(seed=1)._untrained_model().eval()
    whole = task.scores(untrained, "search", 0, 400)
    assert whole.shape == (400,)
    assert set(whole.tolist()) == {0.0, 1.0}
    parts = [task.scores(untrained, "search", start, stop) for start, stop in [(0, 1), (1, 130), (130, 400)]]
    assert torch.equal(torch.cat(parts), whole)
    assert task.scores(untrained, "search", 7, 7).shape == (0,)


def test_scores_are_one_where_the_label_is_the_largest_logit(task):
    labels = task.splits.test.labels
    seen = iter(labels.split(500))

    def perfect(images):
        return torch.nn.functional.one_hot(next(seen), 10).float()

    assert task.scores(perfect, "test", 0, 400).tolist() == [1.0] * 400
    always_three = task.scores(lambda images: torch.eye(10)[3].expand(len(images), 10), "test", 0, 400)
    assert torch.equal(always_three, (labels == 3).float())


def test_expected_scores_are_how_likely_the_original_holds_an_answer(task):
    own = task.expected_scores(task.model, "search", 0, 400)
    # Calibrated there: as likely as it is right, up to luck of a standard error of 0.5 points.
    assert own.mean().item() == pytest.approx(task.scores(task.model, "search", 0, 400).mean().item(), abs=0.015)
    tens = torch.stack([_always(task, digit) for digit in range(10)])
    assert torch.allclose(tens.sum(0), torch.ones(400))
    assert torch.equal(tens.max(0).values, own)
    assert torch.equal(task.expected_scores(task.model, "search", 130, 400), own[130:])


def _always(task, digit):
    return task.expected_scores(lambda images: torch.eye(10)[digit].expand(len(images), 10), "search", 0, 400)


def test_search_samples_shorten_the_search_split_only():
    small = DigitsCNN(search_samples=50)
    assert (small.size("search"), small.size("test")) == (50, 400)
    assert torch.equal(small._samples_of("search").labels, DigitsCNN().splits.search.labels[:50])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 401)])
def test_scores_off_the_split_are_refused(task, start, stop):
    with pytest.raises(InputError, match=f"0 <= start <= stop <= 400 on test, got {start} and {stop}"):
        task.scores(task.model, "test", start, stop)


def test_an_unknown_split_is_refused(task):
    with pytest.raises(InputError, match="split: must be search or test, got train"):
        task.size("train")


@pytest.mark.parametrize(
    ("argument", "value", "highest"),
    [
        ("seed", -1, 2**63 - 1),
        ("seed", "zero", 2**63 - 1),
        ("epochs", 0, 1000),
        ("epochs", True, 1000),
        ("calibration_samples", 998, 997),
        ("training_samples", 0, 997),
        ("search_samples", 401, 400),
        ("search_samples", 2.5, 400),
    ],
)
def test_arguments_out_of_range_are_refused(argument, value, highest):
    rule = f"^{argument}: must be a whole number from [01] to {highest}, got {value}$"
    with pytest.raises(InputError, match=rule):
        DigitsCNN(**{argument: value})
