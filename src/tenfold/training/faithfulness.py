"""Which views keep an example what it is, and whether mixed ones say anything: decided by asking the teacher.

A mirrored shoe is a shoe, a "2" not.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from tenfold.data import Split
from tenfold.training.mixing import Mixer
from tenfold.training.outputs import TeacherOutputs
from tenfold.training.views import View, is_image, seen

ASKED = 128
KEPT = 0.95  # share of the accuracy on plain images that must be left in another view
MIXED, MIXED_TOGETHER = 256, 64  # images
LEAST_SHARE = 0.2  # of a mixture that is to tell of both images
TOLD = 0.7  # of the divergence of the mean answer is what answers to mixtures may have
TINY = 1e-12  # a probability whose logarithm is finite


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


def answers_mixed(teacher: TeacherOutputs, split: Split) -> bool:
    """Whether the teacher's answers to two mixed images tell of both, as a network's do that has learnt from such.

    Of classes by float images, as `may_mix` asks. Answers to mixtures of 256 training images, of which either has a
    fifth or more, are held against the answers to the two, mixed by their shares as labels are (Zhang et al., 2018,
    "mixup", eq. 1): their mean KL divergence must be under 0.7 times that of the mean answer, which tells of no image.
    It was 0.40 to 0.46 times for three networks trained on mixed images of CIFAR-10, which heal better with them, and
    1.3 times for a ResNet-56 trained on plain ones of Fashion-MNIST, which heals worse (benchmarks/compress/mixing.json).
    """
    if teacher.tells_of_mixed is None:
        wanted, answers = [], []
        mixer = Mixer(teacher.device, teacher.seed)
        drawn = split.order(teacher.seed)[:MIXED]
        for number, index in enumerate(drawn.split(min(teacher.batch_size, MIXED_TOGETHER))):
            inputs, _ = split.select(index)
            if not is_image(inputs):
                return False
            images, shares = mixer.mixed(inputs, number)
            plain = teacher.ask(inputs)
            if plain.ndim != 2:
                return False
            own = plain.softmax(dim=1)
            share = shares.cpu()[:, None]
            told = (share > LEAST_SHARE) & (share < 1 - LEAST_SHARE)
            wanted.append((share * own + (1 - share) * own.roll(1, 0))[told[:, 0]])
            answers.append(teacher.ask(images).log_softmax(dim=1)[told[:, 0]])
        labels = torch.cat(wanted).clamp_min(TINY)
        mean = labels.mean(dim=0, keepdim=True).log().expand_as(labels)
        found, nothing = (_divergence(labels, logs) for logs in (torch.cat(answers), mean))
        teacher.tells_of_mixed = found < TOLD * nothing  # False too where there was nothing to tell by
    return teacher.tells_of_mixed


def _divergence(wanted: Tensor, logs: Tensor) -> float:
    """The mean KL divergence of answers, given as logarithms, from probabilities (N, classes)."""
    return float((wanted * (wanted.log() - logs)).sum(dim=1).mean())
