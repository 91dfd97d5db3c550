"""Losses and schedule against formulas written out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tenfold.errors import DataError
from tenfold.training import distillation_loss, feature_loss, hard_loss, soft_loss, warmup_cosine


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_loss_is_t_squared_times_the_divergence(temperature: float) -> None:
    student, teacher = normal(5, 3), normal(5, 3, seed=1)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = [math.exp(v / temperature) for v in t.tolist()]
        q = [math.exp(v / temperature) for v in s.tolist()]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) * temperature**2 / 5
    assert soft_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_soft_loss_is_zero_and_flat_at_the_teacher() -> None:
    teacher = normal(4, 6)
    student = teacher.clone().requires_grad_()
    loss = soft_loss(student, teacher, 4.0)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert student.grad.abs().max() < 1e-6


def test_gradient_keeps_its_size_as_the_temperature_grows() -> None:
    """Hinton et al., section 2.1: for large T the gradient tends to (s − t) / C for logits of zero mean."""
    student, teacher = (z - z.mean(1, keepdim=True) for z in (normal(1, 8), normal(1, 8, seed=1)))
    student.requires_grad_()
    soft_loss(student, teacher, 1000.0).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 8, atol=2e-3, rtol=0)


def test_alpha_mixes_and_its_ends_are_pure() -> None:
    student, teacher, labels = normal(5, 3), normal(5, 3, seed=1), torch.tensor([0, 1, 2, 0, 1])

    def mixed(alpha: float) -> float:
        return distillation_loss(student, teacher, labels, temperature=2.0, alpha=alpha).item()

    hard = -sum(row.log_softmax(0)[label] for row, label in zip(student, labels, strict=True)).item() / 5
    assert mixed(1.0) == pytest.approx(hard, rel=1e-5)
    assert mixed(0.0) == pytest.approx(soft_loss(student, teacher, 2.0).item(), rel=1e-6)
    assert mixed(0.3) == pytest.approx(0.3 * mixed(1.0) + 0.7 * mixed(0.0), rel=1e-5)


def test_targets_are_checked_where_they_lie_not_where_the_outputs_are() -> None:
    outputs = torch.zeros(2, 3, device="meta")  # which nothing can be asked of
    assert hard_loss(outputs, torch.tensor([0, 2])).device.type == "meta"
    assert hard_loss(outputs, torch.zeros(2, 3)).device.type == "meta"
    with pytest.raises(DataError, match="the label 3 is out of range"):
        hard_loss(outputs, torch.tensor([0, 3]))


def test_float_targets_are_regressed() -> None:
    outputs, teacher, targets = normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2)
    expected = 0.25 * (outputs - targets).square().mean() + 0.75 * (outputs - teacher).square().mean()
    got = distillation_loss(outputs, teacher, targets, temperature=4.0, alpha=0.25)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    assert hard_loss(normal(4, 1), targets[:, 0]).ndim == 0  # (N,) against (N, 1)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1, 3]), "label 3 is out of range"),
        (torch.tensor([0, -1, 2]), "label -1 is out of range"),
        (torch.zeros(3, 2, dtype=torch.long), "do not go with outputs"),
        (torch.zeros(3, 2), "targets have shape"),
    ],
)
def test_targets_that_do_not_fit_are_named(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hard_loss(torch.zeros(3, 3), targets)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 5), (3, 7, 4)])
def test_feature_loss_ignores_scale_and_sees_direction(shape: tuple[int, ...]) -> None:
    feature = normal(*shape)
    assert feature_loss(feature, 7.0 * feature).item() == pytest.approx(0.0, abs=1e-6)
    assert feature_loss(feature, -feature).item() == pytest.approx(4.0, rel=1e-5)
    other, dim = normal(*shape, seed=1), 2 if len(shape) == 3 else 1
    cosine = torch.nn.functional.cosine_similarity(feature, other, dim=dim)
    assert feature_loss(feature, other).item() == pytest.approx((2 - 2 * cosine).mean().item(), rel=1e-5)


@given(st.floats(-1, 2), st.floats(0, 0.9), st.floats(0, 1))
def test_schedule_stays_between_zero_and_one(done: float, warmup: float, floor: float) -> None:
    assert 0.0 <= warmup_cosine(done, warmup, floor) <= 1.0


def test_schedule_by_hand() -> None:
    assert warmup_cosine(0.0) == 0.0
    assert warmup_cosine(0.025) == pytest.approx(0.5)
    assert warmup_cosine(0.05) == pytest.approx(1.0)
    assert warmup_cosine(0.525) == pytest.approx(0.5)
    assert warmup_cosine(1.0) == pytest.approx(0.0)
    assert warmup_cosine(1.0, floor=0.1) == pytest.approx(0.1)
    assert warmup_cosine(0.0, warmup=0.0) == 1.0
    with pytest.raises(ValueError, match="warmup"):
        warmup_cosine(0.5, warmup=1.0)
