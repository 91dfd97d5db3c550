"""Rules of layers with weights, products of activations and norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.fx import Node

from tenfold.compress.prune.atoms import Ids, squeeze_uniform, varying
from tenfold.compress.prune.movement import meta_shape
from tenfold.compress.prune.program import arguments, operator_name, owner
from tenfold.compress.prune.rules import rule
from tenfold.compress.prune.ties import Product, Tied, Value

if TYPE_CHECKING:
    from tenfold.compress.prune.walk import Walk

# Layers with weights


@rule("linear")
def linear(walk: Walk, node: Node) -> Value:
    given = arguments(node)
    x, weight = walk.value(given["input"]), walk.value(given["weight"])
    return _project(walk, node, x, weight, given["bias"], into=1, out=0)


@rule("addmm")
def addmm(walk: Walk, node: Node) -> Value:
    given = arguments(node)
    x, weight = walk.value(given["mat1"]), walk.value(given["mat2"])
    return _project(walk, node, x, weight, given["self"], into=0, out=1)


def _project(
    walk: Walk, node: Node, x: Value, weight: Value, bias: Node | None, *, into: int, out: int
) -> Value:
    """x (…, K) with a weight of K × O in either order -> (…, O)."""
    shape = meta_shape(node)
    if weight.name is None or len(weight.shape) != 2:
        return walk.unknown(node)
    ties = walk.ties
    x = ties.followed(x)
    atoms_in = ties.dimension(weight.name, weight.axes[into], weight.shape[into])
    atoms_out = ties.dimension(weight.name, weight.axes[out], weight.shape[out])
    ties.consumed.add((weight.name, weight.axes[into]))
    ties.products.append(Product(owner(node), math.prod(shape[:-1]) * math.prod(weight.shape), weight.name))
    return _through(walk, x, -1, atoms_in, atoms_out, bias, shape, -1)


def _through(
    walk: Walk,
    x: Value,
    axis: int,
    atoms_in: Ids,
    atoms_out: Ids,
    bias: Node | None,
    shape: tuple[int, ...],
    out: int,
) -> Value:
    """Contract `axis` of `x` with a weight: the result has the weight's other dimension at `out`."""
    ties = walk.ties
    offset = walk.value(bias) if isinstance(bias, Node) else None
    met = ties.meet(x, axis, atoms_in)
    if met is Tied.LATER:
        return Value(shape, pending=True)
    if met is Tied.ALONG_OTHERS:
        # One weight serves every slice: slices may go, the weight stays.
        assert x.ids is not None
        ties.atoms.freeze(atoms_out)
        if offset is not None:
            ties.freeze_values([offset])
        ids = np.moveaxis(x.ids.take([0], axis), axis, out)
        return Value(shape, squeeze_uniform(ids))
    if offset is not None:
        vector = ties.followed(offset)
        if vector.ids is None:
            ties.atoms.freeze(atoms_out)
        else:
            ties.atoms.join(vector.ids, atoms_out)
    axes = [1] * len(shape)
    axes[out] = len(atoms_out)
    return Value(shape, atoms_out.reshape(axes))


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def convolution(walk: Walk, node: Node) -> Value:
    given = arguments(node)
    x, weight = walk.value(given["input"]), walk.value(given["weight"])
    shape = meta_shape(node)
    transposed = "transpose" in operator_name(node) or bool(given.get("transposed", False))
    rank = len(weight.shape)
    if weight.name is None or weight.axes != tuple(range(rank)) or len(shape) != rank:
        return walk.unknown(node)
    ties = walk.ties
    x = ties.followed(x)
    places = math.prod(x.shape[2:]) if transposed else math.prod(shape[2:])
    ties.products.append(Product(owner(node), shape[0] * places * math.prod(weight.shape), weight.name))
    first = ties.dimension(weight.name, 0, weight.shape[0])
    second = ties.dimension(weight.name, 1, weight.shape[1])
    bias = given["bias"]
    groups = int(given["groups"])
    if groups == 1:
        ties.consumed.add((weight.name, 0 if transposed else 1))
        atoms_in, atoms_out = (first, second) if transposed else (second, first)
        return _through(walk, x, 1, atoms_in, atoms_out, bias, shape, 1)
    if x.ids is None:
        if x.pending and not ties.choose:
            return Value(shape, pending=True)
        ties.atoms.freeze(np.concatenate([first, second]))
        return Value(shape)
    if transposed:
        return walk.unknown(node)
    channels = ties.positions(x, 1).reshape(groups, -1)
    outputs = first.reshape(groups, -1)
    if groups >= channels.shape[1]:
        # Whole groups go: each keeps its number of inputs and outputs.
        ties.atoms.join(channels[:, :1], channels)
        ties.atoms.join(channels[:, :1], outputs)
        ties.atoms.freeze(second)
        ties.note_attribute(owner(node), "groups", channels[:, 0])
    else:
        # The same slots go from every group: the number of groups stays.
        ties.atoms.join(channels[:1], channels)
        ties.atoms.join(channels[0], second)
        ties.atoms.join(outputs[:1], outputs)
    if isinstance(bias, Node):
        offset = ties.followed(walk.value(bias))
        ties.atoms.freeze(first) if offset.ids is None else ties.atoms.join(offset.ids, first)
    axes = [1] * len(shape)
    axes[1] = len(first)
    return Value(shape, first.reshape(axes))


