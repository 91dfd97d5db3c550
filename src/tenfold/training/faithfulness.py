"""Which views keep an example what it is: decided by asking the teacher, since a mirrored shoe is a shoe, a "2" not."""

from __future__ import annotations

import math
import time

from tenfold.data import Split
from tenfold.training.outputs import TeacherOutputs
from tenfold.training.views import View, is_image, seen

ASKED = 128
KEPT = 0.95  # share of the accuracy on plain images that must be left in another view


def faithful_views(teacher: TeacherOutputs, split: Split, *, deadline: float = math.inf) -> tuple[View, ...]:
    """The views to teach in: always the identity, and the mirror image and small shifts where they mean the same.

    Only for float images (N, C, H, W) with class labels (N,). A view is kept where, on 128 training images, the teacher
    finds the labelled class in at least 95% as many images in it as in plain ones. What it found is kept with the
    teacher. Past `deadline` (`time.monotonic()`) it decides by what it has asked.
    """
    if teacher.faithful is not None:
        return teacher.faithful
    right, whole = dict.fromkeys(View, 0), True
    drawn = split.order(teacher.seed)[:ASKED]
    for number, index in enumerate(drawn.split(teacher.batch_size)):
        if number and time.monotonic() >= deadline:
            whole = False
            break
        inputs, targets = split.select(index)
        if not is_image(inputs) or targets.is_floating_point() or targets.ndim != 1:
            return (View.IDENTITY,)
        for view in right:
            outputs = teacher.ask(seen(inputs, view))
            if outputs.ndim != 2:
                return (View.IDENTITY,)
            right[view] += int((outputs.argmax(dim=1) == targets).sum())
    plain = right[View.IDENTITY]
    found = tuple(v for v in View if v is View.IDENTITY or 0 < KEPT * plain <= right[v])
    if whole:
        teacher.faithful = found
    return found
