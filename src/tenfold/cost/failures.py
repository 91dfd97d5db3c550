"""Why a network could not be counted: one sentence with the layer, the shapes, the reason and the way out."""

from __future__ import annotations

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from tenfold.cost.counter import Counter, tensors_in
from tenfold.cost.modules import ModuleStack
from tenfold.errors import NetworkError

RUN = "run it on real data on the CPU, with real=True (tenfold profile --real)"


def explained(error: Exception, modules: ModuleStack, counter: Counter, *, real: bool) -> NetworkError:
    """The error that a user can act on, of one that the forward pass raised."""
    if isinstance(error, NetworkError):
        return error
    module = modules.module
    kind = f" ({type(module).__name__})" if module is not None else ""
    place = f"layer {modules.layer}{kind}" if modules.layer else f"the network{kind}"
    shapes = ", ".join("×".join(map(str, t.shape)) or "scalar" for t in tensors_in(modules.arguments))
    given = f" given {shapes}" if shapes else ""
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        return NetworkError(
            f"{place}{given}: {counter.last_operator} depends on the values of a tensor, and counting runs "
            f"without data; take that decision out of the forward pass, or {RUN}"
        )
    if isinstance(error, UnsupportedOperatorException):
        return NetworkError(
            f"{place}{given}: {counter.last_operator} has no shape rule; give it one with "
            f"torch.library.register_fake, and a cost with tenfold.cost.register, or {RUN}"
        )
    lines = str(error).strip().splitlines() or [""]
    hint = "" if real else f"; if it runs outside the counter, {RUN}"
    return NetworkError(f"{place}{given}: the forward pass failed: {type(error).__name__}: {lines[0]}{hint}")
