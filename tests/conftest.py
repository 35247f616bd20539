"""Settings for every test."""

import pytest
from hypothesis import settings

# A shared machine may stall for longer than any deadline; no test here is about time.
settings.register_profile("gulliver", deadline=None)
settings.load_profile("gulliver")


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors are computed sooner by one thread than by several that wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
