"""Whole residual blocks: which modules compute (an activation of) their input plus a branch, and do without it.

Such a module can be replaced by the identity: shapes fit, and training has made the network robust to it
(Veit, Wilber and Belongie, 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks").
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from tenfold.compress.answers import distance
from tenfold.compress.prune.program import Program, operator_name, owners, shell, words
from tenfold.compress.technique import Run
from tenfold.cost import Inputs, as_args, call
from tenfold.data import Task
from tenfold.errors import RecipeError
from tenfold.pacing import Pacer

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
SUMS = frozenset({"add", "__add__", "__iadd__"})
# What may stand between a block's input and its output beside the sums: shapes, activations and norms.
BESIDE = words(
    "view reshape flatten unflatten alias clone contiguous detach dropout to relu relu6 gelu silu hardswish leaky_relu"
    " elu hardtanh tanh layer_norm batch_norm rms_norm"
)
WEIGHTED = frozenset(
    {"linear", "conv1d", "conv2d", "conv3d", "matmul", "addmm", "scaled_dot_product_attention"}
)


class Bypass(nn.Module):
    """Stands where a block stood: hands on its first input and ignores the others.

    `wrapped`: the block answered with a tuple, so this does too.
    """

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        return (x,) if self.wrapped else x

    def extra_repr(self) -> str:
        return "wrapped=True" if self.wrapped else ""


def residual_blocks(model: nn.Module, inputs: Inputs, program: Program | None = None) -> dict[str, bool]:
    """The names of the blocks that can be dropped, in the order of the network; True where one answers in a tuple.

    Found from the graph (its input reaches its output through sums, activations, norms and shapes alone), then
    tried: without any of them the network must still run.
    """
    program = program or Program.of(model, inputs)
    modules = dict(model.named_modules())
    spans = _spans(program)
    found = [
        path
        for path, nodes in spans.items()
        if path in modules and not isinstance(modules[path], CONTAINERS) and _is_residual(nodes)
    ]
    listed = [path for path in found if isinstance(_parent(modules, path), (nn.Sequential, nn.ModuleList))]
    chosen = [path for path in listed if not any(_inside(other, path) for other in listed)]
    # A block that is no member of a list counts where it neither holds nor belongs to a chosen one.
    chosen += [
        path
        for path in found
        if path not in listed
        and not any(_inside(path, other) or _inside(other, path) for other in chosen)
        and not any(_inside(other, path) for other in found)
    ]
    chosen = [path for path in modules if path in chosen]
    wrapped = _answers(model, chosen, inputs)
    if _runs(model, wrapped, inputs):
        return wrapped
    return {name: wrap for name, wrap in wrapped.items() if _runs(model, {name: wrap}, inputs)}


def drop_blocks(model: nn.Module, blocks: Mapping[str, bool]) -> nn.Module:
    """A copy of `model` with each block replaced by the identity (in a Sequential) or by `Bypass`.

    `blocks` is (a part of) what `residual_blocks` returns. Raises `RecipeError` where one does not exist.
    """
    modules = dict(model.named_modules())
    memo: dict[int, Any] = {}
    for name, wrapped in blocks.items():
        if name not in modules or not name:
            raise RecipeError(f"the network has no block {name!r} to drop")
        plain = isinstance(_parent(modules, name), nn.Sequential) and not wrapped
        memo[id(modules[name])] = nn.Identity() if plain else Bypass(wrapped)
    return copy.deepcopy(model, memo)


@torch.no_grad()
def block_sensitivity(
    model: nn.Module,
    task: Task,
    blocks: Mapping[str, bool],
    run: Run,
    *,
    examples: int = 256,
    batch: int = 64,
) -> dict[str, float]:
    """How far the answers move when each block alone is skipped, on `examples` training examples.

    Mean KL divergence from the original's answers for class targets, relative squared error for others. Blocks
    that the deadline leaves no time for, by what the last one took, count as infinitely sensitive.
    """
    split = task.train.take(examples, seed=run.seed)
    network = copy.deepcopy(model).eval()
    classes = not split.select([0])[1].is_floating_point()
    batches = [inputs for _, inputs, _ in split.batches(batch)]
    pacer = Pacer(run.seconds_left)
    with pacer.one():
        reference = [call(network, inputs).float() for inputs in batches]
    modules = dict(network.named_modules())
    found: dict[str, float] = {}
    for index, (name, wrapped) in enumerate(blocks.items()):
        if not pacer.may_begin():
            found[name] = math.inf
            continue
        parent, last = _parent(modules, name), name.rpartition(".")[2]
        with pacer.one():
            setattr(parent, last, Bypass(wrapped))
            try:
                moved = [
                    distance(call(network, inputs), wanted, classes) * len(wanted)
                    for inputs, wanted in zip(batches, reference, strict=True)
                ]
            finally:
                setattr(parent, last, modules[name])
        found[name] = sum(moved) / len(split)
        run.progress((index + 1) / len(blocks), f"skipped {name}")
    return found


def _parent(modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    return modules[name.rpartition(".")[0]]


def _inside(path: str, ancestor: str) -> bool:
    return path.startswith(f"{ancestor}.")


def _spans(program: Program) -> dict[str, set[Node]]:
    """The nodes that ran inside each module."""
    spans: dict[str, set[Node]] = {}
    for node in program.nodes:
        if node.op == "call_function":
            for path in owners(node):
                spans.setdefault(path, set()).add(node)
    return spans


def _is_residual(nodes: set[Node]) -> bool:
    """One result, which an input of the same shape reaches beside a branch with weights."""
    results = [node for node in nodes if any(user not in nodes for user in node.users)]
    if len(results) != 1 or not any(operator_name(node) in WEIGHTED for node in nodes):
        return False
    shape = _shape(results[0])
    pending, seen = [(results[0], False)], set()
    while pending:
        node, summed = pending.pop()
        if (node, summed) in seen:
            continue
        seen.add((node, summed))
        if node not in nodes:
            if summed and node.op != "get_attr" and shape is not None and _shape(node) == shape:
                return True
            continue
        name = operator_name(node)
        if name in SUMS and len(node.all_input_nodes) == 2:
            pending += [(source, True) for source in node.all_input_nodes]
        elif name in BESIDE:
            pending.append((node.all_input_nodes[0], summed))
    return False


def _shape(node: Node) -> tuple[int, ...] | None:
    fake = node.meta.get("val")
    return tuple(fake.shape) if isinstance(fake, Tensor) else None


@torch.no_grad()
def _answers(model: nn.Module, names: Iterable[str], inputs: Inputs) -> dict[str, bool]:
    """Of these modules, those called with a tensor first that answer with one of the same shape (True: in a tuple)."""
    network = shell(model)
    modules = dict(network.named_modules())
    wrapped: dict[str, bool] = {}
    for name in names:

        def note(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
            first = output[0] if isinstance(output, tuple) and len(output) == 1 else output
            if (
                args
                and isinstance(args[0], Tensor)
                and isinstance(first, Tensor)
                and first.shape == args[0].shape
            ):
                wrapped[name] = isinstance(output, tuple)

        modules[name].register_forward_hook(note)
    args, kwargs = as_args(inputs)
    network(*args, **kwargs)
    return {name: wrapped[name] for name in names if name in wrapped}


@torch.no_grad()
def _runs(model: nn.Module, blocks: Mapping[str, bool], inputs: Inputs) -> bool:
    try:
        call(drop_blocks(shell(model), blocks), inputs)
    except Exception:  # whatever the user's forward raises without its block
        return False
    return True
