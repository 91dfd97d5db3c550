"""The exported program of a network: its ATen graph with the names of the user's own parameters."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tenfold.compress.quantized import packed_by_torch
from tenfold.compress.technique import apart
from tenfold.cost import Inputs, as_args
from tenfold.errors import NetworkError

WRAPPED = "model"


class TensorOutputs(nn.Module):
    """Calls a network and hands on the tensors of its answer; caches and other objects are left out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(tensors_in(self.model(*args, **kwargs)))


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors in tensors, tuples, lists and dicts, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from tensors_in(value)


@dataclass(frozen=True)
class Program:
    """A traced graph. `tensors` says which parameter, buffer or constant a placeholder stands for.

    A placeholder that is not in `tensors` is an input of the network. Names are those of the user's network.
    """

    module: GraphModule
    tensors: dict[str, str]
    constants: dict[str, Tensor]
    parameters: frozenset[str]

    @property
    def nodes(self) -> list[Node]:
        return list(self.module.graph.nodes)

    def bind(self, inputs: Inputs) -> dict[str, Tensor]:
        """The input tensor that each input placeholder stands for."""
        args, kwargs = as_args(inputs)
        places = [n.name for n in self.nodes if n.op == "placeholder"]
        places = [name for name in places if name not in self.tensors and name not in self.constants]
        if set(kwargs) <= set(places):
            rest = iter(args)
            return {name: kwargs[name] if name in kwargs else next(rest) for name in places}
        return dict(zip(places, (*args, *kwargs.values()), strict=True))

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs) -> Program:
        """Trace `model`, as in eval mode, on `inputs`; a `NetworkError` says why it cannot be traced."""
        args, kwargs = as_args(inputs)
        fast_path = torch.backends.mha.get_fastpath_enabled()
        # The fused fast path of nn.TransformerEncoder hides its layers in one operator.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about attributes set while tracing: they are the shell's
                exported = torch.export.export(TensorOutputs(shell(model)), args, kwargs, strict=False)
        except Exception as error:  # whatever the user's forward or the tracer raises
            reason = (str(error).strip().splitlines() or [""])[0]
            raise NetworkError(
                apart(model, inputs)
                or packed_by_torch(model)
                or f"torch.export cannot trace {type(model).__name__}: {type(error).__name__}: {reason}"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
        signature = exported.graph_signature
        tensors = {
            placeholder: own_name(name)
            for table in (signature.inputs_to_parameters, signature.inputs_to_buffers)
            for placeholder, name in table.items()
        }
        constants = {
            placeholder: value
            for placeholder, name in signature.inputs_to_lifted_tensor_constants.items()
            if isinstance(value := exported.constants[name], Tensor)
        }
        parameters = frozenset(map(own_name, signature.inputs_to_parameters.values()))
        return cls(exported.graph_module, tensors, constants, parameters)


def own_name(name: str) -> str:
    """A name of the traced wrapper as a name of the user's network."""
    return name.removeprefix(WRAPPED).removeprefix(".")


def shell(model: nn.Module) -> nn.Module:
    """A copy of the module objects, in eval mode, that shares the tensors: to run, hook or take apart at will."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo).eval()


def words(text: str) -> frozenset[str]:
    """The words of a text: for tables of operator names."""
    return frozenset(text.split())


def owner(node: Node) -> str:
    """The path of the module whose forward called this node ("" for the network itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    return own_name(list(stack.values())[-1][0]) if stack else ""


def owners(node: Node) -> list[str]:
    """The paths of all modules that were running when this node was called, outermost first."""
    return [own_name(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()][1:]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name it goes by (tied tensors appear more than once)."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def operator_name(node: Node) -> str:
    """`relu` for both aten.relu.default and aten.relu_.default."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__name__", str(node.target))
    name = node.target._schema.name.split("::")[1]
    return name if name.startswith("__") else name.removesuffix("_")


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of an ATen call by their names in the schema, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    named: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args):
            named[argument.name] = node.args[position]
        else:
            named[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return named