@rule("embedding")
def embedding(walk: Walk, node: Node) -> Value:
    weight = walk.value(arguments(node)["weight"])
    shape = meta_shape(node)
    if weight.name is None:
        return walk.unknown(node)
    features = walk.ties.dimension(weight.name, weight.axes[1], weight.shape[1])
    return Value(shape, features.reshape((1,) * (len(shape) - 1) + (-1,)))


# Products of activations


@rule("matmul", "bmm", "mm")
def matmul(walk: Walk, node: Node) -> Value:
    left, right = (walk.value(argument) for argument in node.args[:2])
    shape = meta_shape(node)
    if right.name is not None and len(right.shape) == 2:
        return _project(walk, node, left, right, None, into=0, out=1)
    ties = walk.ties
    if left.name is not None and len(left.shape) == 2 and len(right.shape) >= 2:
        atoms_in = ties.dimension(left.name, left.axes[1], left.shape[1])
        atoms_out = ties.dimension(left.name, left.axes[0], left.shape[0])
        ties.products.append(Product(owner(node), math.prod(shape) * left.shape[1], left.name))
        return _through(walk, ties.followed(right), -2, atoms_in, atoms_out, None, shape, -2)
    left, right = ties.followed(left), ties.followed(right)
    macs = math.prod(shape) * left.shape[-1]
    if min(len(left.shape), len(right.shape)) < 2:
        return walk.unknown(node)
    return _product(walk, owner(node), [(left, -1), (right, -2)], shape, macs)


def _product(
    walk: Walk, layer: str, operands: list[tuple[Value, int]], shape: tuple[int, ...], macs: int
) -> Value:
    """A product of activations over their last two axes, for each place of the leading axes (heads).

    All features of a head go together, with the same head of the other operand: one atom a head.
    """
    ties = walk.ties
    tied = [value for value, _ in operands if value.ids is not None]
    if not tied:
        return Value(shape, pending=any(value.pending for value, _ in operands))
    if len(tied) == 1 and not any(value.pending for value, _ in operands):
        value, contracted = next(pair for pair in operands if pair[0].ids is not None)
        assert value.ids is not None
        roots = ties.roots(value.ids)
        if contracted % len(value.shape) in varying(roots) and ties.choose:
            ties.atoms.join_along(roots, contracted)  # a constant has a row for every position
        if not ties.choose and contracted % len(value.shape) in varying(roots):
            return Value(shape, pending=True)
        ids = value.ids.take([0], contracted)
        ids = ids.reshape((1,) * (len(shape) - ids.ndim) + ids.shape)
        ties.products.append(Product(layer, macs, None, ids))
        return Value(shape, squeeze_uniform(ids))
    heads: list[Ids] = []
    for value in tied:
        assert value.ids is not None
        flat = value.ids.reshape(*value.ids.shape[:-2], -1)
        if flat.shape[-1] > 1:
            ties.atoms.join_along(flat, flat.ndim - 1)
        head = flat[..., :1, None]
        heads.append(head.reshape((1,) * (len(shape) - head.ndim) + head.shape))
    base = max(heads, key=lambda ids: ids.size)
    for head in heads:
        ties.atoms.join(base, head)
    ties.products.append(Product(layer, macs, None, base))
    return Value(shape, squeeze_uniform(base))


