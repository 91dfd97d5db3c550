"""A network's passes forward and backward as CUDA graphs: started at once, in place of kernel by kernel.

A small network on a large GPU takes longer to start than to compute. Unlike `stepper`, which captures whole steps on
images that lie on the device, this leaves the examples, the loss and the optimiser as they are, so that it serves any
data and any objective; so does `steps`, which has a graph for the optimiser too.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tenfold.cost import Inputs, call
from tenfold.errors import NetworkError
from tenfold.training.precision import Precision, device_of

Forward = Callable[[Inputs], Tensor]

CLOSE = 0.02  # of the norm of outputs or gradients: graphs that differ more from plain passes are not used


class Plain(nn.Module):
    """The network's main output in a precision's arithmetic, for inputs on its device and laid out for it."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model, self.precision, self.device = model, precision, device_of(model)

    def forward(self, inputs: Inputs) -> Tensor:
        with self.precision.arithmetic(self.device):
            return call(self.model, inputs)


@contextmanager
def graphed(model: nn.Module, inputs: Inputs | None, precision: Precision) -> Iterator[Forward]:
    """What runs the network as it stands, in its mode: from graphs while the context lasts, where that is possible.

    `inputs` are an example of those to come, on the network's device, or None where no graph is wanted; what has
    another shape runs plainly. So does everything on other devices, in networks with hooks, in networks that draw
    random numbers (dropout), and in those whose graphs answer otherwise than they do (branches that Python takes).
    What the network computes must not change while the context lasts, but for its weights.
    """
    plain = Plain(model, precision)
    if plain.device.type != "cuda" or not isinstance(inputs, Tensor) or hooked(model):
        yield plain
        return
    example, replayed = inputs, captured(plain, inputs)

    def forward(given: Inputs) -> Tensor:
        same = isinstance(given, Tensor) and (given.shape, given.dtype) == (example.shape, example.dtype)
        return replayed(given) if same and replayed is not None else plain(given)

    try:
        yield forward
    finally:
        # What replays refers to itself, and would keep the memory of a batch until a collection comes by.
        replayed = None
        gc.collect()


def answering(model: nn.Module, inputs: Inputs, precision: Precision) -> Forward:
    """What answers as `model` does in its mode, without gradients, in float32: from a graph where that is possible.

    `inputs` are an example of those to come, as for `graphed`. An answer is overwritten by the next one.
    """
    plain = Plain(model, precision)

    def answers(given: Inputs) -> Tensor:
        with torch.no_grad():
            return plain(given).float()

    if plain.device.type != "cuda" or not isinstance(inputs, Tensor) or hooked(model):
        return answers
    held, graph = inputs.detach().clone(), torch.cuda.CUDAGraph()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = torch.cuda.Stream(plain.device)
            stream.wait_stream(torch.cuda.current_stream(plain.device))
            with torch.cuda.stream(stream):
                answers(held)
            torch.cuda.current_stream(plain.device).wait_stream(stream)
            with torch.cuda.graph(graph):
                found = answers(held)
        held.copy_(other_than(inputs))
        graph.replay()
        if not alike([[answers(held)], [found]]):
            return answers
    except (RuntimeError, NetworkError, AssertionError, TypeError):
        mend(plain.device)
        return answers

    def replayed(given: Inputs) -> Tensor:
        if not isinstance(given, Tensor) or (given.shape, given.dtype) != (held.shape, held.dtype):
            return answers(given)
        held.copy_(given)
        graph.replay()
        return found

    return replayed


def captured(plain: Plain, inputs: Tensor) -> Forward | None:
    """The graphs, or None where they cannot be captured or do not give what plain passes give."""
    buffers = [(buffer, buffer.clone()) for buffer in plain.buffers()]
    other = other_than(inputs)
    try:
        with torch.random.fork_rng(devices=[plain.device]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of streams that gradients were made on
            if not alike([passes(plain, other), passes(plain, other)]):
                return None
            replayed = Plain(plain.model, plain.precision)  # whose own forward is replaced
            torch.cuda.make_graphed_callables(replayed, (inputs.detach().clone(),), allow_unused_input=True)
            return replayed if alike([passes(plain, other), passes(replayed, other)]) else None
    except (RuntimeError, NetworkError, AssertionError, TypeError):  # a step that waits for the GPU, for one
        mend(plain.device)
        return None
    finally:
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def other_than(inputs: Tensor) -> Tensor:
    """Inputs of the same kind, for which a graph that computes nothing anew is wrong."""
    rolled = inputs.roll(1, 0)
    return rolled.mul(0.5) if inputs.is_floating_point() else rolled


def mend(device: torch.device) -> None:
    """After a capture that failed: one that does not ends what was left open in the generator of random numbers."""
    torch.cuda.synchronize(device)
    with torch.cuda.device(device), torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.rand(1, device=device)


def passes(forward: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of their mean square with respect to all parameters that have one, copied."""
    trained = [p for p in forward.parameters() if p.requires_grad]
    outputs = forward(inputs)
    gradients = torch.autograd.grad(outputs.float().square().mean(), trained, allow_unused=True)
    return [outputs.detach().clone(), torch.cat([g.flatten().clone() for g in gradients if g is not None])]


def alike(found: Sequence[Sequence[Tensor]]) -> bool:
    """Whether two lists of tensors are equal to within rounding."""
    pairs = zip(*found, strict=True)
    return all(
        a.shape == b.shape and bool((a.float() - b.float()).norm() <= CLOSE * a.float().norm())
        for a, b in pairs
    )


def hooked(model: nn.Module) -> bool:
    """Whether something listens to a layer: a graph would leave it out."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind, None) for module in model.modules() for kind in kinds)
