"""The operators that a fusing runtime runs, out of those that eager execution runs.

Rules, as ONNX Runtime and its like apply them to an inference graph: what does not depend on the network's inputs
is folded away; batch norm folds into the convolution before it; a pointwise operator joins the operator that
made one of its inputs, where nobody else reads that input. A group reads and writes memory once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from tenfold.cost import record
from tenfold.cost.record import OperatorCost

# What a pointwise operator may join.
HOSTS = frozenset(
    {record.DENSE, record.DEPTHWISE, record.ATTENTION, record.NORM, record.POINTWISE, record.REDUCTION}
)


@dataclass(frozen=True)
class FusedOperator:
    """A group of operators that run as one. `kind`, `op` and `layer` are those of its first."""

    layer: str
    op: str
    kind: str
    macs: int
    other_flops: int
    weight_bytes: int
    activation_bytes: int  # read from outside the group, and written at its end
    members: int


def fused(operators: Sequence[OperatorCost]) -> tuple[FusedOperator, ...]:
    """The fused groups of a profile's `operators`, in the order of their first members."""
    return tuple(_group([operators[number] for number in members]) for members in _members(operators))


def fused_peak(
    operators: Sequence[OperatorCost],
    used: Sequence[tuple[Sequence[int], Sequence[int]]],
    sizes: Sequence[int],
    results: Collection[int],
) -> int:
    """The largest sum of activation bytes alive at a time, where the groups of `fused` run one after another.

    `used` holds for each operator the numbers of the storages that it reads and writes, `sizes` the bytes of each
    storage, `results` the storages that the network hands back. What only the members of one group touch takes no
    memory; everything else lives from the group that writes it to the last that reads it, the network's inputs from
    the start to their last use.
    """
    members = _members(operators)
    group_of = {number: group for group, numbers in enumerate(members) for number in numbers}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    readers: dict[int, set[int]] = {}
    for number, group in sorted(group_of.items(), key=lambda item: item[1]):
        read, written = used[number]
        for storage in written:
            first.setdefault(storage, group)
            last[storage] = max(last.get(storage, group), group)
        for storage in read:
            first.setdefault(storage, 0)  # an input of the network, or a result of folding
            last[storage] = max(last.get(storage, group), group)
            readers.setdefault(storage, set()).add(group)
    change = [0] * (len(members) + 1)
    for storage, begin in first.items():
        end = len(members) - 1 if storage in results else last[storage]
        inside = begin == end and storage not in results and readers.get(storage) == {begin}
        if inside and _is_written(storage, members[begin], used):
            continue
        change[begin] += sizes[storage]
        change[end + 1] -= sizes[storage]
    return max(accumulate(change), default=0)


def _is_written(
    storage: int, members: Sequence[int], used: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> bool:
    """Whether one of `members` made this storage; an input of the network is read only."""
    return any(storage in used[number][1] for number in members)


def _members(operators: Sequence[OperatorCost]) -> list[list[int]]:
    """The groups, each as the numbers of its operators, in the order of their first members."""
    readers = _readers(operators)
    constant = _constant(operators)
    groups: dict[int, list[int]] = {}  # first member -> members
    home: dict[int, int] = {}  # operator -> first member of its group
    for number, operator in enumerate(operators):
        if constant[number]:
            continue  # folded away
        host = _host(number, operator, operators, readers, home, groups)
        home[number] = number if host is None else host
        groups.setdefault(home[number], []).append(number)
    return list(groups.values())


def _readers(operators: Sequence[OperatorCost]) -> list[int]:
    """How many later operators read each one's output."""
    counts = [0] * len(operators)
    for operator in operators:
        for source in operator.reads:
            if source >= 0:
                counts[source] += 1
    return counts


def _constant(operators: Sequence[OperatorCost]) -> list[bool]:
    """Which operators have neither the network's inputs nor anything made of them among their sources."""
    constant: list[bool] = []
    for operator in operators:
        constant.append(all(source >= 0 and constant[source] for source in operator.reads))
    return constant


def _host(
    number: int,
    operator: OperatorCost,
    operators: Sequence[OperatorCost],
    readers: Sequence[int],
    home: dict[int, int],
    groups: dict[int, list[int]],
) -> int | None:
    """The first member of the group that this operator joins, or None where it starts its own."""
    folds = operator.kind == record.NORM and "batch_norm" in operator.op
    if not folds and operator.kind != record.POINTWISE:
        return None
    for source in reversed(operator.reads):  # the latest first: the convolution, not the shortcut
        if source < 0 or source not in home or readers[source] != 1 or groups[home[source]][-1] != source:
            continue
        kind = operators[home[source]].kind
        if folds and (kind not in (record.DENSE, record.DEPTHWISE) or home[source] != source):
            continue
        if kind in HOSTS:
            return home[source]
    return None


def _group(members: Sequence[OperatorCost]) -> FusedOperator:
    first = members[0]
    activations = first.bytes_read - first.weight_bytes
    for before, member in pairwise(members):
        # What the member before handed on never goes to memory.
        activations += max(0, member.bytes_read - member.weight_bytes - before.bytes_written)
    return FusedOperator(
        layer=first.layer,
        op=first.op,
        kind=first.kind,
        macs=sum(member.macs for member in members),
        other_flops=sum(member.other_flops for member in members),
        weight_bytes=sum(member.weight_bytes for member in members),
        activation_bytes=activations + members[-1].bytes_written,
        members=len(members),
    )
