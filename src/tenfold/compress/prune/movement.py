"""Operators that only move data: they are run on the atoms instead of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from tenfold.compress.prune.atoms import FROZEN, squeeze_uniform, varying
from tenfold.compress.prune.program import arguments, operator_name, words
from tenfold.compress.prune.ties import Ties, Value

MOVEMENTS = words(
    "view _unsafe_view reshape view_as reshape_as flatten unflatten squeeze unsqueeze permute transpose t numpy_T"
    " movedim moveaxis swapaxes swapdims expand expand_as broadcast_to repeat tile repeat_interleave slice select"
    " narrow split split_with_sizes chunk tensor_split unbind roll flip unfold pixel_shuffle pixel_unshuffle"
    " channel_shuffle index index_select gather tril triu diagonal"
)
IDENTITIES = words(
    "contiguous clone detach alias to _to_copy type_as lift_fresh lift_fresh_copy dropout feature_dropout"
    " alpha_dropout requires_grad"
)
TRANSPOSITIONS = frozenset(
    {"permute", "transpose", "t", "numpy_T", "swapaxes", "swapdims", "movedim", "moveaxis"}
)
PIECES = frozenset({"chunk", "split"})


def meta_shape(node: Node) -> tuple[int, ...]:
    """The shape that tracing recorded."""
    return tuple(int(size) for size in node.meta["val"].shape)


def move(ties: Ties, node: Node, value_of: Callable[[Node], Any]) -> Any:
    """Run a data movement on the atoms of its first argument; a list where it has several results."""
    name = operator_name(node)
    main = node.args[0]
    assert isinstance(main, Node)
    value: Value = value_of(main)
    if name in TRANSPOSITIONS and value.name is not None:
        order = _run(node, torch.empty(value.shape, device="meta"), value_of, names=True)
        shape = tuple(value.shape[i] for i in order)
        return Value(shape, name=value.name, axes=tuple(value.axes[i] for i in order), learned=True)
    value = ties.followed(value)
    fake = node.meta["val"]
    shapes = (
        [tuple(map(int, f.shape)) for f in fake] if isinstance(fake, (list, tuple)) else [meta_shape(node)]
    )
    if value.ids is None:
        results = [Value(shape, pending=value.pending, learned=value.learned) for shape in shapes]
        return results if isinstance(fake, (list, tuple)) else results[0]
    ids = torch.from_numpy(np.require(value.ids, requirements="W")).expand(value.shape)
    moved = _run(node, ids, value_of)
    results = [
        Value(tuple(t.shape), squeeze_uniform(t.numpy()), learned=value.learned)
        for t in (moved if isinstance(moved, (list, tuple)) else [moved])
    ]
    if name in PIECES:
        _equal_pieces(ties, results, int(arguments(node)["dim"]))
    if ties.choose and name in ("select", "index", "index_select", "gather"):
        _freeze_if_picked(ties, node, value, name)
    return results if isinstance(moved, (list, tuple)) else results[0]


def _run(node: Node, main: Tensor, value_of: Callable[[Node], Any], *, names: bool = False) -> Any:
    """The node's operator on `main`; other tensors are concrete, or zeros of their shape where unknown.

    With `names`, the order of the axes instead: which axis of `main` each axis of the result was.
    """
    if names:
        # Distinct strides tell the axes apart.
        shape = tuple(range(2, 2 + main.dim()))
        main = torch.empty(shape, device="meta")
    first = node.args[0]

    def replaced(argument: Node) -> Any:
        if argument is first:
            return main
        value = value_of(argument)
        if value.concrete is not None:
            return value.concrete
        return torch.zeros((), dtype=torch.long).expand(value.shape)

    args = map_arg(node.args, replaced)
    kwargs = map_arg(node.kwargs, replaced)
    target: Any = node.target
    if operator_name(node) in ("view", "_unsafe_view"):
        target = torch.ops.aten.reshape.default  # the atoms have other strides than the numbers
    if names:
        return [size - 2 for size in target(*args, **kwargs).shape]
    return target(*args, **kwargs)


def _equal_pieces(ties: Ties, pieces: Sequence[Value], axis: int) -> None:
    """Pieces of equal size stay of equal size: what goes from one goes from all."""
    first = pieces[0]
    axis %= len(first.shape)
    if first.ids is None or len({piece.shape for piece in pieces}) > 1:
        return
    for piece in pieces[1:]:
        assert piece.ids is not None
        if first.ids.shape[axis] > 1 or piece.ids.shape[axis] > 1:
            ties.atoms.join(first.ids, piece.ids)


def _freeze_if_picked(ties: Ties, node: Node, value: Value, name: str) -> None:
    """A place picked by number along an axis that could be narrowed: nothing on that axis may go."""
    assert value.ids is not None
    if name == "index":
        picked = [i for i, index in enumerate(arguments(node)["indices"]) if index is not None]
    else:
        picked = [int(arguments(node)["dim"]) % len(value.shape)]
    roots = ties.roots(value.ids)
    if any(axis in varying(roots) for axis in picked):
        ties.atoms.freeze(roots)


def concatenate(ties: Ties, node: Node, values: Sequence[Value]) -> Value:
    """cat: the atoms of the pieces side by side; places of a constant piece must stay."""
    values = [
        ties.followed(value) for value in values if value.shape != (0,)
    ]  # cat skips empty legacy tensors
    shape = meta_shape(node)
    axis = int(arguments(node)["dim"]) % len(shape)
    learned = all(value.learned for value in values)
    if all(value.ids is None for value in values):
        return Value(shape, pending=any(value.pending for value in values), learned=learned)
    if any(value.pending for value in values):
        return Value(shape, pending=True)
    parts = [
        np.broadcast_to(np.int64(FROZEN), value.shape) if value.ids is None else value.ids for value in values
    ]
    # Only axes along which a piece changes need their full size.
    common = [
        max(part.shape[a] if value.ids is not None else 1 for part, value in zip(parts, values, strict=True))
        for a in range(len(shape))
    ]
    parts = [
        np.broadcast_to(
            part if value.ids is not None else np.int64(FROZEN),
            [value.shape[a] if a == axis else common[a] for a in range(len(shape))],
        )
        for part, value in zip(parts, values, strict=True)
    ]
    return Value(shape, squeeze_uniform(np.concatenate(parts, axis)), learned=learned)


def stack(ties: Ties, node: Node, values: Sequence[Value]) -> Value:
    """stack: a new axis, then side by side."""
    shape = meta_shape(node)
    axis = int(arguments(node)["dim"]) % len(shape)
    values = [ties.followed(value) for value in values]
    if any(value.ids is None for value in values):
        ties.freeze_values(values)
        return Value(shape)
    arrays = [np.expand_dims(value.ids, axis) for value in values if value.ids is not None]
    return Value(shape, squeeze_uniform(np.concatenate(np.broadcast_arrays(*arrays), axis)))


def pad(ties: Ties, node: Node, value: Value) -> Value:
    """Padding: along an axis that does not change it belongs to the same atoms, else the new places stay."""
    shape = meta_shape(node)
    value = ties.followed(value)
    if value.ids is None:
        return Value(shape, pending=value.pending)
    widths = arguments(node)["pad"]
    ids = value.ids
    for i in range(len(widths) // 2):
        axis = len(shape) - 1 - i
        before, after = widths[2 * i], widths[2 * i + 1]
        if ids.shape[axis] == 1 or (before == 0 and after == 0):
            continue
        if before < 0 or after < 0:
            stop = ids.shape[axis] + min(after, 0)
            ids = ids.take(range(max(-before, 0), stop), axis)
        extra = [(0, 0)] * ids.ndim
        extra[axis] = (max(before, 0), max(after, 0))
        ids = np.pad(ids, extra, constant_values=FROZEN)
    return Value(shape, squeeze_uniform(ids), learned=value.learned)
