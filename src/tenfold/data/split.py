"""A split: examples with their targets, read in batches, in memory or from a map-style dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from tenfold.cost import Inputs, as_args, batch_size, map_inputs
from tenfold.errors import DataError


class Split:
    """Examples and targets. `source` is `(inputs, targets)` stacked in memory, or a map-style dataset of pairs.

    Inputs of a stacked source are a tensor (N, …), a tuple of them, or a dict of them; targets are (N,) or (N, …).
    """

    def __init__(self, source: Any) -> None:
        self._stacked: tuple[Inputs, Tensor] | None = None
        self._dataset: Dataset[Any] | None = None
        self._origin: Tensor | None = None  # of each example, in the data that `hold_out` drew it from
        if isinstance(source, (tuple, list)) and len(source) == 2 and not isinstance(source, Dataset):
            self._stacked = _stacked(*source)
        elif _is_map_style(source):
            self._dataset = source
        else:
            hint = "; pass the loader's .dataset" if isinstance(source, DataLoader) else ""
            raise DataError(
                f"a split is (inputs, targets) or a map-style dataset, not {type(source).__name__}{hint}"
            )
        if len(self) == 0:
            raise DataError("a split is empty: it needs at least one example")

    def __len__(self) -> int:
        if self._stacked is not None:
            return len(self._stacked[1])
        return len(self._dataset)  # type: ignore[arg-type]

    @property
    def stacked(self) -> tuple[Inputs, Tensor] | None:
        """All inputs and targets if they are in memory, else None."""
        return self._stacked

    @property
    def dataset(self) -> Dataset[Any] | None:
        """The map-style dataset that the examples come from, or None if they are in memory."""
        return self._dataset

    @property
    def known_targets(self) -> Tensor | None:
        """All targets (N, …) if they can be had without reading the examples, else None.

        A dataset tells them by an attribute `targets` or `labels`, as torchvision's do.
        """
        if self._stacked is not None:
            return self._stacked[1]
        return _targets_of(self._dataset)

    def select(self, indices: Sequence[int] | Tensor) -> tuple[Inputs, Tensor]:
        """The stacked inputs and targets of these examples."""
        if self._stacked is not None:
            inputs, targets = self._stacked
            index = torch.as_tensor(indices, dtype=torch.long)
            return map_inputs(lambda t: t[index], inputs), targets[index]
        items = [self._dataset[int(i)] for i in indices]  # type: ignore[index]
        for index_, item in zip(indices, items, strict=True):
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise DataError(
                    f"example {int(index_)} of the dataset is {_described(item)}, not a pair (input, target)"
                )
        try:
            inputs, targets = default_collate([tuple(item) for item in items])
        except (RuntimeError, TypeError) as error:
            # Only where it fails: name two examples that do not stack, as collate does not.
            raise DataError(_unequal(indices, items) or f"the examples do not stack: {error}") from error
        return inputs if isinstance(inputs, (Tensor, dict)) else tuple(inputs), targets

    def order(self, seed: int) -> Tensor:
        """The indices in the random order that this seed fixes."""
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def batches(
        self, size: int, *, shuffle: int | None = None, drop_last: bool = False, skip: int = 0
    ) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """Yield (indices, inputs, targets); in a random order fixed by the seed `shuffle`, if given.

        The first `skip` batches are left out unread.
        """
        order = torch.arange(len(self)) if shuffle is None else self.order(shuffle)
        for index in order.split(size)[skip:]:
            if drop_last and len(index) < size and len(self) >= size:
                return
            yield index, *self.select(index)

    def take(self, number: int, *, seed: int | None = 0) -> Split:
        """At most `number` examples: a random draw fixed by `seed`, or the first ones if it is None."""
        if number >= len(self):
            return self
        if seed is None:
            index = torch.arange(number)
        else:
            generator = torch.Generator().manual_seed(seed)
            index = torch.randperm(len(self), generator=generator)[:number].sort().values
        return self.subset(index)

    def subset(self, index: Tensor) -> Split:
        """The examples at these indices, as a split."""
        if self._stacked is not None:
            return Split(self.select(index))
        return Split(Subset(self._dataset, index.tolist()))  # type: ignore[arg-type]

    def given(self, index: int) -> int:
        """Where this example lies in the data as they were given, of which `hold_out` may have made this split."""
        return index if self._origin is None else int(self._origin[index])

    def hold_out(self, share: float, *, seed: int = 0) -> tuple[Split, Split]:
        """Two disjoint splits: the rest, and about `share` of the examples drawn by `seed`.

        Where the targets are known class labels, each class gives the same share, up to one example.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        targets = self.known_targets
        if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
            order = order[targets[order].argsort(stable=True)]  # by class, at random within a class
        # Every k-th of that order, k = 1 / share: the ticks at which floor(i * share) steps up.
        ticks = (torch.arange(len(self) + 1, dtype=torch.float64) * share + 1e-9).floor()
        chosen = ticks.diff() > 0
        if not chosen.any() or chosen.all():
            raise DataError(
                f"{len(self)} examples are too few to set {share:.0%} aside: give a validation split"
            )
        return self._part(order[~chosen].sort().values), self._part(order[chosen].sort().values)

    def _part(self, index: Tensor) -> Split:
        part = self.subset(index)
        part._origin = index if self._origin is None else self._origin[index]
        return part


