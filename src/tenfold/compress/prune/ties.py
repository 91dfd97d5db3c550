"""What every position of every tensor is tied to, and the joins that the operators ask for.

A value carries `ids`: one atom a position, in the value's shape, with size 1 on every axis along which nothing
changes (batch, space, tokens). Removing an atom removes the positions that carry it, so after all joins the
positions along at most one axis may differ.

Some joins are a choice, and the choice depends on what later operators join. Queries (batch, heads, tokens, d)
times a weight (d) may mean "feature j of every head goes together" or, once the attention product has joined
all features of a head, "whole heads go and the weight stays". So the walk is repeated: with `choose` off only
what must be joined is joined, until nothing changes; then one walk with `choose` on settles what is still open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import numpy as np
from torch import Tensor
from torch.fx import Node

from tenfold.compress.prune.atoms import Atoms, Ids, squeeze_uniform, varying

ELEMENTWISE_LIMIT = 2_000_000  # a larger parameter used elementwise is left alone rather than followed


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its logical shape, and what its positions are tied to.

    `ids` broadcasts to `shape`; None where nothing is tied to it (inputs, masks, positions), or where it is an
    untouched parameter (`name`, with `axes` naming the parameter's dimension at each axis). `pending`: not known
    before later joins. `concrete`: its numbers, where no input and no parameter enters. `learned`: made from
    parameters alone.
    """

    shape: tuple[int, ...]
    ids: Ids | None = None
    concrete: Tensor | None = None
    name: str | None = None
    axes: tuple[int, ...] = ()
    pending: bool = False
    learned: bool = False


@dataclass(frozen=True)
class Attribute:
    """A whole number in a module's attribute that counts positions: it becomes the number of them that stay.

    `roots` holds the atom of each counted position; `item` is the place in a tuple, or None for a plain int.
    """

    module: str
    name: str
    item: int | None
    roots: Ids


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of one operator: `macs` times the kept share of the parameter, or of the atoms.

    `layer` is the module that called it.
    """

    layer: str
    macs: int
    name: str | None
    roots: Ids | None = None


class Tied(Enum):
    """How an axis met a parameter's dimension."""

    JOINED = auto()
    ALONG_OTHERS = auto()  # whole slices of the other axes are removable, this axis is not
    LATER = auto()


