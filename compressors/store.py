"""A least-recently-used store of tensors and modules, bounded by the bytes that they take."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import Any

from gulliver.tasks.errors import InputError
from torch import Tensor, nn

# What a key, its entry and the Python objects around a tensor take, so that many small entries count too.
ENTRY_BYTES = 1024


class Store:
    """What was made most recently, `used_bytes` of it, never more than `memory_bytes`.

    Raises InputError for a negative bound; one of 0 keeps nothing.
    """

    def __init__(self, memory_bytes: int) -> None:
        if memory_bytes < 0:
            raise InputError(f"`memory_bytes >= 0` must hold, but it is {memory_bytes}")
        self.memory_bytes = memory_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def __getitem__(self, key: Hashable) -> Any:
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def get_or_make(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is stored under the key, or else make it and keep it."""
        if key in self._entries:
            return self[key]
        value = make()
        self.put(key, value)
        return value

    def put(self, key: Hashable, value: Any) -> None:
        """Keep the value in place of those that were not asked for longest; one larger than the bound is not kept."""
        size = ENTRY_BYTES + bytes_of(value)
        if key in self._entries:
            self.used_bytes -= self._entries.pop(key)[1]
        if size > self.memory_bytes:
            return
        while self.used_bytes + size > self.memory_bytes:
            self.used_bytes -= self._entries.popitem(last=False)[1][1]
        self._entries[key] = (value, size)
        self.used_bytes += size


def bytes_of(value: Any) -> int:
    """Return the bytes of the tensors of a value: a tensor, a module, or tuples and dataclasses of them."""
    if isinstance(value, Tensor):
        # The whole storage: a view keeps all of what it is a view of.
        return value.untyped_storage().nbytes()
    if isinstance(value, nn.Module):
        return sum(map(bytes_of, (*value.parameters(), *value.buffers())))
    if isinstance(value, tuple):
        return sum(map(bytes_of, value))
    if is_dataclass(value):
        return sum(bytes_of(getattr(value, item.name)) for item in fields(value))
    return 0