def _stacked(inputs: Any, targets: Any) -> tuple[Inputs, Tensor]:
    """Inputs and targets as tensors of equal length."""
    try:
        targets = as_labels(torch.as_tensor(targets))
        if isinstance(inputs, Mapping):
            inputs = {str(name): torch.as_tensor(value) for name, value in inputs.items()}
        elif isinstance(inputs, tuple):
            inputs = tuple(torch.as_tensor(value) for value in inputs)
        else:
            inputs = torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(
            f"inputs and targets cannot be made tensors ({error}); a dataset of pairs must be a list of more "
            f"than two, or a torch Dataset"
        ) from error
    args, kwargs = as_args(inputs)
    tensors = (*args, *kwargs.values())
    if not tensors:
        raise DataError("the inputs hold no tensor")
    if targets.ndim == 0 or any(tensor.ndim == 0 for tensor in tensors):
        raise DataError("inputs and targets need a first dimension, one entry for each example")
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) > 1:
        raise DataError(f"the inputs differ in their number of examples: {sorted(lengths)}")
    if batch_size(inputs) != len(targets):
        raise DataError(
            f"{batch_size(inputs)} examples but {len(targets)} targets: they must be equal in number"
        )
    return inputs, targets


def as_labels(targets: Tensor) -> Tensor:
    """Integer targets as int64; a `DataError` for one that does not fit. Other targets are left alone."""
    if targets.is_floating_point() or targets.is_complex() or targets.dtype in (torch.bool, torch.int64):
        return targets
    if targets.dtype == torch.uint64:
        too_large = targets.view(torch.int64) < 0  # the top bit
        if too_large.any():
            index = too_large.nonzero()[0]
            raise DataError(
                f"the label at index {int(index[0])} does not fit a signed 64-bit integer: the labels have overflowed"
            )
    return targets.to(torch.int64)


def _is_map_style(source: Any) -> bool:
    if isinstance(source, (str, bytes, Tensor, Mapping, DataLoader)):
        return False
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not hasattr(source, "dtype")


def _targets_of(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset):
        whole = _targets_of(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices, dtype=torch.long)]
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is None:
            continue
        try:
            tensor = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if tensor.ndim >= 1 and len(tensor) == len(dataset):
            return tensor
    return None


def _described(item: Any) -> str:
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    return f"a {type(item).__name__}"


def _unequal(indices: Any, items: Sequence[Any]) -> str | None:
    """The first two examples whose inputs are tensors of different shapes, as a message."""
    first = items[0][0]
    for index, (inputs, _) in zip(indices, items, strict=True):
        if isinstance(first, Tensor) and isinstance(inputs, Tensor) and inputs.shape != first.shape:
            return (
                f"examples differ in shape: {tuple(first.shape)} at index {int(indices[0])}, "
                f"{tuple(inputs.shape)} at index {int(index)}"
            )
    return None