@dataclass
class Ties:
    """The state of the walks: atoms of parameters, and what a walk notes about the graph."""

    atoms: Atoms = field(default_factory=Atoms)
    choose: bool = False
    dimensions: dict[tuple[str, int], Ids] = field(default_factory=dict)
    elements: dict[str, Ids] = field(default_factory=dict)
    attributes: list[Attribute] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    sums: list[Ids] = field(default_factory=list)
    consumed: set[tuple[str, int]] = field(default_factory=set)  # dimensions that a layer sums over
    unknown: dict[str, set[str]] = field(default_factory=dict)

    # Atoms of parameters

    def dimension(self, name: str, dim: int, size: int) -> Ids:
        """The atoms of one dimension of a parameter."""
        if (name, dim) not in self.dimensions:
            self.dimensions[name, dim] = self.atoms.fresh(size)
        return self.dimensions[name, dim]

    def followed(self, value: Value) -> Value:
        """`value`, with the atoms of its elements where it is an untouched parameter."""
        if value.name is None:
            return value
        order = np.argsort(value.axes)
        shape = tuple(value.shape[i] for i in order)  # as stored
        wide = [dim for dim, size in enumerate(shape) if size > 1]
        if len(wide) <= 1:
            dim = wide[0] if wide else 0
            size = shape[dim] if shape else 1
            axis = [1] * len(shape)
            if shape:
                axis[dim] = size
            ids = self.dimension(value.name, dim, size).reshape(axis)
        elif np.prod(shape) > ELEMENTWISE_LIMIT:
            return replace(value, name=None, axes=())
        else:
            if value.name not in self.elements:
                number = int(np.prod(shape))
                self.elements[value.name] = self.atoms.fresh(number, shared_source=False).reshape(shape)
            ids = self.elements[value.name]
        return replace(value, ids=ids.transpose(value.axes), name=None, axes=())

    # Looking

    def roots(self, ids: Ids) -> Ids:
        """The present roots, squeezed."""
        return squeeze_uniform(self.atoms.find(ids))

    def split(self, ids: Ids, axes: Sequence[int]) -> bool:
        """True if `axes` are a split of one dimension: atoms of one source at different places along them.

        Heads of one projection are; a class token beside the patches is not.
        """
        source = self.atoms.source(ids)
        first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(ids.ndim))
        return bool(((source == source[first]) & (ids != ids[first])).any())

    # Joining

    def meet(self, x: Value, axis: int, atoms: Ids) -> Tied:
        """Tie the positions of `x` along `axis` to `atoms` (one for each), whatever the other axes."""
        if x.ids is None:
            if x.pending and not self.choose:
                return Tied.LATER
            self.atoms.freeze(atoms)
            return Tied.JOINED
        axis %= len(x.shape)
        changing = varying(self.roots(x.ids))
        others = tuple(a for a in changing if a != axis)
        if others and axis not in changing:
            if self.choose or not self.split(x.ids, others):
                self.atoms.freeze(atoms)
            return Tied.ALONG_OTHERS
        if others and self.split(x.ids, others) and not self.choose:
            return Tied.LATER
        shape = [1] * len(x.shape)
        shape[axis] = len(atoms)
        self.atoms.join(x.ids, atoms.reshape(shape))
        return Tied.JOINED

    def elementwise(self, operands: Sequence[Value], shape: tuple[int, ...]) -> Value:
        """Tie operands position by position, broadcast to `shape`; the value of the result."""
        operands = [self.followed(operand) for operand in operands]
        learned = all(operand.learned for operand in operands)
        tied = [operand for operand in operands if operand.ids is not None]
        if not tied:
            return Value(shape, pending=any(operand.pending for operand in operands), learned=learned)
        arrays = [_aligned(operand, len(shape)) for operand in tied]
        # An activation leads, not a mask or an embedding of positions; of several, what changes along most axes.
        lead = max(
            range(len(tied)),
            key=lambda i: (not tied[i].learned, len(varying(self.roots(arrays[i][0])))),
        )
        base, base_shape = arrays[lead]
        for index, (ids, own_shape) in enumerate(arrays):
            if index != lead:
                self._join_positions(base, base_shape, ids, own_shape, shape)
        if self.choose:
            for operand in operands:
                if operand.ids is None and not operand.pending:
                    self._meet_constant(base, operand, len(shape))
        return Value(shape, base, learned=learned)

    def _join_positions(
        self, base: Ids, base_shape: Sequence[int], ids: Ids, own: Sequence[int], shape: Sequence[int]
    ) -> None:
        leading = varying(self.roots(base))
        following = varying(self.roots(ids))
        # Axes along which one of the two repeats itself while the other changes.
        repeated = tuple(a for a in leading if own[a] == 1 and shape[a] > 1)
        outer = tuple(a for a in following if base_shape[a] == 1 and shape[a] > 1)
        if outer:
            if self.choose:
                self.atoms.freeze(ids)
            return
        if not repeated:
            self.atoms.join(base, ids)
        elif set(leading) & set(following) - set(repeated):
            if self.split(base, repeated) and not self.choose:
                return
            self.atoms.join(base, ids)
        elif self.choose:
            # The smaller operand serves all positions of the larger: it stays while any of them does.
            self.atoms.freeze(ids)

    def _meet_constant(self, base: Ids, constant: Value, rank: int) -> None:
        """Positions along an axis of a constant cannot go one by one: they go together."""
        own = (1,) * (rank - len(constant.shape)) + constant.shape
        for axis in varying(self.roots(base)):
            if own[axis] > 1:
                self.atoms.join_along(base, axis)

    def settle(self, value: Value) -> None:
        """Where positions still change along several axes, make all but one go together (`choose` only)."""
        if not self.choose or value.ids is None:
            return
        while len(changing := varying(roots := self.roots(value.ids))) > 1:
            born_together = [axis for axis in changing if self.split(value.ids, (axis,))]
            apart = [axis for axis in changing if axis not in born_together]
            axis = apart[0] if apart else min(changing, key=lambda a: roots.shape[a])
            self.atoms.join_along(roots, axis)

    def simplified(self, value: Value) -> Value:
        """`value` with size 1 on the axes along which all atoms have become one."""
        assert value.ids is not None
        if value.ids.size == 1:
            return value
        roots = self.roots(value.ids)
        first = tuple(slice(0, 1) if size == 1 else slice(None) for size in roots.shape)
        return replace(value, ids=value.ids[first])

    def positions(self, value: Value, axis: int) -> Ids:
        """The atom of each position along `axis`; other axes are joined, since they share the positions."""
        assert value.ids is not None
        axis %= len(value.shape)
        rows = np.moveaxis(value.ids, axis, -1)
        rows = np.broadcast_to(rows, (*rows.shape[:-1], value.shape[axis])).reshape(-1, value.shape[axis])
        if len(rows) > 1:
            self.atoms.join(rows[:1], rows)
        return rows[0]

    def note_attribute(self, module: str, name: str, roots: Ids, item: int | None = None) -> None:
        """Note that `module.name` counts the positions in `roots`."""
        self.attributes.append(Attribute(module, name, item, roots))

    def freeze_values(self, values: Sequence[Value]) -> None:
        """Nothing in these values may go."""
        for value in map(self.followed, values):
            if value.ids is not None:
                self.atoms.freeze(value.ids)

    def note_unknown(self, node: Node, operator: str, layer: str) -> None:
        """Note an operator whose effect on channels is not known."""
        self.unknown.setdefault(operator, set()).add(layer)


def _aligned(value: Value, rank: int) -> tuple[Ids, tuple[int, ...]]:
    """The ids and the logical shape of `value` with leading axes of size 1 up to `rank`."""
    assert value.ids is not None
    lead = (1,) * (rank - len(value.shape))
    return value.ids.reshape(lead + value.ids.shape), lead + value.shape
