"""The dispatch mode that writes down every operator below autograd: its work, its bytes and its layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from tenfold.cost import formulas, operators, record
from tenfold.cost.fakes import Fakes
from tenfold.cost.liveness import Liveness, storage_key
from tenfold.cost.modules import ModuleStack
from tenfold.cost.record import OperatorCost

NETWORK_INPUT = -1


class Counter(TorchDispatchMode):
    """Writes down every operator that runs inside it."""

    supports_higher_order_operators = True

    def __init__(self, fakes: Fakes, modules: ModuleStack) -> None:
        super().__init__()
        self.operators: list[OperatorCost] = []
        self.unknown: set[str] = set()
        self.liveness = Liveness()
        self.param_sizes: dict[int, int] = {}
        self.last_operator = ""
        self._fakes = fakes
        self._modules = modules
        self._params: dict[int, int] = {}  # storage -> number of the parameter
        self._weights: set[int] = set()  # storages of parameters and buffers
        self._makers: dict[int, int] = {}  # storage -> the operator that wrote it last

    def add_weight(self, tensor: Tensor) -> Tensor:
        """Take in a parameter or a buffer; its stand-in."""
        fake = self._fakes.of(tensor)
        key = storage_key(fake)
        self.liveness.ignore(fake)
        self._weights.add(key)
        if isinstance(tensor, nn.Parameter) and key not in self._params:
            self._params[key] = len(self._params)
            self.param_sizes[self._params[key]] = tensor.numel()
        return fake

    def add_inputs(self, leaves: Iterable[Any]) -> None:
        """Take in the network's inputs."""
        for tensor in leaves:
            if isinstance(tensor, Tensor):
                self.liveness.see([tensor])
                self._makers[storage_key(tensor)] = NETWORK_INPUT

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.last_operator = formulas.operator_name(func)
        if self.last_operator == "prim::device":
            return func(*args, **(kwargs or {}))
        if self.last_operator == "aten::_local_scalar_dense":
            return self._read_number(func, args[0])
        args, kwargs = tree_map_only(Tensor, self._adopt, (args, kwargs or {}))
        formula = formulas.formulas_of(func)
        if formula is None and isinstance(func, torch._ops.OpOverload):
            # Under inference_mode compound operators arrive whole: take them apart and count the parts.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            self.last_operator = formulas.operator_name(func)
        result = func(*args, **kwargs)
        self._write_down(func, formula, args, kwargs, result)
        return result

    def _adopt(self, tensor: Tensor) -> Tensor:
        """The stand-in of a tensor; one with data that no module has registered is a constant, like a buffer."""
        return tensor if isinstance(tensor, FakeTensor) else self.add_weight(tensor)

    def _read_number(self, func: Any, tensor: Tensor) -> Any:
        """The value of a one-element tensor where it does not depend on the inputs."""
        if not isinstance(tensor, FakeTensor):
            original: Tensor | None = None if tensor.is_meta else tensor
        else:
            original = self._fakes.original(tensor)
        if original is None:
            return func(tensor)
        with torch._C._DisableTorchDispatch():
            return original.detach().item()

    def _write_down(self, func: Any, formula: Any, args: Any, kwargs: Any, result: Any) -> None:
        inputs = tensors_in((args, kwargs))
        outputs = tensors_in(result)
        if not outputs or formulas.only_metadata(func):
            return
        input_keys = {storage_key(tensor): tensor for tensor in inputs}
        mutated = _mutated(func, args, kwargs)
        written = mutated + [out for out in outputs if storage_key(out) not in input_keys]
        self.liveness.see(outputs)
        name = formulas.operator_name(func)
        short = name.removeprefix("aten::")
        if not written or short in operators.ALLOCATIONS:
            return  # a view, or memory set aside
        macs, other_flops = 0, 0
        if formula is None:
            self.unknown.add(name)
        else:
            shapes, named = tree_map(_shape, (args, kwargs))
            named["out"] = tuple(outputs[0].shape)
            macs, other_flops = (round(compute(*shapes, **named)) for compute in formula)
        weight_bytes, bytes_read = self._bytes_read(short, inputs, written, mutated)
        number = len(self.operators)
        self.operators.append(
            OperatorCost(
                layer=self._modules.layer,
                op=short,
                kind=_kind(func, formula is None, macs, other_flops, args),
                macs=macs,
                other_flops=other_flops,
                weight_bytes=weight_bytes,
                bytes_read=bytes_read,
                bytes_written=sum(map(_size, written)),
                output_shape=tuple(outputs[0].shape),
                params=tuple(sorted({self._params[key] for key in input_keys if key in self._params})),
                reads=tuple(sorted({self._makers[key] for key in input_keys if key in self._makers})),
                live_bytes=self.liveness.current,
                input_shapes=tuple(tuple(tensor.shape) for tensor in inputs),
            )
        )
        for tensor in written:
            self._makers[storage_key(tensor)] = number

    def _bytes_read(
        self, name: str, inputs: list[Tensor], written: list[Tensor], mutated: list[Tensor]
    ) -> tuple[int, int]:
        """Bytes read of weights, and of weights and activations: each input once, of a table only its rows."""
        overwritten = {id(tensor) for tensor in mutated} if name in operators.OVERWRITES else set()
        weights = activations = 0
        seen = set()
        for position, tensor in enumerate(inputs):
            if id(tensor) in seen or id(tensor) in overwritten:
                continue
            seen.add(id(tensor))
            size = _size(tensor)
            if position == 0 and name in operators.GATHERS:
                size = min(size, sum(map(_size, written)))
            if storage_key(tensor) in self._weights:
                weights += size
            else:
                activations += size
        return weights, weights + activations


_NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "weight_norm")


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors of any nested structure, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _shape(leaf: Any) -> Any:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf


def _size(tensor: Tensor) -> int:
    """Bytes of the elements that exist: an expanded tensor has fewer than its shape says."""
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= length if stride != 0 or length == 0 else 1
    return elements * tensor.element_size()


def _mutated(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that the operator writes into, by its schema."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    found: list[Tensor] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += tensors_in(value)
    return found


def _kind(func: Any, unknown: bool, macs: int, other_flops: int, args: Any) -> str:
    name = formulas.operator_name(func)
    if unknown:
        return record.UNKNOWN
    if "attention" in name:
        return record.ATTENTION
    if macs:
        weight = args[1] if len(args) > 1 else None
        single = "conv" in name and isinstance(weight, Tensor) and weight.dim() > 2 and weight.shape[1] == 1
        return record.DEPTHWISE if single and args[0].shape[1] > 1 else record.DENSE
    if any(norm in name for norm in _NORMS):
        return record.NORM
    if other_flops == 0:
        return record.MOVEMENT
    return record.POINTWISE if formulas.is_pointwise(func) else record.REDUCTION
