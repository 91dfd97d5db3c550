"""Networks that another one learns from: one, checked and frozen, or several by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from tenfold.cost import call, main_output, map_inputs
from tenfold.data import Split
from tenfold.data.checks import check_weights, evaluated
from tenfold.errors import NetworkError
from tenfold.naming import described
from tenfold.training.ensemble import Ensemble
from tenfold.training.precision import device_of


def frozen_teacher(teacher: nn.Module, student: nn.Module, data: Split, device: torch.device) -> nn.Module:
    """A copy of the teacher on the device that answers and never learns; it must answer as the student does.

    Raises `NetworkError` where it does not take an example of the data, or answers in another shape.
    """
    teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    inputs = map_inputs(lambda tensor: tensor.to(device), data.select([0])[0])
    was_training = student.training
    student.eval()
    with torch.no_grad():
        wanted = main_output(call(student, inputs)).shape
        try:
            given = main_output(call(teacher, inputs)).shape
        except (RuntimeError, ValueError, TypeError) as error:
            raise NetworkError(f"the teacher does not take the data: {error}") from error
        finally:
            student.train(was_training)
    if given != wanted:
        raise NetworkError(
            f"the teacher answers {tuple(given[1:])} for an example and the network {tuple(wanted[1:])}: "
            "give a teacher of the same classes"
        )
    return teacher


def joint_teacher(teachers: Mapping[str, nn.Module], student: nn.Module, data: Split) -> nn.Module:
    """The teacher that these networks are together: the only one itself, of several their `Ensemble`.

    Each is tried on an example of the data. Raises a `NetworkError` that names the first one that does not take it,
    answers in another shape than the student (another number of classes) or not in finite numbers.
    """
    if not teachers:
        raise NetworkError("name at least one teacher")
    inputs = data.select([0])[0]

    def answer(network: nn.Module) -> torch.Tensor:
        place = device_of(network)
        return evaluated(network, map_inputs(lambda tensor: tensor.to(place), inputs))

    wanted = tuple(answer(student).shape[1:])
    for name, network in teachers.items():
        try:
            check_weights(network)
            answers = answer(network)
        except (NetworkError, TypeError, RuntimeError, ValueError) as error:
            text = str(error) if isinstance(error, NetworkError) else described(error)
            raise NetworkError(f"the teacher {name} cannot teach on these data: {text}") from error
        given = tuple(answers.shape[1:])
        if given != wanted:
            raise NetworkError(
                f"the teacher {name} answers {given} for an example and the network {wanted}: give teachers of the same "
                "classes"
            )
        if not bool(answers.isfinite().all()):
            raise NetworkError(f"the teacher {name} answers the first example with NaN or infinity")
    return Ensemble(teachers.values()) if len(teachers) > 1 else next(iter(teachers.values()))
