"""The channel graph of a network: which channels, heads and units can go, and what goes with each.

Built once from the exported program; then any choice of kept channels gives the narrowed module, its
multiply-accumulates and its masked reference without tracing again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from tenfold.compress.prune.atoms import FROZEN, Ids, varying
from tenfold.compress.prune.attributes import Use, uses
from tenfold.compress.prune.narrowing import Narrowing
from tenfold.compress.prune.program import Program, named_tensors, owner
from tenfold.compress.prune.reference import MaskedNetwork
from tenfold.compress.prune.ties import Attribute, Product, Value
from tenfold.compress.prune.walk import Walk, tie
from tenfold.cost import Inputs, batch_size

Kept = Mapping[str, Sequence[int]]  # family name -> the slots that stay; a family that is not named keeps all


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one parameter or buffer: `slots[i]` is the family's slot of index i, or -1.

    `consumed`: a layer sums over it, so this is where the family's channels are used.
    """

    tensor: str
    dim: int
    slots: Ids
    consumed: bool = False


@dataclass(frozen=True, eq=False)
class Family:
    """Slots of one kind, each of which can go alone: the channels of a layer, the heads of an attention.

    `name` is the layer that makes them; `residual` says that they are the width of a residual stream, which
    many layers share; `width` is the number of that layer's channels in one slot (the features of a head).
    """

    name: str
    size: int
    residual: bool
    width: int
    members: tuple[Member, ...]
    roots: Ids = field(repr=False)

    @property
    def kind(self) -> tuple[str, ...]:
        """The same for families that play the same part in different blocks."""
        return tuple(sorted({re.sub(r"\d+", "#", f"{m.tensor}:{m.dim}") for m in self.members}))


