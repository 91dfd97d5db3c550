"""Counting: one forward pass on tensors without data, every operator attributed to the layer that called it.

Nothing is computed and no weight is copied: each tensor is replaced by one that has only a shape, a type and a
device (torch's FakeTensor on the CPU, so that the network takes the code paths it takes there, attention
included). A dispatch mode sees every operator below autograd, so functional calls, einsum and custom
modules are counted like built-in ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map_only

from tenfold.cost.counter import Counter, tensors_in
from tenfold.cost.device import Device
from tenfold.cost.device_prediction import annotate
from tenfold.cost.fakes import Fakes
from tenfold.cost.liveness import storage_key
from tenfold.cost.modules import ModuleStack, unchanged
from tenfold.cost.record import Profile, layers_of
from tenfold.errors import NetworkError


def profile(model: nn.Module, inputs: Any, *, device: Device | None = None) -> Profile:
    """Count what one forward pass of `model` on `inputs` costs, in eval mode, without running or changing it.

    `inputs` is a tensor, a tuple of positional arguments or a dict of keyword arguments, of any structure; only
    shapes and types matter, so tensors and networks on the meta device will do. With a `device` whose machine is known,
    every layer gets its predicted milliseconds and what binds it. Raises `NetworkError` if the
    forward pass fails, naming the layer.
    """
    if not isinstance(model, nn.Module):
        raise NetworkError(f"a network must be a torch.nn.Module, not {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    args, kwargs = _arguments(inputs)
    fakes = Fakes()
    modules = ModuleStack(model)
    counter = Counter(fakes, modules)
    weights = _weights(model)
    for name, tensor in weights.items():
        if is_lazy(tensor):
            raise NetworkError(
                f"{name}: not initialised yet (a lazy layer); run the network once, then count it"
            )
    try:
        with unchanged(model), _settings(), torch.no_grad(), fakes.mode:
            replaced = {name: counter.add_weight(tensor) for name, tensor in weights.items()}
            args, kwargs = tree_map_only(Tensor, fakes.of, (args, kwargs))
            counter.add_inputs(tree_leaves((args, kwargs)))
            for module in model.modules():
                module.training = False  # not .eval(), which a network may have given side effects
            with modules, counter:
                # Nothing may hold the result: eager execution would hand it to the caller only now.
                functional_call(model, replaced, args, kwargs)
    except Exception as error:
        raise _explained(error, modules, counter) from error
    counted = _summary(model, weights, (args, kwargs), counter)
    return counted if device is None else annotate(counted, device)


@contextmanager
def _settings() -> Iterator[None]:
    """Attention without the fast path, whose one fused operator has no shape rule; torch's own log silent.

    What torch would log of a failing operator is told by the `NetworkError`.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled = log.disabled
    torch.backends.mha.set_fastpath_enabled(False)
    log.disabled = True
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        log.disabled = disabled


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As `calling.as_args`, for inputs that hold more than tensors."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their first name; a tied tensor appears once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _summary(model: nn.Module, weights: dict[str, Tensor], inputs: Any, counter: Counter) -> Profile:
    parameters = {_identity(tensor): tensor for tensor in model.parameters()}
    stored = {_identity(tensor): tensor for tensor in weights.values()}
    operators = tuple(counter.operators)
    return Profile(
        network=type(model).__name__,
        input_shapes=tuple(tuple(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)),
        params=sum(tensor.numel() for tensor in parameters.values()),
        trainable_params=sum(tensor.numel() for tensor in parameters.values() if tensor.requires_grad),
        macs=sum(operator.macs for operator in operators),
        other_flops=sum(operator.other_flops for operator in operators),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored.values()),
        activation_bytes=sum(operator.bytes_written for operator in operators),
        peak_activation_bytes=counter.liveness.peak,
        layers=layers_of(operators, counter.param_sizes),
        operators=operators,
        unknown=tuple(sorted(counter.unknown)),
    )


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """What two names of the same stored tensor share, be they one object or two views of one memory."""
    try:
        return (storage_key(tensor), tensor.storage_offset(), tuple(tensor.shape))
    except (RuntimeError, NotImplementedError):  # a subclass without a storage of its own
        return (id(tensor),)


def _explained(error: Exception, modules: ModuleStack, counter: Counter) -> NetworkError:
    """One sentence that names the layer, the shapes and, for what only real data decides, the way out."""
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
            "without data; take that decision out of the forward pass, or count the branch as its own module"
        )
    if isinstance(error, UnsupportedOperatorException):
        return NetworkError(
            f"{place}{given}: {counter.last_operator} has no shape rule; give it one with "
            "torch.library.register_fake, and a cost with tenfold.cost.register"
        )
    lines = str(error).strip().splitlines() or [""]
    return NetworkError(f"{place}{given}: the forward pass failed: {type(error).__name__}: {lines[0]}")
