import pytest
import torch
from gulliver.compressors.decompose import SingularValues
from gulliver.compressors.store import ENTRY_BYTES, Store, bytes_of
from gulliver.tasks.errors import InputError
from torch import nn


def tensor(count):
    return torch.zeros(count, dtype=torch.float32)


ENTRY = ENTRY_BYTES + 400


def test_what_was_not_asked_for_longest_makes_room():
    store, first = Store(3 * ENTRY), tensor(100)
    store.put("a", first)
    for key in "bc":
        store.put(key, tensor(100))
    assert store["a"] is store.get_or_make("a", lambda: tensor(1)) is first
    store.put("d", tensor(100))
    assert [key in store for key in "abcd"] == [True, False, True, True]
    assert store.used_bytes == 3 * ENTRY


def test_an_entry_is_made_once_and_again_only_after_it_made_room():
    store, made = Store(2 * ENTRY), []

    def ask(key):
        store.get_or_make(key, lambda: made.append(key) or tensor(100))

    for key in "aabbacb":
        ask(key)
    assert made == ["a", "b", "c", "b"]


def test_a_large_entry_makes_room_for_itself_by_several_small_ones():
    store = Store(4 * ENTRY)
    for key in "abcd":
        store.put(key, tensor(100))
    store.put("large", tensor(500))
    assert store.used_bytes == ENTRY_BYTES + 2000 + ENTRY
    assert "large" in store
    assert "d" in store


def test_what_is_larger_than_the_bound_is_given_but_not_kept():
    store = Store(ENTRY - 1)
    assert len(store.get_or_make("a", lambda: tensor(100))) == 100
    assert "a" not in store
    assert store.used_bytes == 0


def test_an_entry_that_is_put_again_counts_once():
    store = Store(10 * ENTRY)
    for count in (50, 10, 100):
        store.put("a", tensor(count))
    assert store.used_bytes == ENTRY


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (tensor(10), 40),
        (tensor(10)[:2], 40),
        (tensor(10).double(), 80),
        ((tensor(10), (tensor(1), None), 3.0), 44),
        (nn.Linear(3, 5), 4 * (15 + 5)),
        (nn.BatchNorm2d(3), 4 * (4 * 3) + 8),
        (SingularValues(tensor(6), tensor(2), tensor(4)), 48),
        ("text", 0),
    ],
)
def test_bytes_are_those_of_all_storages(value, size):
    assert bytes_of(value) == size


def test_a_negative_bound_is_refused():
    with pytest.raises(InputError, match=r"^`memory_bytes >= 0` must hold, but it is -1$"):
        Store(-1)
