"""Counting: one forward pass on tensors without data, every operator attributed to the layer that called it.

Nothing is computed and no weight is copied: each tensor is replaced by one that has only a shape, a type and a
device (torch's FakeTensor on the CPU, so that the network takes the code paths it takes there, attention
included). A dispatch mode sees every operator below autograd, so functional calls, einsum and custom
modules are counted like built-in ones.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import flex_attention
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map_only

from tenfold.cost.counter import Counter, tensors_in
from tenfold.cost.device import Device
from tenfold.cost.device_prediction import annotate
from tenfold.cost.experts import active_params
from tenfold.cost.failures import explained
from tenfold.cost.fakes import Fakes, Reals, Standins
from tenfold.cost.fusion import fused_peak
from tenfold.cost.liveness import storage_key
from tenfold.cost.modules import ModuleStack, unchanged
from tenfold.cost.packed import bytes_of, packed_of, stored_bytes, unpacked
from tenfold.cost.record import Profile, layers_of, live_tensors
from tenfold.errors import NetworkError

UNCOMPILED = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"


def profile(model: nn.Module, inputs: Any, *, device: Device | None = None, real: bool = False) -> Profile:
    """Count what one forward pass of `model` on `inputs` costs, in eval mode, without changing it.

    `inputs` is a tensor, a tuple or list of positional arguments or a dict of keyword arguments, of any structure;
    only shapes and types matter, so tensors and networks on the meta device will do. With a `device` whose machine
    is known, every layer gets its predicted milliseconds and what binds it. Raises `NetworkError` if the forward
    pass fails, naming the layer.

    With `real=True` the forward pass runs once on the tensors themselves: for networks whose control flow depends
    on values. So does a network that keeps quantised weights packed, whose operators run in no other way.
    """
    if not isinstance(model, nn.Module):
        raise NetworkError(f"a network must be a torch.nn.Module, not {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if isinstance(model, torch.jit.ScriptModule):
        raise NetworkError(
            f"{type(model).__name__}: a scripted network hides its layers; count the module that it was made of"
        )
    args, kwargs = _arguments(inputs)
    weights = _weights(model)
    for name, tensor in weights.items():
        if is_lazy(tensor):
            raise NetworkError(
                f"{name}: not initialised yet (a lazy layer); run the network once, then count it"
            )
    packed = [module for module in model.modules() if packed_of(module)]
    real = real or bool(packed)
    place = _device([*weights.values(), *tree_leaves((args, kwargs))])
    standins: Standins = Reals() if real else Fakes(place)
    modules = ModuleStack(model)
    counter = Counter(standins, modules)
    try:
        with unchanged(model), _settings(place), torch.no_grad(), standins.mode:
            replaced = {name: counter.add_weight(tensor, name) for name, tensor in weights.items()}
            for module in packed:
                counter.add_packed(module)
            args, kwargs = tree_map_only(Tensor, standins.of, (args, kwargs))
            counter.add_inputs(tree_leaves((args, kwargs)))
            for module in model.modules():
                module.training = False  # not .eval(), which a network may have given side effects
            with modules, counter, counter.causality:
                results = counter.liveness.numbers(tensors_in(functional_call(model, replaced, args, kwargs)))
    except Exception as error:
        raise explained(error, modules, counter, real=real) from error
    counted = _summary(model, weights, (args, kwargs), counter, results)
    return counted if device is None else annotate(counted, device)


def _device(leaves: Iterable[Any]) -> torch.device:
    """Where the network stands: the first device of its tensors that is not meta, or else the CPU."""
    devices = (leaf.device for leaf in leaves if isinstance(leaf, Tensor))
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


@contextmanager
def _settings(device: torch.device) -> Iterator[None]:
    """What torch must do otherwise while it is watched, put back on leaving.

    The fast path of attention is followed on the CPU alone, whose calls `spelled` knows; flexible attention runs
    uncompiled; torch's own log is silent, for what it would say of a failing operator is in the `NetworkError`.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    uncompiled = getattr(flex_attention, UNCOMPILED, False)  # older versions have no such switch
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled = log.disabled
    torch.backends.mha.set_fastpath_enabled(fast_path and device.type == "cpu")
    setattr(flex_attention, UNCOMPILED, True)
    log.disabled = True
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        setattr(flex_attention, UNCOMPILED, uncompiled)
        log.disabled = disabled


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As `calling.as_args`, for inputs that hold more than tensors."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their first name; a tied tensor appears once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _summary(
    model: nn.Module, weights: dict[str, Tensor], inputs: Any, counter: Counter, results: Collection[int]
) -> Profile:
    parameters = {_identity(tensor): tensor for tensor in model.parameters()}
    stored = {_identity(tensor): tensor for tensor in weights.values()}
    packed = [inner for module in model.modules() for inner in packed_of(module)]
    packed_params = sum(tensor.numel() for inner in packed for tensor in unpacked(inner))
    params = sum(tensor.numel() for tensor in parameters.values()) + packed_params
    operators = tuple(counter.operators)
    return Profile(
        network=type(model).__name__,
        input_shapes=tuple(tuple(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)),
        params=params,
        trainable_params=sum(tensor.numel() for tensor in parameters.values() if tensor.requires_grad),
        macs=sum(operator.macs for operator in operators),
        other_flops=sum(operator.other_flops for operator in operators),
        weight_bytes=sum(map(stored_bytes, stored.values())) + bytes_of(packed),
        activation_bytes=sum(operator.bytes_written for operator in operators),
        peak_activation_bytes=counter.liveness.peak,
        layers=layers_of(operators, counter.param_sizes),
        operators=operators,
        unknown=tuple(sorted(counter.unknown)),
        active_params=active_params(model, params),
        fused_peak_activation_bytes=fused_peak(
            operators, counter.storages_used, counter.liveness.sizes, results
        ),
        peak_tensors=live_tensors(
            counter.liveness.at_peak(), counter.liveness.sizes, operators, counter.storages_used
        ),
        views=counter.views,
        module_calls=counter.module_calls,
    )


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """What two names of the same stored tensor share, be they one object or two views of one memory."""
    try:
        return (storage_key(tensor), tensor.storage_offset(), tuple(tensor.shape))
    except (RuntimeError, NotImplementedError):  # a subclass without a storage of its own
        return (id(tensor),)