@dataclass
class ChannelGraph:
    """Families of removable channels; `frozen` says why others stay, `unknown` which operators are not known."""

    families: tuple[Family, ...]
    frozen: dict[str, str]
    unknown: dict[str, set[str]]
    batch: int
    program: Program = field(repr=False)
    _values: dict[Node, Any] = field(repr=False)
    _dimensions: dict[tuple[str, int], Ids] = field(repr=False)
    _attributes: tuple[Attribute, ...] = field(repr=False)
    _products: tuple[Product, ...] = field(repr=False)
    _atoms: int = field(repr=False)
    _slot_macs: dict[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs, *, verify: bool = True) -> ChannelGraph:
        """Trace `model` on example inputs (zeros of the right shapes will do) and find its families.

        With `verify`, each kind of family is narrowed once and compared with the masked original; a kind that
        the network's code does not allow (a size written into its forward) is moved to `frozen`.

        Raises:
            NetworkError: torch.export cannot trace the network.
        """
        tensors = named_tensors(model)
        program = _canonical(Program.of(model, inputs), tensors)
        walk = tie(program, tensors)
        dimensions = _dimensions(walk)
        families = _families(walk, dimensions, list(tensors))
        graph = cls(
            families=families,
            frozen={},
            unknown=dict(walk.ties.unknown),
            batch=batch_size(inputs),
            program=program,
            _values=_rooted(walk),
            _dimensions=dimensions,
            _attributes=tuple(_attributes(walk, uses(model, inputs))),
            _products=tuple(_rooted_product(walk, product) for product in walk.ties.products),
            _atoms=walk.ties.atoms.count,
        )
        if verify:
            from tenfold.compress.prune.verification import without_unsound

            graph = without_unsound(graph, model, inputs)
        return graph

    def family(self, name: str) -> Family:
        """The family of this name; `KeyError` if there is none."""
        for family in self.families:
            if family.name == name:
                return family
        raise KeyError(name)

    def alive(self, kept: Kept) -> NDArray[np.bool_]:
        """For every atom's root: does it stay?"""
        alive = np.ones(self._atoms, dtype=bool)
        for name, slots in kept.items():
            family = self.family(name)
            alive[family.roots] = False
            alive[family.roots[list(slots)]] = True
        return alive

    def plan(self, model: nn.Module, kept: Kept) -> Narrowing:
        """The change of `model` that leaves only the kept slots, as explicit indices.

        `model` is the traced network, or what is left of it after dropping blocks.
        """
        alive = self.alive(kept)
        tensors = named_tensors(model)
        indices: dict[str, dict[int, list[int]]] = {}
        for (name, dim), roots in self._dimensions.items():
            mask = alive[roots]
            if name in tensors and not mask.all():
                indices.setdefault(name, {})[dim] = np.flatnonzero(mask).tolist()
        modules = dict(model.named_modules())
        attributes: dict[str, dict[str, int | list[int]]] = {}
        for note in self._attributes:
            mask = alive[note.roots]
            if mask.all() or note.module not in modules:
                continue
            own = attributes.setdefault(note.module, {})
            number = int(mask.sum())
            present = own.get(note.name, vars(modules[note.module]).get(note.name))
            if note.item is None and isinstance(present, int):
                own[note.name] = number
            elif note.item is not None and isinstance(present, (tuple, list)):
                own[note.name] = [number if i == note.item else v for i, v in enumerate(present)]
        return Narrowing(indices, {path: own for path, own in attributes.items() if own})

    def narrow(self, model: nn.Module, kept: Kept) -> nn.Module:
        """A narrowed copy of `model` (see `plan`)."""
        return self.plan(model, kept).apply(model)

    def macs(self, kept: Kept | None = None, dropped: Iterable[str] = ()) -> int:
        """Multiply-accumulates for one example, without the `dropped` modules.

        Layers with weights and products of activations count; elementwise work does not.
        """
        alive = self.alive(kept or {})
        gone = tuple(dropped)
        total = 0.0
        for product in self._products:
            if any(is_within(product.layer, path) for path in gone):
                continue
            share = 1.0
            if product.roots is not None:
                share = float(alive[product.roots].mean())
            else:
                for dim in range(8):
                    roots = self._dimensions.get((product.name or "", dim))
                    share *= 1.0 if roots is None else float(alive[roots].mean())
            total += product.macs * share
        return round(total / self.batch)

    def slot_macs(self, family: Family) -> int:
        """Multiply-accumulates that go with one slot of `family`, all else at full size."""
        if family.name not in self._slot_macs:
            self._slot_macs[family.name] = self.macs() - self.macs({family.name: range(1, family.size)})
        return self._slot_macs[family.name]

    def reference(self, kept: Kept, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
        """What the narrowed network must answer: the original with everything removed held at zero."""
        alive = self.alive(kept)
        return MaskedNetwork(self.program, self._values, lambda ids: alive[ids]).answer(model, inputs)


def is_within(path: str, ancestor: str) -> bool:
    """True if the module `path` is `ancestor` or inside it."""
    return path == ancestor or path.startswith(f"{ancestor}.")


def _canonical(program: Program, tensors: Mapping[str, Tensor]) -> Program:
    """Tied tensors under one name, the first."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    names = {place: first[id(tensors[name])] for place, name in program.tensors.items()}
    return Program(program.module, names, program.constants, program.parameters)


def _dimensions(walk: Walk) -> dict[tuple[str, int], Ids]:
    """The root of each index of each tensor dimension that something is tied to."""
    atoms = walk.ties.atoms
    for ids in walk.ties.elements.values():
        changing = varying(walk.ties.roots(ids))
        if len(changing) > 1:  # its entries cannot be narrowed to a smaller block
            atoms.freeze(ids)
    found = {key: atoms.find(ids) for key, ids in walk.ties.dimensions.items()}
    for name, ids in walk.ties.elements.items():
        for axis in varying(walk.ties.roots(ids)):
            roots = atoms.find(ids)
            found[name, axis] = roots[tuple(slice(None) if a == axis else 0 for a in range(ids.ndim))]
    return found


def _families(walk: Walk, dimensions: Mapping[tuple[str, int], Ids], order: list[str]) -> tuple[Family, ...]:
    """Roots that touch the same tensor dimensions make a family."""
    rank = {name: i for i, name in enumerate(order)}
    keys = sorted(dimensions, key=lambda key: (rank[key[0]], key[1]))
    touched: dict[int, list[tuple[str, int]]] = {}
    for key in keys:
        for root in np.unique(dimensions[key]).tolist():
            touched.setdefault(root, []).append(key)
    alike: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for root, signature in touched.items():
        if root != FROZEN:
            alike.setdefault(tuple(signature), []).append(root)
    atoms = walk.ties.atoms
    summed = {root for ids in walk.ties.sums for root in np.unique(atoms.find(ids)).tolist()}
    families: list[Family] = []
    taken: dict[str, int] = {}
    for places, roots in alike.items():
        if len(roots) < 2:
            continue
        made = next((key for key in places if _makes(walk, key)), places[0])
        place = {root: int(np.argmax(dimensions[made] == root)) for root in roots}
        ordered = np.array(sorted(roots, key=place.__getitem__), dtype=np.int64)
        slot = {root: i for i, root in enumerate(ordered.tolist())}
        members = tuple(
            Member(
                name,
                dim,
                np.array([slot.get(r, -1) for r in dimensions[name, dim].tolist()], dtype=np.int64),
                (name, dim) in walk.ties.consumed,
            )
            for name, dim in places
        )
        name = made[0].rpartition(".")[0] or made[0]
        taken[name] = taken.get(name, 0) + 1
        families.append(
            Family(
                name=name if taken[name] == 1 else f"{name}:{taken[name]}",
                size=len(ordered),
                residual=bool(summed & set(roots)),
                width=int((dimensions[made] == ordered[0]).sum()),
                members=members,
                roots=ordered,
            )
        )
    return tuple(families)


def _makes(walk: Walk, key: tuple[str, int]) -> bool:
    """True for the output dimension of a layer: dimension 0 of a matrix or kernel."""
    name, dim = key
    return dim == 0 and walk.tensors[name].dim() >= 2


def _rooted(walk: Walk) -> dict[Node, Any]:
    """The walk's values with roots in place of atoms."""

    def rooted(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [rooted(item) for item in value]
        if not isinstance(value, Value) or value.ids is None:
            return value
        return Value(value.shape, walk.ties.atoms.find(value.ids))

    return {node: rooted(value) for node, value in walk.values.items()}


def _rooted_product(walk: Walk, product: Product) -> Product:
    roots = None if product.roots is None else walk.ties.atoms.find(product.roots)
    return Product(product.layer, product.macs, product.name, roots)


def _attributes(walk: Walk, seen: Sequence[Use]) -> Iterable[Attribute]:
    """Attributes that rules noted, and those seen in use as the size of an axis that can be narrowed."""
    atoms = walk.ties.atoms
    for note in walk.ties.attributes:
        yield Attribute(note.module, note.name, note.item, atoms.find(note.roots))
    made: dict[tuple[str, tuple[int, ...]], list[Value]] = {}
    for node, value in walk.values.items():
        if isinstance(value, Value) and value.ids is not None:
            made.setdefault((owner(node), value.shape), []).append(value)
    done: set[tuple[str, str, int | None]] = set()
    for use in seen:
        key = (use.module, use.attribute, use.item)
        for value in made.get((use.where, use.shape), []):
            assert value.ids is not None
            if key not in done and value.ids.shape[use.axis] > 1:
                done.add(key)
                along = tuple(slice(None) if a == use.axis else 0 for a in range(value.ids.ndim))
                yield Attribute(use.module, use.attribute, use.item, atoms.find(value.ids[along]))
