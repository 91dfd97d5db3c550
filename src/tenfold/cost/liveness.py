"""The bytes of activations alive at each moment, followed by the life of their storages."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import Tensor


class Liveness:
    """Counts a storage from the first tensor that shows it until it is freed, as an allocator would see it.

    Storages are numbered in the order in which they appear: `sizes[number]` is the bytes of one, alive or not.
    """

    def __init__(self) -> None:
        self.current = 0
        self.peak = 0
        self.sizes: list[int] = []
        self._live: dict[int, tuple[weakref.ref[object], int]] = {}  # address -> life, number
        self._ignored: dict[int, Tensor] = {}
        self._seen_at_peak = 0  # storages that had appeared when the peak was reached
        self._freed_since: list[int] = []  # numbers of those freed after it

    def ignore(self, tensor: Tensor) -> None:
        """Leave this tensor's storage out, which is a weight's."""
        self._ignored[storage_key(tensor)] = tensor  # held, so that its address is not given out again

    def see(self, tensors: Iterable[Tensor]) -> None:
        """Take in the storages of these tensors that are new."""
        for tensor in tensors:
            if not self.is_new(tensor):
                continue
            key = storage_key(tensor)
            storage = tensor.untyped_storage()
            size = storage.nbytes()

            def free(_: object, key: int = key, size: int = size) -> None:
                self.current -= size
                self._freed_since.append(self._live.pop(key)[1])

            self._live[key] = (weakref.ref(storage, free), len(self.sizes))
            self.sizes.append(size)
            self.current += size
        if self.current > self.peak:
            self.peak = self.current
            self._seen_at_peak = len(self.sizes)
            self._freed_since.clear()

    def is_new(self, tensor: Tensor) -> bool:
        """Whether this tensor's storage has not been seen yet."""
        key = storage_key(tensor)
        return key not in self._live and key not in self._ignored

    def numbers(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """The numbers of the live storages behind these tensors, each once."""
        live = (self._live.get(storage_key(tensor)) for tensor in tensors)
        return tuple(sorted({found[1] for found in live if found is not None}))

    def at_peak(self) -> list[int]:
        """The numbers of the storages that were alive when the peak was first reached."""
        alive = [*self._freed_since, *(number for _, number in self._live.values())]
        return sorted(number for number in alive if number < self._seen_at_peak)


def storage_key(tensor: Tensor) -> int:
    """A number that two tensors share if and only if they share a storage, while both are alive."""
    return tensor.untyped_storage()._cdata
