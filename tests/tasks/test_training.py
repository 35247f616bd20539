from dataclasses import replace

import pytest
import torch
from gulliver.tasks.labelled_images import LabelledImages, Normalization
from gulliver.tasks.residual_network import ResidualNetwork
from gulliver.tasks.training import TrainingSettings, shuffled_batches, train_classifier

SETTINGS = TrainingSettings(
    seed=3,
    epochs=4,
    batch_size=8,
    max_learning_rate=0.1,
    rising_share=0.2,
    weight_decay=0.0,
    label_smoothing=0.0,
    random_flip=True,
    bfloat16=False,
)
NORMALIZATION = Normalization(white=255.0, mean=0.5, standard_deviation=0.5)


def bright_and_dark(samples=30):
    labels = torch.arange(samples) % 2
    noise = torch.randint(0, 55, (samples, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    return LabelledImages((labels.reshape(-1, 1, 1, 1) * 200 + noise).to(torch.uint8), labels)


def trained(settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResidualNetwork((4,), blocks_per_stage=1, stem_stride=1, in_channels=1, classes=2)
    train_classifier(network, bright_and_dark(), NORMALIZATION, settings, "training")
    return network


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_learns_and_leaves_the_network_ready(bfloat16):
    network = trained(replace(SETTINGS, bfloat16=bfloat16))
    data = bright_and_dark()
    assert not network.training
    assert all(parameter.is_contiguous() for parameter in network.parameters())
    assert (network(NORMALIZATION(data.images)).argmax(1) == data.labels).float().mean() > 0.9


@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_repeats_exactly_and_follows_its_seed(bfloat16):
    settings = replace(SETTINGS, bfloat16=bfloat16)
    first = weights(trained(settings))
    assert torch.equal(first, weights(trained(settings)))
    assert not torch.equal(first, weights(trained(replace(settings, seed=4))))


def test_training_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    trained(SETTINGS)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_is_shown_on_stderr(capfd):
    trained(SETTINGS)
    streams = capfd.readouterr()
    assert "16/16" in streams.err
    assert streams.out == ""


@pytest.mark.parametrize("random_flip", [False, True])
def test_batches_hold_every_sample_once(random_flip):
    data = LabelledImages(torch.arange(30 * 4).reshape(30, 1, 2, 2), torch.arange(30))
    batches = list(shuffled_batches(data, 8, random_flip, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [8, 8, 8, 6]
    labels = torch.cat([batch.labels for batch in batches])
    images = torch.cat([batch.images for batch in batches])
    assert sorted(labels.tolist()) == list(range(30))
    assert labels.tolist() != list(range(30))
    mirrored = images[:, 0, 0, 0] > images[:, 0, 0, 1]
    assert mirrored.any().item() is random_flip
    assert not mirrored.all()
    upright = torch.where(mirrored.reshape(-1, 1, 1, 1), images.flip(3), images)
    assert torch.equal(upright, data.images[labels])
