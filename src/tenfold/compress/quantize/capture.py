"""A network as one flat graph of ATen operators, free of in-place writes, whose batch dimension is dynamic."""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from tenfold.compress.quantized import packed_by_torch
from tenfold.compress.technique import apart
from tenfold.cost import Inputs, as_args, map_inputs
from tenfold.errors import ExportError

NO_OPS = {"dropout", "alpha_dropout", "feature_dropout", "detach", "alias", "lift_fresh_copy"}


def capture(model: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """`model` in eval mode as a `GraphModule` of ATen calls; parameters keep their names. The model is not edited.

    `inputs` are example inputs with the batch as first dimension of every tensor; any batch size may be fed to the
    result. Raises `ExportError` if the network cannot be traced, or only for one batch size.
    """
    program = export_program(copy.deepcopy(model).eval(), inputs)
    if not _can_be_made_functional(program.graph):
        with quiet():
            program = program.run_decompositions({})
    with quiet():
        module = program.module()
    _drop_guards(module)
    make_functional(module.graph)
    restore_batch_norms(module.graph)
    drop_no_ops(module.graph)
    return rebuilt(module)


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a captured graph, without the warnings of PyTorch about its own way of copying."""
    with quiet():
        return copy.deepcopy(module)


def export_program(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """`torch.export` with a dynamic batch, or an `ExportError` that says what stood in the way."""
    args, kwargs = as_args(map_inputs(two_examples, inputs))
    args_shapes = tuple({0: Dim.DYNAMIC} for _ in args)
    kwargs_shapes = {name: {0: Dim.DYNAMIC} for name in kwargs}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=args_shapes or kwargs_shapes, strict=False
            )
    except Exception as error:
        raise ExportError(apart(model, inputs) or packed_by_torch(model) or _why(model, error)) from error


def two_examples(tensor: Tensor) -> Tensor:
    """The first example of `tensor`, twice: a batch of one would be taken for a constant by the tracer."""
    if tensor.dim() == 0 or tensor.shape[0] == 0:
        raise ExportError(f"an input of shape {tuple(tensor.shape)} has no batch: give at least one example")
    return tensor[:1].repeat(2, *[1] * (tensor.dim() - 1))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what tracing and export log, warn and print about their own insides; their errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def rebuilt(module: fx.GraphModule) -> fx.GraphModule:
    """A plain `GraphModule` in eval mode over the same graph, without what the graph no longer uses."""
    graph = module.graph
    graph.eliminate_dead_code()
    for node in [n for n in graph.nodes if n.op == "get_attr" and not n.users]:
        graph.erase_node(node)
    graph.lint()
    fresh = fx.GraphModule(module, graph)
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    for name, _ in [
        *fresh.named_parameters(remove_duplicate=False),
        *fresh.named_buffers(remove_duplicate=False),
    ]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(fresh.get_submodule(owner), leaf)
    fresh.delete_all_unused_submodules()
    return fresh.eval()


def set_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    """Register `value` as a buffer under a dotted name, making the modules on the way."""
    owner, _, leaf = name.rpartition(".")
    for part in owner.split(".") if owner else ():
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    module.register_buffer(leaf, value)


def attribute(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of this dotted name."""
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def operator(node: fx.Node) -> str:
    """The ATen name of a call without namespace, overload and in-place underscore ("conv2d"), else ""."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return ""
    namespace, _, name = node.target._schema.name.partition("::")
    return name.rstrip("_") if namespace == "aten" else ""


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape that was traced for the value of `node` (the batch may be symbolic); () if it is no tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def is_float(node: object) -> bool:
    """Is this the node of a float32 tensor?"""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dtype == torch.float32


def make_functional(graph: fx.Graph) -> None:
    """Replace `y = op_(x)` by `y = op(x)`, and every later use of x by y."""
    for node in list(graph.nodes):
        if not _writes(node):
            continue
        target = node.args[0]
        base = node.target._schema.name.split("::")[1].rstrip("_")
        node.target = getattr(getattr(torch.ops.aten, base), node.target._overloadname)
        later = _after(node)
        target.replace_all_uses_with(node, delete_user_cb=lambda user, later=later: user in later)


def restore_batch_norms(graph: fx.Graph) -> None:
    """Functionalisation splits batch norm into a call of three results: make it the call of one again."""
    for node in list(graph.nodes):
        if operator(node) != "_native_batch_norm_legit_no_training":
            continue
        momentum, epsilon = node.args[5:7]
        with graph.inserting_before(node):
            norm = graph.call_function(
                torch.ops.aten.batch_norm.default, (*node.args[:5], False, momentum, epsilon, False)
            )
        norm.meta = dict(node.meta) | {"val": node.meta["val"][0]}
        for item in list(node.users):
            if item.args[1] == 0:
                item.replace_all_uses_with(norm)
            graph.erase_node(item)
        graph.erase_node(node)


def drop_no_ops(graph: fx.Graph) -> None:
    """Remove what does nothing in inference: dropout, detach, alias."""
    for node in list(graph.nodes):
        if operator(node) in NO_OPS and node.args and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _can_be_made_functional(graph: fx.Graph) -> bool:
    """False where an in-place operator has no plain form or writes through a view, which needs real functionalisation."""
    for node in graph.nodes:
        if not _writes(node):
            continue
        base = node.target._schema.name.split("::")[1].rstrip("_")
        packet = getattr(torch.ops.aten, base, None)
        if packet is None or node.target._overloadname not in packet.overloads():
            return False
        target = node.args[0]
        if target.op != "call_function" or _is_view(target):
            return False
        if any(_is_view(user) for user in target.users if user not in _after(node)):
            return False
    return True


def _after(node: fx.Node) -> set[fx.Node]:
    """The nodes that come after `node`."""
    later, current = set(), node.next
    while current.op != "root":
        later.add(current)
        current = current.next
    return later


def _writes(node: fx.Node) -> bool:
    """Does this call write into its first argument?"""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    alias = arguments[0].alias_info if arguments else None
    return alias is not None and alias.is_write


def _is_view(node: fx.Node) -> bool:
    """May the value of this node share memory with its input without being written by it?"""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function"
    aliases = [r.alias_info for r in node.target._schema.returns]
    composite = operator(node) in {"reshape", "flatten", "contiguous", "to", "chunk", "split"}
    return composite or any(alias is not None and not alias.is_write for alias in aliases)


def _drop_guards(module: fx.GraphModule) -> None:
    """Remove the call that checks input shapes against the example, and assertions about shapes."""
    for node in list(module.graph.nodes):
        guard = node.op == "call_module" and str(node.target).startswith("_guards")
        assertion = "_assert" in str(node.target) or "sym_constrain_range" in str(node.target)
        if (guard or (node.op == "call_function" and assertion)) and not node.users:
            module.graph.erase_node(node)


def _why(model: nn.Module, error: Exception) -> str:
    """One sentence from the many lines of a failed export."""
    failed = f"{type(model).__name__} cannot be traced by torch.export{_where(error)}"
    if "DataDependent" in type(error).__name__:
        return (
            f"{failed}: its control flow or a shape depends on the values of a tensor (if, .item(), int(…)); "
            f"write it with torch.where or masks: {_first_line(error)}"
        )
    if re.search(r"(pecializ|Constraints violated|marked as dynamic)", str(error)):
        return (
            f"{failed} for every batch size, since a shape is computed from the batch as a plain number; "
            f"write it with x.shape[0] or -1: {_first_line(error)}"
        )
    return f"{failed}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _where(error: Exception) -> str:
    """The line of the user's network in which tracing stopped, if the traceback shows one."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        module = trace.tb_frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
        if code.co_name == "forward" and isinstance(module, nn.Module) and "torch/" not in code.co_filename:
            found = f" (in {type(module).__name__}.forward, {code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found
