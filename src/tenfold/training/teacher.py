"""A network that another one learns from while it is trained from labels."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tenfold.cost import call, main_output, map_inputs
from tenfold.data import Split
from tenfold.errors import NetworkError


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
