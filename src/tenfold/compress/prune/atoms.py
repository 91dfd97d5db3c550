"""Atoms: the smallest things that can be removed, and a union-find that says which must go together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

FROZEN = 0  # the atom of everything that must stay


class Atoms:
    """A growing union-find over whole numbers; joins are done on whole arrays at once.

    The root of a set is its smallest atom, so that whatever is joined with `FROZEN` has the root 0.
    Each atom has a `source`: atoms born together along one dimension of one parameter share it.
    """

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1, dtype=np.int64)
        self._source: Ids = np.zeros(1, dtype=np.int64)
        self.joins = 0  # grows whenever two sets become one; a pass that leaves it alone has converged

    def fresh(self, number: int, *, shared_source: bool = True) -> Ids:
        """`number` new atoms, born together (`shared_source`) or each on its own."""
        first = len(self._parent)
        new = np.arange(first, first + number, dtype=np.int64)
        self._parent = np.concatenate([self._parent, new])
        self._source = np.concatenate([self._source, np.full_like(new, first) if shared_source else new])
        return new

    @property
    def count(self) -> int:
        """The number of atoms."""
        return len(self._parent)

    def source(self, ids: Ids) -> Ids:
        """Where each atom was born."""
        return self._source[ids]

    def find(self, ids: Ids) -> Ids:
        """The root of each atom, in the shape of `ids`."""
        root = self._parent[ids]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[ids] = root  # path compression
        return root

    def join(self, a: Ids, b: Ids) -> None:
        """Make each pair of the broadcast arrays `a` and `b` one set."""
        a, b = np.broadcast_arrays(self.find(a), self.find(b))
        differ = a != b
        pairs = np.unique(np.stack([a[differ], b[differ]], axis=1), axis=0)
        while len(pairs):
            self.joins += len(pairs)
            low, high = pairs.min(axis=1), pairs.max(axis=1)
            # One `high` may meet several `low`: it takes the smallest, and the loop joins the others to that.
            np.minimum.at(self._parent, high, low)
            a, b = self.find(low), self.find(high)
            differ = a != b
            pairs = np.unique(np.stack([a[differ], b[differ]], axis=1), axis=0)

    def join_all(self, ids: Ids) -> None:
        """Make everything in `ids` one set."""
        if ids.size > 1:
            self.join(ids.reshape(-1)[:1], ids.reshape(-1))

    def join_along(self, ids: Ids, axis: int) -> None:
        """Make the atoms along `axis` one set, for each position of the other axes."""
        self.join(ids.take([0], axis), ids)

    def freeze(self, ids: Ids) -> None:
        """Everything in `ids` must stay."""
        self.join(np.array([FROZEN]), ids.reshape(-1))


def squeeze_uniform(ids: Ids) -> Ids:
    """Shrink to size 1 every axis along which nothing changes; the result broadcasts back to `ids`."""
    for axis, size in enumerate(ids.shape):
        if size > 1:
            first = ids.take([0], axis)
            if ids.strides[axis] == 0 or np.array_equal(np.broadcast_to(first, ids.shape), ids):
                ids = first
    return ids


def varying(ids: Ids) -> tuple[int, ...]:
    """The axes along which `ids`, already squeezed by `squeeze_uniform`, changes."""
    return tuple(axis for axis, size in enumerate(ids.shape) if size > 1)
