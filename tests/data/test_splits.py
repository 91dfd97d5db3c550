"""Splits: selection, batches, holding out; and what is no split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from tenfold.data import Split, Splits, Task
from tenfold.errors import DataError


def pairs(number: int) -> list[tuple[torch.Tensor, int]]:
    return [(torch.full((2,), float(i)), i % 3) for i in range(number)]


def test_a_dataset_and_a_stack_give_the_same() -> None:
    items = pairs(7)
    stacked = Split((torch.stack([x for x, _ in items]), [y for _, y in items]))
    listed = Split(items)
    for (i, a, s), (j, b, t) in zip(stacked.batches(3, shuffle=4), listed.batches(3, shuffle=4), strict=True):
        assert torch.equal(i, j)
        assert torch.equal(a, b)
        assert torch.equal(s, t)


def test_inputs_by_keyword() -> None:
    split = Split(({"ids": torch.arange(6).view(3, 2), "mask": torch.ones(3, 2)}, [0, 1, 0]))
    inputs, targets = split.select([2, 0])
    assert inputs["ids"].tolist() == [[4, 5], [0, 1]]  # type: ignore[index,call-overload]
    assert targets.tolist() == [0, 0]


def test_small_integer_labels_become_int64() -> None:
    assert Split((np.zeros((2, 1)), np.array([0, 255], np.uint8))).select([0, 1])[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder", "not str"),
        (torch.zeros(3, 2), "not Tensor"),
        (np.zeros((3, 2)), "not ndarray"),
        ({"a": 1}, "not dict"),
        (DataLoader(TensorDataset(torch.zeros(2))), r"not DataLoader; pass the loader's \.dataset"),
        (iter([]), "not list_iterator"),
        ([], "is empty"),
        ((torch.zeros(0, 3), torch.zeros(0)), "is empty"),
        ((torch.zeros(2, 3), torch.zeros(4)), "2 examples but 4 targets"),
        (((torch.zeros(2), torch.zeros(3)), [0, 1]), r"differ in their number of examples: \[2, 3\]"),
        ((torch.zeros(2, 3), 5), "need a first dimension"),
        (([[1, 2], [3]], [0, 1]), "cannot be made tensors"),
        ((torch.zeros(1, 2), [2**70]), "cannot be made tensors"),
        ((torch.zeros(2, 2), torch.tensor([1, 2**64 - 1], dtype=torch.uint64)), "index 1 does not fit"),
        (({}, [1]), "hold no tensor"),
    ],
)
def test_no_split(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(source)


def test_examples_of_different_shapes_are_named() -> None:
    split = Split([(torch.zeros(3), 0), (torch.zeros(3), 1), (torch.zeros(4), 1)])
    with pytest.raises(DataError, match=r"examples differ in shape: \(3,\) at index 0, \(4,\) at index 2"):
        split.select([0, 1, 2])


def test_examples_that_are_no_pairs() -> None:
    with pytest.raises(DataError, match="example 0 of the dataset is a tuple of 1, not a pair"):
        Split(TensorDataset(torch.zeros(3, 2))).select([0])


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=80),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_hold_out_parts_every_class_alike(labels: list[int], share: float, seed: int) -> None:
    split = Split((torch.arange(len(labels)), torch.tensor(labels)))
    try:
        rest, held = split.hold_out(share, seed=seed)
    except DataError:
        assert int(len(labels) * share + 1e-9) in (0, len(labels))
        return
    everything = torch.cat([rest.select(range(len(rest)))[0], held.select(range(len(held)))[0]])  # type: ignore[list-item]
    assert everything.sort().values.tolist() == list(range(len(labels)))
    assert len(held) == int(len(labels) * share + 1e-9)
    for label in set(labels):
        number = labels.count(label)
        assert abs(int((held.known_targets == label).sum()) - number * share) < 1 + 1e-6  # type: ignore[union-attr]


def test_hold_out_depends_on_the_seed_alone() -> None:
    split = Split((torch.arange(40), torch.arange(40) % 4))
    first, again, other = (split.hold_out(0.25, seed=s)[1].select(range(10))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_known_targets_of_a_dataset() -> None:
    class Labelled(TensorDataset):
        targets = (0, 2, 1)

    split = Split(Labelled(torch.zeros(3, 1), torch.zeros(3)))
    assert split.known_targets is not None
    assert split.known_targets.tolist() == [0, 2, 1]
    assert split.subset(torch.tensor([2, 1])).known_targets.tolist() == [1, 2]  # type: ignore[union-attr]
    assert Split(pairs(4)).known_targets is None


def test_task_sets_a_fifth_aside() -> None:
    task = Task(torch.nn.Linear(2, 3), pairs(10))
    assert (len(task.train), len(task.validation)) == (8, 2)
    with pytest.raises(DataError, match="too few to set 20% aside"):
        Task(torch.nn.Linear(2, 3), pairs(3))


def test_the_split_at_fault_is_named() -> None:
    with pytest.raises(DataError, match="validation: 2 examples but 3 targets"):
        Splits((torch.zeros(2), [0, 1]), (torch.zeros(2), [0, 1, 2]))
    with pytest.raises(DataError, match=r"model must be a torch\.nn\.Module, not str"):
        Task("net", pairs(10))  # type: ignore[arg-type]
