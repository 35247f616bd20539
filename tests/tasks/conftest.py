import pytest
from gulliver.tasks.fashion_mnist import TRAIN_IMAGES, _find, load_fashion_mnist


@pytest.fixture(scope="session")
def fashion_splits():
    if _find(TRAIN_IMAGES) is None:
        pytest.skip("FashionMNIST is neither installed nor in the cache")
    return load_fashion_mnist()
