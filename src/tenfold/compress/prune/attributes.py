"""Which whole numbers of a module's attributes decide which axis of which tensor.

A network may reshape by numbers that it keeps (`x.reshape(B, N, 3, self.num_heads, self.head_dim)`). When heads
go, `num_heads` must follow. Which attribute feeds which axis is seen by running the network once with each such
number replaced by an int that knows its name, and looking at the sizes that torch functions receive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tenfold.compress.prune.program import shell, words
from tenfold.cost import Inputs, as_args

SIZED = words(
    "view reshape unflatten expand broadcast_to repeat zeros ones empty full new_zeros new_ones new_empty new_full"
)
SPLIT = frozenset({"split", "split_with_sizes"})


class NamedInt(int):
    """A whole number that knows which attribute it was read from; arithmetic gives plain ints."""

    attribute: str
    item: int | None


@dataclass(frozen=True)
class Use:
    """`module.attribute` (or its `item`) set the size of `axis` of a tensor of `shape`, made while `where` ran."""

    module: str
    attribute: str
    item: int | None
    where: str
    shape: tuple[int, ...]
    axis: int


def uses(model: nn.Module, inputs: Inputs) -> list[Use]:
    """Run `model` once and list every use of an attribute as a size."""
    args, kwargs = as_args(inputs)
    network = shell(model)
    _name_numbers(network)
    stack = _running_modules(network)
    with torch.no_grad(), _Watch(stack) as watch:
        network(*args, **kwargs)
    return list(dict.fromkeys(watch.found))


class _Watch(TorchFunctionMode):
    """Sees the arguments of torch functions before they become plain numbers."""

    def __init__(self, stack: list[str]) -> None:
        super().__init__()
        self.stack = stack
        self.found: list[Use] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in SIZED and isinstance(result, Tensor):
            self._sizes([*args, *kwargs.values()], result)
        elif name in SPLIT and isinstance(result, (tuple, list)):
            self._pieces([*args, *kwargs.values()], kwargs, result)
        elif name == "__getitem__" and isinstance(result, Tensor):
            self._slices(args[1], result)
        return result

    def _sizes(self, arguments: list[Any], result: Tensor) -> None:
        """view(2, 3, -1), reshape((2, 3)), expand, unflatten(dim, sizes), zeros: sizes count from the right."""
        candidates = [a for a in arguments if isinstance(a, (tuple, list))]
        candidates.append([a for a in arguments if isinstance(a, int)])
        for sizes in candidates:
            for position, number in enumerate(sizes):
                if not isinstance(number, NamedInt):
                    continue
                offset = result.dim() - len(sizes)
                axes = [position + offset] if offset >= 0 else []
                axes += [axis for axis in range(result.dim()) if axis not in axes]
                axis = next((a for a in axes if result.shape[a] == number), None)
                if axis is not None:
                    self._note(number, result, axis)

    def _pieces(self, arguments: list[Any], kwargs: dict[str, Any], result: Any) -> None:
        """split(sizes, dim): each size belongs to its piece."""
        dim = kwargs.get("dim", arguments[2] if len(arguments) > 2 else 0)
        sizes = arguments[1] if len(arguments) > 1 else None
        if not isinstance(dim, int) or not all(isinstance(piece, Tensor) for piece in result):
            return
        sizes = sizes if isinstance(sizes, (tuple, list)) else [sizes] * len(result)
        for number, piece in zip(sizes, result, strict=False):
            if isinstance(number, NamedInt) and piece.dim() and piece.shape[dim] == number:
                self._note(number, piece, dim % piece.dim())

    def _slices(self, index: Any, result: Tensor) -> None:
        """x[:, :number]: what is left has that size. Only plain slices, so that axes stay in place."""
        places = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(place, slice) for place in places):
            return
        for axis, place in enumerate(places):
            stop = place.stop
            if isinstance(stop, NamedInt) and not place.start and result.shape[axis] == stop:
                self._note(stop, result, axis)

    def _note(self, number: NamedInt, result: Tensor, axis: int) -> None:
        module, _, attribute = number.attribute.rpartition(":")
        where = self.stack[-1] if self.stack else ""
        self.found.append(Use(module, attribute, number.item, where, tuple(result.shape), axis))


def _name_numbers(network: nn.Module) -> None:
    """Replace whole numbers (and tuples of them) in the user's modules by ones that know their names."""
    for path, module in network.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        for attribute, value in list(vars(module).items()):
            if type(value) is int:
                vars(module)[attribute] = _named(value, f"{path}:{attribute}", None)
            elif type(value) is tuple and value and all(type(item) is int for item in value):
                vars(module)[attribute] = tuple(
                    _named(item, f"{path}:{attribute}", place) for place, item in enumerate(value)
                )


def _named(value: int, attribute: str, item: int | None) -> NamedInt:
    number = NamedInt(value)
    number.attribute, number.item = attribute, item
    return number


def _running_modules(network: nn.Module) -> list[str]:
    """Hook `network` so that the list holds the paths of the modules that are running, innermost last."""
    stack: list[str] = []
    for path, module in network.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: stack.append(path))
        module.register_forward_hook(lambda *_: (stack.pop(), None)[1])
    return stack
