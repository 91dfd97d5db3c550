"""The losses that a network is taught by: hard labels, a teacher's outputs, a teacher's hidden layers.

Shapes: N examples, C classes, D channels, S positions of a feature map.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tenfold.errors import DataError
from tenfold.training.precision import sent

IGNORED = -100  # a label that PyTorch's cross-entropy leaves out


def hard_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Against the data's own targets: cross-entropy where they are class indices, mean squared error where float.

    Class indices (N,) go with outputs (N, C); (N, S…) go with outputs (N, C, S…). Targets are checked where they lie:
    on the processor that waits for no GPU.
    """
    if targets.is_floating_point():
        if targets.numel() != outputs.numel():
            raise DataError(
                f"targets have shape {tuple(targets.shape)} but the network answers {tuple(outputs.shape)}"
            )
        return F.mse_loss(outputs.float(), sent(targets, outputs.device).float().reshape(outputs.shape))
    if outputs.ndim < 2 or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        raise DataError(
            f"class targets of shape {tuple(targets.shape)} do not go with outputs {tuple(outputs.shape)}: "
            "for outputs (N, C) they must be (N,)"
        )
    low, high = int(targets.min()), int(targets.max())
    if high >= outputs.shape[1] or (low < 0 and low != IGNORED):
        raise DataError(
            f"the label {high if high >= outputs.shape[1] else low} is out of range: "
            f"the network tells {outputs.shape[1]} classes apart, 0 to {outputs.shape[1] - 1}"
        )
    return F.cross_entropy(outputs.float(), sent(targets, outputs.device).long())


def soft_loss(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(softmax(teacher / T) ‖ softmax(outputs / T)), mean over N; logits (N, C) or (N, C, S…).

    Hinton, Vinyals and Dean, 2015, "Distilling the Knowledge in a Neural Network", section 2: the factor T²
    keeps the size of the gradient independent of T.
    """
    log_student = (outputs.float() / temperature).log_softmax(dim=1)
    log_teacher = (teacher.float() / temperature).log_softmax(dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * divergence.mean()


def distillation_loss(
    outputs: Tensor, teacher: Tensor, targets: Tensor, *, temperature: float, alpha: float
) -> Tensor:
    """alpha·hard + (1 − alpha)·soft. With float targets the soft part is the squared distance to the teacher."""
    if targets.is_floating_point():
        soft = F.mse_loss(outputs.float(), teacher.float())
    else:
        soft = soft_loss(outputs, teacher, temperature)
    return soft if alpha == 0 else alpha * hard_loss(outputs, targets) + (1.0 - alpha) * soft


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of feature maps, each position scaled to unit length over its channels.

    Channels are dimension 1 of (N, D) and (N, D, H, W), and the last of (N, S, D). The hint of FitNets (Romero
    et al., 2015, equation 3) without its dependence on scale; per position it is 2 − 2·cos(student, teacher),
    so 0 where they point alike and 4 where they are opposed.
    """
    dim = channel_dim(student)
    student, teacher = (F.normalize(f.float(), dim=dim) for f in (student, teacher))
    return (student - teacher).square().sum(dim=dim).mean()


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the maps of where a layer is active: Σ over channels of squares, at unit length.

    Zagoruyko and Komodakis (2017), "Paying More Attention to Attention", equation 2 with p = 2 and the distance
    squared. Widths may differ; positions may not.
    """
    maps = (f.float().square().sum(dim=channel_dim(f)).flatten(1) for f in (student, teacher))
    ours, theirs = (F.normalize(m, dim=1) for m in maps)
    return (ours - theirs).square().sum(dim=1).mean()


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How the examples of a batch lie to each other: Huber's loss between distances, in units of their means.

    Park et al. (2019), "Relational Knowledge Distillation", equations 5 and 6. Widths may differ; needs two examples.
    """
    ours, theirs = (_relative_distances(f.float().flatten(1)) for f in (student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def _relative_distances(points: Tensor) -> Tensor:
    """The distances of all pairs of rows (N, D), (N·(N−1)/2,), over their mean."""
    distances = F.pdist(points)
    return distances / distances.mean().clamp_min(1e-12)


def channel_dim(feature: Tensor) -> int:
    """Where the channels of a feature map are: last for sequences (N, S, D), else dimension 1."""
    return 2 if feature.ndim == 3 else 1
