"""Rules of elementwise operators, pooling, reductions, functions along an axis, and joining of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.fx import Node

from tenfold.compress.prune import movement
from tenfold.compress.prune.atoms import Ids, squeeze_uniform, varying
from tenfold.compress.prune.movement import meta_shape
from tenfold.compress.prune.program import arguments, operator_name, words
from tenfold.compress.prune.rules import rule
from tenfold.compress.prune.ties import Value

if TYPE_CHECKING:
    from tenfold.compress.prune.walk import Walk


@rule(
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    "upsample_nearest2d",
    "upsample_nearest1d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_linear1d",
    "_upsample_nearest_exact2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
)
def resample(walk: Walk, node: Node) -> Any:
    """Only space changes: (N, C, …) -> (N, C, …)."""
    x = walk.ties.followed(walk.value(node.args[0]))
    fake = node.meta["val"]
    several = isinstance(fake, (tuple, list))
    shapes = [tuple(map(int, f.shape)) for f in fake] if several else [meta_shape(node)]
    if x.ids is not None:
        ids = x.ids
        for axis in range(2, ids.ndim):
            if ids.shape[axis] > 1:
                walk.ties.atoms.join_along(ids, axis)
                ids = ids.take([0], axis)
        values = [Value(shape, ids) for shape in shapes]
    else:
        values = [Value(shape, pending=x.pending) for shape in shapes]
    return values if several else values[0]


@rule(
    *words(
        "mean sum amax amin prod var std norm linalg_vector_norm logsumexp argmax argmin any all nansum max min"
        " var_mean std_mean"
    )
)
def reduction(walk: Walk, node: Node) -> Any:
    """What is reduced disappears; the result goes when all that it was made from goes."""
    given = arguments(node)
    first = node.args[0]
    if isinstance(given.get("other"), Node):
        return pointwise(walk, node)
    ties = walk.ties
    x = ties.followed(walk.value(first))
    dims = given.get("dim")
    rank = len(x.shape)
    listed = range(rank) if dims is None or dims == [] else ([dims] if isinstance(dims, int) else dims)
    reduced = sorted(d % rank for d in listed)
    fake = node.meta["val"]
    several = isinstance(fake, (tuple, list))
    shapes = [tuple(map(int, f.shape)) for f in fake] if several else [meta_shape(node)]
    values = [_reduced(walk, x, reduced, shape) for shape in shapes]
    return values if several else values[0]


def _reduced(walk: Walk, x: Value, reduced: list[int], shape: tuple[int, ...]) -> Value:
    ties = walk.ties
    if x.ids is None:
        return Value(shape, pending=x.pending, learned=x.learned)
    roots = ties.roots(x.ids)
    changing = varying(roots)
    mixed = [axis for axis in reduced if axis in changing]
    kept = [axis for axis in changing if axis not in reduced]
    if mixed and kept:
        if not ties.choose:
            return Value(shape, pending=True)
        for axis in mixed:
            ties.atoms.join_along(roots, axis)
    elif mixed:
        return Value(shape)  # over all that may go: the result stays
    first = tuple(slice(0, 1) if axis in reduced else slice(None) for axis in range(roots.ndim))
    ids = roots[first]
    if len(shape) < len(x.shape):
        ids = ids.squeeze(tuple(reduced))
    return Value(shape, squeeze_uniform(ids))


@rule(
    "softmax",
    "log_softmax",
    "_softmax",
    "_log_softmax",
    "cumsum",
    "cumprod",
    "sort",
    "argsort",
    "topk",
    "glu",
)
def along_axis(walk: Walk, node: Node) -> Any:
    """Positions along the axis depend on each other: they go together."""
    given = arguments(node)
    name = operator_name(node)
    ties = walk.ties
    x = ties.followed(walk.value(node.args[0]))
    axis = int(given["dim"])
    if name in ("sort", "argsort", "topk"):
        ties.freeze_values([x])
        return walk.constants(node)
    if x.ids is None:
        return walk.constants(node, pending=x.pending)
    if name == "glu":
        half = x.shape[axis] // 2
        pieces = [Value(meta_shape(node), squeeze_uniform(piece)) for piece in _halves(x, axis, half)]
        movement._equal_pieces(ties, pieces, axis)
        return pieces[0]
    roots = ties.roots(x.ids)
    if ties.choose and axis % len(x.shape) in varying(roots):
        ties.atoms.join_along(roots, axis % len(x.shape))
    return x


def _halves(x: Value, axis: int, half: int) -> list[Ids]:
    assert x.ids is not None
    if x.ids.shape[axis] == 1:
        return [x.ids, x.ids]
    return [x.ids.take(range(half), axis), x.ids.take(range(half, 2 * half), axis)]


def pointwise(walk: Walk, node: Node) -> Value:
    """An elementwise operator of any number of tensors."""
    operands = [walk.value(argument) for argument in node.all_input_nodes]
    shape = meta_shape(node)
    result = walk.ties.elementwise(operands, shape)
    if operator_name(node) in ("add", "sub") and len(operands) > 1:
        _note_sum(walk, operands)
    return result


def _note_sum(walk: Walk, operands: list[Value]) -> None:
    """Note sums of activations of different origin: they make a residual stream."""
    ids = [v.ids for v in operands if v.ids is not None and v.name is None and not v.learned]
    origins = [set(np.unique(walk.ties.atoms.source(i)).tolist()) for i in ids]
    if len(ids) > 1 and not set.intersection(*origins):
        walk.ties.sums.extend(ids)


@rule("cat")
def cat(walk: Walk, node: Node) -> Value:
    return movement.concatenate(walk.ties, node, [walk.value(n) for n in arguments(node)["tensors"]])


@rule("stack")
def stack(walk: Walk, node: Node) -> Value:
    return movement.stack(walk.ties, node, [walk.value(n) for n in arguments(node)["tensors"]])


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d")
def pad(walk: Walk, node: Node) -> Value:
    return movement.pad(walk.ties, node, walk.value(node.args[0]))


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
def like(walk: Walk, node: Node) -> Value:
    return walk.ties.followed(walk.value(node.args[0]))
