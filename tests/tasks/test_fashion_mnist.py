import gzip
import hashlib
from dataclasses import replace
from http.client import IncompleteRead
from urllib.error import URLError

import pytest
import torch
from gulliver.tasks import fashion_mnist
from gulliver.tasks.errors import InputError
from gulliver.tasks.fashion_mnist import TRAIN_LABELS, load_fashion_mnist

CONTENT = bytes(8) + bytes([3, 1, 4])
SMALL_FILE = replace(TRAIN_LABELS, content_sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def empty_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "INSTALLED_FOLDERS", (tmp_path / "installed",))
    monkeypatch.setattr(fashion_mnist, "_fetch", unreachable)
    return tmp_path


def unreachable(url):
    raise URLError("no route to host")


def test_a_missing_file_says_what_to_do_in_one_line(empty_machine):
    with pytest.raises(InputError) as caught:
        load_fashion_mnist()
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "train-images-idx3-ubyte.gz",
        str(empty_machine / "installed"),
        "no route to host",
        "install the Debian package dataset-fashion-mnist",
        f"place the four *-ubyte.gz files in {empty_machine / 'cache' / 'gulliver' / 'fashion-mnist'}",
    ):
        assert part in message
    assert list(empty_machine.iterdir()) == []


def test_a_download_that_breaks_off_says_what_to_do(empty_machine, monkeypatch):
    def break_off(url):
        raise IncompleteRead(b"half", 4)

    monkeypatch.setattr(fashion_mnist, "_fetch", break_off)
    with pytest.raises(InputError, match=r"cannot be read \(IncompleteRead.*; install the Debian package"):
        load_fashion_mnist()


def test_an_installed_file_with_another_checksum_is_refused(empty_machine):
    path = empty_machine / "installed" / SMALL_FILE.name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b"something else"))
    found = hashlib.sha256(b"something else").hexdigest()
    rule = f"^{path}: unpacked SHA-256 must be {SMALL_FILE.content_sha256}, got {found}; delete or replace it$"
    with pytest.raises(InputError, match=rule):
        fashion_mnist._values(SMALL_FILE)


@pytest.mark.parametrize("packed", [b"", b"plain", gzip.compress(CONTENT)[:-4], gzip.compress(CONTENT)[:15]])
def test_an_installed_file_that_does_not_unpack_is_refused(empty_machine, packed):
    path = empty_machine / "installed" / SMALL_FILE.name
    path.parent.mkdir()
    path.write_bytes(packed)
    with pytest.raises(InputError, match=str(path)):
        fashion_mnist._values(SMALL_FILE)


def test_a_download_is_checked_and_then_read_from_the_cache(empty_machine, monkeypatch):
    urls = []

    def fetch(url):
        urls.append(url)
        return gzip.compress(CONTENT)

    monkeypatch.setattr(fashion_mnist, "_fetch", fetch)
    assert fashion_mnist._values(SMALL_FILE).tolist() == [3, 1, 4]
    assert fashion_mnist._values(SMALL_FILE).tolist() == [3, 1, 4]
    assert urls == [f"{fashion_mnist.URL}/{SMALL_FILE.name}"]


def test_a_download_with_another_checksum_is_refused_and_not_kept(empty_machine, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_fetch", lambda url: gzip.compress(b"something else"))
    with pytest.raises(InputError, match=f"{fashion_mnist.URL}/{SMALL_FILE.name}: unpacked SHA-256 must be"):
        fashion_mnist._values(SMALL_FILE)
    assert list(empty_machine.iterdir()) == []


def test_shapes_and_types(fashion_splits):
    for part, samples in (
        (fashion_splits.train, 60000),
        (fashion_splits.search, 5000),
        (fashion_splits.test, 5000),
    ):
        assert part.images.shape == (samples, 1, 28, 28)
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
    assert torch.bincount(fashion_splits.train.labels).tolist() == [6000] * 10


def test_normalization_is_that_of_the_training_pixels(fashion_splits):
    pixels = fashion_mnist.NORMALIZATION(fashion_splits.train.images)
    assert abs(pixels.mean().item()) < 1e-3
    assert abs(pixels.std().item() - 1) < 1e-3


def test_search_and_test_are_halves_of_the_other_images(fashion_splits):
    others = fashion_mnist._labelled_images(fashion_mnist.OTHER_IMAGES, fashion_mnist.OTHER_LABELS)
    halves = torch.cat([fashion_splits.search.images, fashion_splits.test.images])
    assert ordered(halves) == ordered(others.images)
    labels = torch.cat([fashion_splits.search.labels, fashion_splits.test.labels])
    assert torch.equal(torch.bincount(labels), torch.bincount(others.labels))


def test_no_image_is_in_two_splits(fashion_splits):
    # Ten thousand pictures of clothes hold a few twins; none may cross a border.
    train, search, test = (
        set(ordered(part.images)) for part in (fashion_splits.train, fashion_splits.search, fashion_splits.test)
    )
    assert not train & search
    assert not train & test
    assert not search & test


def test_the_split_never_changes(fashion_splits):
    assert fashion_splits.search.labels[:12].tolist() == [7, 1, 2, 7, 9, 3, 9, 4, 5, 0, 8, 8]
    assert fashion_splits.test.labels[:12].tolist() == [7, 5, 8, 5, 9, 5, 7, 2, 1, 9, 1, 5]


def ordered(images):
    return sorted(image.tobytes() for image in images.numpy())
