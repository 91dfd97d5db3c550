"""The dispatch mode that writes down every operator below autograd: its work, its bytes and its layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from tenfold.cost import arithmetic, operators, record, spelled
from tenfold.cost.causality import Causality, hidden
from tenfold.cost.fakes import Reals, Standins
from tenfold.cost.liveness import Liveness, storage_key
from tenfold.cost.modules import ModuleStack
from tenfold.cost.packed import bytes_of, packed_in, packed_of, plain, unpacked
from tenfold.cost.record import OperatorCost

NETWORK_INPUT = -1


class Counter(TorchDispatchMode):
    """Writes down every operator that runs inside it.

    `storages_used` holds, for each operator, the numbers of the storages that it reads and of those that it writes.
    """

    supports_higher_order_operators = True

    def __init__(self, standins: Standins, modules: ModuleStack) -> None:
        super().__init__()
        self.operators: list[OperatorCost] = []
        self.storages_used: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.unknown: set[str] = set()
        self.views = 0
        self.liveness = Liveness()
        self.causality = Causality()
        self.param_sizes: dict[int, int] = {}
        self.last_operator = ""
        self._standins = standins
        self._modules = modules
        self._params: dict[int, int] = {}  # storage -> number of the parameter
        self._owners: dict[int, str] = {}  # storage of a parameter -> the module that it belongs to
        self._inside: list[str] = []  # the modules that spelled-out operators, innermost last, stand for
        self._packed: dict[int, list[int]] = {}  # module -> numbers of the parameters that it keeps packed
        self._weights: set[int] = set()  # storages of parameters and buffers
        self._makers: dict[int, int] = {}  # storage -> the operator that wrote it last

    @property
    def module_calls(self) -> int:
        """How many modules have run."""
        return self._modules.calls

    def add_weight(self, tensor: Tensor, name: str = "") -> Tensor:
        """Take in a parameter or a buffer with its qualified name; its stand-in."""
        parameter = isinstance(tensor, nn.Parameter)
        if isinstance(self._standins, Reals) and not parameter:
            standin = self._standins.copy(tensor)
        else:
            standin = self._standins.of(tensor)
        for inner in plain(standin):
            self.liveness.ignore(inner)
            self._weights.add(storage_key(inner))
        key = storage_key(plain(standin)[0])
        if parameter and key not in self._params:
            self._params[key] = self._number_of(tensor.numel())
            self._owners[key] = name.rpartition(".")[0]
        return standin

    def add_packed(self, module: nn.Module) -> None:
        """Take in the weights that a quantised layer keeps packed."""
        for packed in packed_of(module):
            for tensor in unpacked(packed):
                self._packed.setdefault(id(module), []).append(self._number_of(tensor.numel()))

    def add_inputs(self, leaves: Iterable[Any]) -> None:
        """Take in the network's inputs."""
        for tensor in leaves:
            if isinstance(tensor, Tensor):
                self.liveness.see([tensor])
                self._makers[storage_key(tensor)] = NETWORK_INPUT

    def _number_of(self, size: int) -> int:
        number = len(self.param_sizes)
        self.param_sizes[number] = size
        return number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(is_traceable_wrapper_subclass(leaf) for leaf in tree_leaves((args, kwargs))):
            # A tensor made of tensors: it calls operators on its parts, and those come here.
            return NotImplemented
        self.last_operator = arithmetic.operator_name(func)
        if self.last_operator == "prim::device":
            return func(*args, **(kwargs or {}))
        if self.last_operator == "aten::_local_scalar_dense":
            return self._read_number(func, args[0])
        args, kwargs = tree_map_only(Tensor, self._adopt, (args, kwargs or {}))
        whole = spelled.OPERATORS.get(self.last_operator)
        if whole is not None:
            return self._spell_out(whole, args, kwargs)
        formula = arithmetic.formulas_of(func)
        if formula is None and isinstance(func, torch._ops.OpOverload):
            # Under inference_mode compound operators arrive whole: take them apart and count the parts.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            self.last_operator = arithmetic.operator_name(func)
        shape_rule = None if self._standins.real else spelled.SHAPES.get(self.last_operator)
        result = (shape_rule or func)(*args, **kwargs)
        self._write_down(func, formula, args, kwargs, result)
        return result

    def _spell_out(self, whole: Any, args: Any, kwargs: Any) -> Any:
        """Run a compound operator as the calls that it makes, each for the module whose parameters it reads."""
        owners = [owner for owner in map(self._owner, tensors_in((args, kwargs))) if owner is not None]
        self._inside.append(_common(owners) if owners else self._modules.layer)
        try:
            with self:
                return whole(*args, **kwargs)
        finally:
            self._inside.pop()

    def _owner(self, tensor: Tensor) -> str | None:
        return self._owners.get(storage_key(tensor))

    def _layer(self, inputs: list[Tensor]) -> str:
        """The module that an operator belongs to: the one that runs, or the one that a compound operator hides."""
        if not self._inside:
            return self._modules.layer
        owners = [owner for owner in map(self._owner, inputs) if owner is not None]
        return owners[0] if owners else self._inside[-1]

    def _adopt(self, tensor: Tensor) -> Tensor:
        """The stand-in of a tensor; one with data that nobody has registered is a constant, like a buffer."""
        if not self._standins.real:
            return tensor if isinstance(tensor, FakeTensor) else self.add_weight(tensor)
        if self.liveness.is_new(tensor):
            self.liveness.ignore(tensor)
            self._weights.add(storage_key(tensor))
        return tensor

    def _read_number(self, func: Any, tensor: Tensor) -> Any:
        """The value of a one-element tensor where it does not depend on the inputs."""
        original = self._standins.original(tensor)
        if original is None:
            return func(tensor)
        with torch._C._DisableTorchDispatch():
            return original.detach().item()

    def _write_down(self, func: Any, formula: Any, args: Any, kwargs: Any, result: Any) -> None:
        inputs = tensors_in((args, kwargs))
        outputs = tensors_in(result)
        if not outputs or arithmetic.only_metadata(func):
            return
        input_keys = {storage_key(tensor): tensor for tensor in inputs}
        mutated = _mutated(func, args, kwargs)
        written = mutated + [out for out in outputs if storage_key(out) not in input_keys]
        self.liveness.see(outputs)
        name = arithmetic.operator_name(func)
        short = name.removeprefix("aten::")
        if not written or short in operators.ALLOCATIONS:
            self.views += 1  # or memory set aside
            return
        macs = masked = other_flops = 0
        shapes, named = tree_map(_shape, (args, kwargs))
        if formula is None:
            self.unknown.add(name)
        else:
            named["out"] = tuple(outputs[0].shape)
            macs, other_flops = (round(compute(*shapes, **named)) for compute in formula)
            if self.causality.running is not None:
                masked = hidden(macs, *self.causality.running)
            elif _argument(func, args, kwargs, "is_causal"):
                masked = hidden(macs, *shapes[:2])
        packed = packed_in((args, kwargs))
        weight_bytes, bytes_read = self._bytes_read(short, inputs, written, mutated)
        packed_bytes = bytes_of(packed)
        params = {self._params[key] for key in input_keys if key in self._params}
        number = len(self.operators)
        self.operators.append(
            OperatorCost(
                layer=self._layer(inputs),
                op=short,
                kind=_kind(func, formula is None, macs, other_flops, shapes),
                macs=macs,
                other_flops=other_flops,
                weight_bytes=weight_bytes + packed_bytes,
                bytes_read=bytes_read + packed_bytes,
                bytes_written=sum(map(_size, written)),
                output_shape=tuple(outputs[0].shape),
                params=tuple(sorted(params | set(self._packed_params() if packed else ()))),
                reads=tuple(sorted({self._makers[key] for key in input_keys if key in self._makers})),
                live_bytes=self.liveness.current,
                masked_macs=masked,
                input_shapes=tuple(tuple(tensor.shape) for tensor in inputs),
            )
        )
        self.storages_used.append((self.liveness.numbers(inputs), self.liveness.numbers(written)))
        for tensor in written:
            self._makers[storage_key(tensor)] = number

    def _packed_params(self) -> list[int]:
        """The parameters packed in the running module and in its children."""
        module = self._modules.module
        parts = module.modules() if module is not None else ()
        return [number for part in parts for number in self._packed.get(id(part), ())]

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


