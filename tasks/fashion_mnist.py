"""FashionMNIST: 60,000 training images and 10,000 others, which one fixed permutation halves into search and test."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from gulliver.tasks.cache import cache_dir, write_atomically
from gulliver.tasks.errors import InputError
from gulliver.tasks.labelled_images import ImageSplits, LabelledImages, Normalization, fixed_permutation
from torch import Tensor

NORMALIZATION = Normalization(white=255.0, mean=0.2860, standard_deviation=0.3530)
SPLIT_SEED = 20170828
SEARCH_IMAGES = 5000
INSTALLED_FOLDERS = (
    Path("/usr/share/datasets/fashion-mnist"),
    Path("/usr/local/share/datasets/fashion-mnist"),
)
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DOWNLOAD_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class DataFile:
    """One gzip file of the data set, with the SHA-256 of what it unpacks to and that content's header length."""

    # The unpacked content is checked, not the file: Debian strips the name and the time from the gzip headers,
    # which changes the checksums of the files and nothing else.
    name: str
    content_sha256: str
    header_bytes: int


TRAIN_IMAGES = DataFile(
    "train-images-idx3-ubyte.gz", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 16
)
TRAIN_LABELS = DataFile(
    "train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 8
)
OTHER_IMAGES = DataFile(
    "t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 16
)
OTHER_LABELS = DataFile(
    "t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 8
)


def load_fashion_mnist() -> ImageSplits:
    """Return the splits, images of shape (samples, 1, 28, 28); raises InputError where the data cannot be had."""
    train = _labelled_images(TRAIN_IMAGES, TRAIN_LABELS)
    others = _labelled_images(OTHER_IMAGES, OTHER_LABELS)
    order = fixed_permutation(len(others), SPLIT_SEED)
    return ImageSplits(train, search=others[order[:SEARCH_IMAGES]], test=others[order[SEARCH_IMAGES:]])


def _labelled_images(images: DataFile, labels: DataFile) -> LabelledImages:
    return LabelledImages(_values(images).reshape(-1, 1, 28, 28), _values(labels).long())


def _values(file: DataFile) -> Tensor:
    path = _find(file) or _download(file)
    content = _unpack(path.read_bytes(), file, str(path))
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=file.header_bytes)


def _cache_folder() -> Path:
    return cache_dir() / "fashion-mnist"


def _find(file: DataFile) -> Path | None:
    paths = (folder / file.name for folder in (*INSTALLED_FOLDERS, _cache_folder()))
    return next((path for path in paths if path.is_file()), None)


def _unpack(packed: bytes, file: DataFile, source: str) -> bytes:
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{source}: must be a whole gzip file, but unpacking failed: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.content_sha256:
        raise InputError(f"{source}: unpacked SHA-256 must be {file.content_sha256}, got {found}; delete or replace it")
    return content


def _download(file: DataFile) -> Path:
    url, path = f"{URL}/{file.name}", _cache_folder() / file.name
    try:
        packed = _fetch(url)
    except (OSError, HTTPException) as error:
        folders = ", ".join(str(folder) for folder in INSTALLED_FOLDERS)
        raise InputError(
            f"FashionMNIST: {file.name} is not in {folders} or {path.parent}, and {url} cannot be read ({error}); "
            f"install the Debian package dataset-fashion-mnist or place the four *-ubyte.gz files in {path.parent}"
        ) from error
    _unpack(packed, file, url)
    write_atomically(path, lambda temporary: temporary.write_bytes(packed))
    return path


def _fetch(url: str) -> bytes:
    # Plain HTTP is all that the publisher offers; the checksum makes up for it.
    with urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310
        content: bytes = response.read()
        return content
