"""The union-find of atoms against a plain one, and the squeezing of arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.compress.prune.atoms import FROZEN, Atoms, squeeze_uniform

PAIRS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60)


def plain_components(pairs: list[tuple[int, int]]) -> list[int]:
    """The smallest member of each number's component, by relabelling everything at each join."""
    label = list(range(31))
    for a, b in pairs:
        low, high = sorted((label[a], label[b]))
        label = [low if value == high else value for value in label]
    return label


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIRS, max_size=4))
def test_joins_on_arrays_make_the_components_of_single_joins(batches: list[list[tuple[int, int]]]) -> None:
    atoms = Atoms()
    atoms.fresh(30)
    for batch in batches:
        if batch:
            a, b = np.array(batch).T
            atoms.join(a, b)
    expected = plain_components([pair for batch in batches for pair in batch])
    assert atoms.find(np.arange(31)).tolist() == expected


def test_what_is_joined_with_the_frozen_atom_is_frozen() -> None:
    atoms = Atoms()
    ids = atoms.fresh(4)
    atoms.join(ids[0:2], ids[2:4])
    atoms.freeze(ids[3:])
    assert (atoms.find(ids) == FROZEN).tolist() == [False, True, False, True]


def test_no_join_is_counted_when_nothing_changes() -> None:
    atoms = Atoms()
    ids = atoms.fresh(3)
    atoms.join_all(ids)
    before = atoms.joins
    atoms.join_all(ids)
    assert atoms.joins == before > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_squeezing_loses_nothing(axis: int) -> None:
    shape = [2, 3, 4]
    ids = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)]), shape)
    squeezed = squeeze_uniform(ids.copy())
    assert [size > 1 for size in squeezed.shape] == [a == axis for a in range(3)]
    assert np.array_equal(np.broadcast_to(squeezed, shape), ids)