def _common(names: Sequence[str]) -> str:
    """The innermost module that holds all of these."""
    shared = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _shape(leaf: Any) -> Any:
    """The shape of a tensor; of packed weights that of the matrix, or those of all matrices of a recurrent cell."""
    if isinstance(leaf, torch.ScriptObject):
        shapes = [tuple(tensor.shape) for tensor in unpacked(leaf)]
        return shapes[0] if hasattr(leaf, "unpack") else shapes
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


def _argument(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    """The value of an operator's argument by its name in the schema; None where it has none."""
    for position, argument in enumerate(getattr(getattr(func, "_schema", None), "arguments", ())):
        if argument.name == name:
            default = argument.default_value if argument.has_default_value() else None
            return args[position] if position < len(args) else kwargs.get(name, default)
    return None


def _kind(func: Any, unknown: bool, macs: int, other_flops: int, shapes: Any) -> str:
    name = arithmetic.operator_name(func)
    if unknown:
        return record.UNKNOWN
    if "attention" in name:
        return record.ATTENTION
    if macs:
        single = "conv" in name and len(shapes) > 1 and len(shapes[1]) > 2 and shapes[1][1] == 1
        return record.DEPTHWISE if single and shapes[0][1] > 1 else record.DENSE
    if any(norm in name for norm in _NORMS):
        return record.NORM
    if other_flops == 0:
        return record.MOVEMENT
    return record.POINTWISE if arithmetic.is_pointwise(func) else record.REDUCTION