@rule("scaled_dot_product_attention")
def attention(walk: Walk, node: Node) -> Value:
    given = arguments(node)
    ties = walk.ties
    query, key, value = (ties.followed(walk.value(given[name])) for name in ("query", "key", "value"))
    shape = meta_shape(node)
    if given.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (_repeated_heads(v, repeats) for v in (key, value))
    macs = math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    result = _product(walk, owner(node), [(query, -1), (key, -1), (value, -2)], shape, macs)
    mask = given["attn_mask"]
    if isinstance(mask, Node) and result.ids is not None:
        scores = Value((*shape[:-1], key.shape[-2]), result.ids)
        ties.elementwise([scores, walk.value(mask)], scores.shape)
    return result


def _repeated_heads(value: Value, repeats: int) -> Value:
    shape = (*value.shape[:-3], value.shape[-3] * repeats, *value.shape[-2:])
    if value.ids is None or value.ids.shape[-3] == 1:
        return Value(shape, value.ids, pending=value.pending)
    return Value(shape, value.ids.repeat(repeats, -3))


# Norms


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def batch_norm(walk: Walk, node: Node) -> Value:
    given = arguments(node)
    x = walk.ties.followed(walk.value(given["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        _meet_vector(walk, x, 1, given.get(name))
    return x


@rule("layer_norm", "rms_norm")
def layer_norm(walk: Walk, node: Node) -> Value:
    given = arguments(node)
    x = walk.ties.followed(walk.value(given["input"]))
    sizes = given["normalized_shape"]
    vectors = [given.get(name) for name in ("weight", "bias") if isinstance(given.get(name), Node)]
    if len(sizes) > 1:
        return walk.ties.elementwise([x, *(walk.value(v) for v in vectors)], x.shape)
    for vector in vectors:
        _meet_vector(walk, x, -1, vector)
    if not vectors and x.ids is not None:
        walk.ties.note_attribute(owner(node), "normalized_shape", _along(x, -1), item=0)
    return x


@rule("group_norm")
def group_norm(walk: Walk, node: Node) -> Value:
    given = arguments(node)
    ties = walk.ties
    x = ties.followed(walk.value(given["input"]))
    for name in ("weight", "bias"):
        _meet_vector(walk, x, 1, given.get(name))
    groups = int(given["num_groups"])
    if x.ids is None or groups == 1:
        return x
    channels = ties.positions(x, 1).reshape(groups, -1)
    if groups >= channels.shape[1]:
        ties.atoms.join(channels[:, :1], channels)
        ties.note_attribute(owner(node), "num_groups", channels[:, 0])
    else:
        ties.atoms.join(channels[:1], channels)
    return x


@rule("prelu")
def prelu(walk: Walk, node: Node) -> Value:
    x, slopes = (walk.value(argument) for argument in node.args[:2])
    x = walk.ties.followed(x)
    if math.prod(slopes.shape) > 1:
        _meet_vector(walk, x, 1, node.args[1])
    return x


def _meet_vector(walk: Walk, x: Value, axis: int, vector: Any) -> None:
    """Tie a vector of a norm to the axis that it scales or shifts."""
    if not isinstance(vector, Node):
        return
    value = walk.ties.followed(walk.value(vector))
    if value.ids is not None:
        walk.ties.meet(x, axis, np.broadcast_to(value.ids, value.shape))
    elif x.ids is not None:
        walk.ties.freeze_values([x])


def _along(x: Value, axis: int) -> Ids:
    """The atoms along `axis` at the first place of the other axes."""
    assert x.ids is not None
    axis %= len(x.shape)
    first = x.ids[tuple(slice(None) if a == axis else 0 for a in range(x.ids.ndim))]
    return np.broadcast_to(first, (x.shape[axis],))
