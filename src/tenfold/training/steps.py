"""The network's part of a step: outputs, gradients, and the move of the weights; on a GPU replayed from CUDA graphs.

Three graphs start at once what else a thousand calls do: the pass forward, the pass backward, and the move. The loss
lies between the first two and is computed plainly, so that any objective and any data will do. `stepper` captures
steps with their loss and their data in one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.cost import Inputs
from tenfold.errors import NetworkError, backward_reported
from tenfold.training.graphs import Plain, alike, hooked, mend, other_than, passes
from tenfold.training.precision import Precision

MOVED_PLAINLY = 3  # steps before the move is captured: the optimiser sets its state up in the first
REFUSED = (
    RuntimeError,
    NetworkError,
    AssertionError,
    TypeError,
)  # by a capture; what waits for the GPU, for one


class Steps:
    """Steps that move `parameters` by `rule`, by gradients of a norm up to `clip`; `network` gives the outputs."""

    def __init__(
        self,
        network: Plain,
        parameters: Sequence[nn.Parameter],
        rule: torch.optim.Optimizer,
        clip: float | None,
    ) -> None:
        self.network, self.parameters, self.rule, self.clip = network, parameters, rule, clip

    def outputs(self, inputs: Inputs) -> Tensor:
        """The network's main output, for inputs on its device and laid out for it."""
        found: Tensor = self.network(inputs)
        return found

    def learn(self, loss: Tensor, rate: float) -> None:
        """Move the weights by the gradients of this loss of the last outputs, at this learning rate."""
        self.rule.zero_grad(set_to_none=True)
        with backward_reported():
            loss.backward()
        self._set_rate(rate)
        self._move()

    def _move(self) -> None:
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.rule.step()

    @property
    def _rate_is_read(self) -> bool:
        """Whether the rule reads its learning rate from a tensor, which may change under a graph."""
        return all(isinstance(group["lr"], Tensor) for group in self.rule.param_groups)

    def _set_rate(self, rate: float) -> None:
        for group in self.rule.param_groups:
            if isinstance(group["lr"], Tensor):  # which a graph reads
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


class Replayed(Steps):
    """Steps from graphs, captured for inputs like `example`; others are taken plainly."""

    _found: Tensor  # the outputs, always in the same memory, as the inputs are …
    _gradients: list[Tensor | None]  # … and the gradients of the parameters, where they have one
    _leaf: Tensor  # the last outputs, as what the loss begins with

    def __init__(self, steps: Steps, example: Tensor) -> None:
        """Capture the passes; raises one of `REFUSED`."""
        super().__init__(steps.network, steps.parameters, steps.rule, steps.clip)
        self._inputs = example.detach().clone()
        pool = torch.cuda.graph_pool_handle() if example.is_cuda else None
        self._replay_forward = recorded(self._forward, pool)
        self._upstream = torch.zeros_like(self._found)  # the loss's gradients with respect to the outputs
        self._replay_backward = recorded(self._backward, pool)
        self._found = self._found.detach()
        self._replay_move: Callable[[], None] | None = None
        self._moved, self._replaying = 0, False

    def outputs(self, inputs: Inputs) -> Tensor:
        held = self._inputs
        self._replaying = False
        if not isinstance(inputs, Tensor) or (inputs.shape, inputs.dtype) != (held.shape, held.dtype):
            return super().outputs(inputs)
        self._replaying = True
        held.copy_(inputs)
        self._replay_forward()
        self._leaf = self._found.detach().requires_grad_()
        return self._leaf

    def learn(self, loss: Tensor, rate: float) -> None:
        if not self._replaying:
            return super().learn(loss, rate)
        with backward_reported():
            self.find_gradients(loss)
        self._set_rate(rate)
        self._moved += 1
        if self._moved == MOVED_PLAINLY + 1 and self._rate_is_read:
            self._capture_move()
        if self._replay_move is None:
            self._move()
        else:
            self._replay_move()

    def find_gradients(self, loss: Tensor) -> list[Tensor]:
        """Those of the loss of the last outputs, of the parameters that have some."""
        self._upstream.copy_(torch.autograd.grad(loss, self._leaf)[0])
        self._replay_backward()
        return [gradient for gradient in self._gradients if gradient is not None]

    def _forward(self) -> None:
        self._found = self.network(self._inputs)

    def _backward(self) -> None:
        found = torch.autograd.grad(self._found, self.parameters, self._upstream, allow_unused=True)
        self._gradients = []
        places: set[int] = set()
        for parameter, gradient in zip(self.parameters, found, strict=True):
            if gradient is not None and (
                gradient.stride() != parameter.stride() or gradient.data_ptr() in places
            ):
                # As `backward` does: laid out as the parameter is, and no two of them in one place.
                gradient = torch.empty_like(parameter).copy_(gradient)
            if gradient is not None:
                places.add(gradient.data_ptr())
            self._gradients.append(gradient)

    def _move(self) -> None:
        if self._replaying:
            for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
                parameter.grad = gradient
        super()._move()

    def _capture_move(self) -> None:
        try:
            self._replay_move = recorded(self._move, None)
        except REFUSED:
            mend(self.network.device)


def recorded(work: Callable[[], None], pool: Any) -> Callable[[], None]:
    """What does the work again, in the same memory. It is not done yet: what it found is there, without values."""
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.cuda.graph(graph, pool=pool):
            work()
    return graph.replay


def steps_of(
    student: nn.Module,
    parameters: Sequence[nn.Parameter],
    rule: torch.optim.Optimizer,
    precision: Precision,
    *,
    clip: float | None = None,
    example: Inputs | None = None,
) -> Steps:
    """Steps of the network as it stands, in its mode: from graphs where that is possible.

    `example` and what is taken plainly are as for `graphs.graphed`; so is a network beside which something else is
    learnt. The move is from a graph too if the rule's learning rate is a tensor on the device.
    """
    plain = Steps(Plain(student, precision), parameters, rule, clip)
    alone = len(parameters) == sum(p.requires_grad for p in student.parameters())
    if not isinstance(example, Tensor) or hooked(student) or not alone:
        return plain
    return replayed(plain, example) or plain


def replayed(steps: Steps, example: Tensor) -> Replayed | None:
    """The steps from graphs, or None where these cannot be captured or do not give what plain passes give."""
    plain, device = steps.network, steps.network.device
    buffers = [(buffer, buffer.clone()) for buffer in plain.buffers()]
    other = other_than(example)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if not warmed_up(plain, other):
                return None
            made = Replayed(steps, example)
            outputs = made.outputs(other)
            gradients = made.find_gradients(outputs.float().square().mean())
            found = [outputs.detach().clone(), torch.cat([g.flatten() for g in gradients])]
            return made if alike([passes(plain, other), found]) else None
    except REFUSED:
        if device.type == "cuda":
            mend(device)
        return None
    finally:
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def warmed_up(plain: Plain, inputs: Tensor) -> bool:
    """Take passes on a stream of their own, as a capture demands; whether they come out alike."""
    if plain.device.type != "cuda":
        return alike([passes(plain, inputs), passes(plain, inputs)])
    stream = torch.cuda.Stream(plain.device)
    stream.wait_stream(torch.cuda.current_stream(plain.device))
    with torch.cuda.stream(stream):
        steady = alike([passes(plain, inputs), passes(plain, inputs)])
    torch.cuda.current_stream(plain.device).wait_stream(stream)
    return steady
