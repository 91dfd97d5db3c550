"""Networks that another one learns from: one, checked and frozen, or several by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from tenfold.cost import Inputs, map_inputs
from tenfold.data import Split
from tenfold.data.checks import check_weights, evaluated
from tenfold.errors import NetworkError
from tenfold.naming import described
from tenfold.training.ensemble import Ensemble
from tenfold.training.precision import device_of


def frozen_teacher(teacher: nn.Module, student: nn.Module, data: Split, device: torch.device) -> nn.Module:
    """A copy of the teacher on the device that answers and never learns; it must answer as the student does.

    Raises as `joint_teacher` does.
    """
    teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    inputs = data.select([0])[0]
    _require_fit(teacher, _answer(student, inputs), inputs)
    return teacher


def joint_teacher(teachers: Mapping[str, nn.Module], student: nn.Module, data: Split) -> nn.Module:
    """The teacher that these networks are together: the only one itself, of several their `Ensemble`.

    Each is tried on an example of the data. Raises a `NetworkError` that names the first one that does not take it,
    answers in another shape than the student (another number of classes) or not in finite numbers.
    """
    if not teachers:
        raise NetworkError("name at least one teacher")
    inputs = data.select([0])[0]
    wanted = _answer(student, inputs)
    for name, network in teachers.items():
        _require_fit(network, wanted, inputs, name)
    return Ensemble(teachers.values()) if len(teachers) > 1 else next(iter(teachers.values()))


def _require_fit(teacher: nn.Module, wanted: torch.Tensor, inputs: Inputs, name: str = "") -> None:
    """Raise a `NetworkError` unless the teacher answers these inputs in the shape `wanted`, in finite numbers."""
    who = f"the teacher {name}".rstrip()
    try:
        check_weights(teacher)
        answers = _answer(teacher, inputs)
    except (NetworkError, TypeError, RuntimeError, ValueError) as error:
        text = str(error) if isinstance(error, NetworkError) else described(error)
        raise NetworkError(f"{who} cannot teach on these data: {text}") from error
    given, own = tuple(answers.shape[1:]), tuple(wanted.shape[1:])
    if given != own:
        raise NetworkError(
            f"{who} answers {given} for an example and the network {own}: give a teacher of the same classes"
        )
    if not bool(answers.isfinite().all()):
        raise NetworkError(f"{who} answers the first example with NaN or infinity")


def _answer(network: nn.Module, inputs: Inputs) -> torch.Tensor:
    place = device_of(network)
    return evaluated(network, map_inputs(lambda tensor: tensor.to(place), inputs))
