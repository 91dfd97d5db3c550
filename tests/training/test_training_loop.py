"""The loop: what it changes, when it stops, and what it leaves behind when something goes wrong."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.training import (
    AdamW,
    Distillation,
    Precision,
    Sgd,
    Supervised,
    TeacherOutputs,
    View,
    fastest_precision,
    fit,
    mean_loss,
    refresh_statistics,
)
from tenfold.training import fastest as fastest_module
from tenfold.training import loop as loop_module
from tenfold.training.fastest import possible_precisions

PLAIN = Precision()


def blobs(number: int = 96) -> Split:
    """Three classes of (N, 4) that a linear layer can tell apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % 3
    return Split((torch.randn(number, 4, generator=generator) + 3 * torch.eye(4)[labels], labels))


def small(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(8) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 8), middle, nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))


def trained(seed: int = 0, **options) -> tuple[nn.Module, object]:
    model = small()
    options = {"epochs": 3, "batch_size": 16, "precision": PLAIN, **options}
    return model, fit(model, blobs(), Supervised(), seed=seed, **options)


@pytest.mark.parametrize("optimizer", [Sgd(0.1), AdamW(0.02)])
def test_it_learns(optimizer: Sgd | AdamW) -> None:
    model, result = trained(epochs=10, optimizer=optimizer)
    inputs, targets = blobs().select(range(96))
    assert (model(inputs).argmax(1) == targets).float().mean() > 0.95
    assert result.losses[-1] < 0.5 * result.losses[0]


def test_same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    model = small()  # seeds by itself
    torch.manual_seed(7)
    fit(model, blobs(), Supervised(), epochs=2, batch_size=16, seed=3, precision=PLAIN)
    assert torch.equal(torch.rand(1), expected)
    again, _ = trained(seed=3, epochs=2)
    other, _ = trained(seed=4, epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model[0].weight, other[0].weight)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 6), (0.5, 3), (2.5, 15), (0, 0)])
def test_epochs_are_counted_in_steps(epochs: float, steps: int) -> None:
    _, result = trained(epochs=epochs)
    assert result.steps == steps
    assert result.epochs == pytest.approx(steps / 6)


def test_a_run_must_end_and_bounds_must_make_sense() -> None:
    for options in (
        {"epochs": None},
        {"epochs": math.inf},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"batch_size": 0},
    ):
        with pytest.raises(ValueError, match=r"seconds|epochs|batch_size"):
            trained(**options)


class FakeTime:
    """A clock that moves by a tenth of a second whenever it is read."""

    def __init__(self) -> None:
        self.reads = itertools.count()

    def monotonic(self) -> float:
        return next(self.reads) * 0.1


def test_the_clock_ends_the_run_and_the_rate_falls_to_zero_with_it(monkeypatch) -> None:
    monkeypatch.setattr(loop_module, "time", FakeTime())
    rates: list[float] = []
    build = Sgd.build

    def spying(self: Sgd, parameters, **options) -> torch.optim.Optimizer:
        rule = build(self, parameters, **options)
        rule.register_step_pre_hook(lambda rule, *_: rates.append(rule.param_groups[0]["lr"]))
        return rule

    monkeypatch.setattr(Sgd, "build", spying)
    _, result = trained(epochs=None, seconds=30.0, optimizer=Sgd(0.1))
    assert result.seconds <= 30.5  # reading the clock moves it
    assert 20 < result.steps < 100
    assert len(rates) == result.steps
    assert max(rates) == pytest.approx(0.1, rel=0.1)
    assert rates[-1] < 0.005
    peak = rates.index(max(rates))
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_whichever_bound_comes_first_holds(monkeypatch) -> None:
    monkeypatch.setattr(loop_module, "time", FakeTime())
    assert trained(epochs=1, seconds=1e6)[1].steps == 6
    assert trained(epochs=1e6, seconds=3.0)[1].steps < 10
    assert trained(epochs=1, seconds=0.0)[1].steps == 0


class Exploding(Supervised):
    """A loss that is not finite from the fourth step on."""

    calls = 0

    def __call__(self, outputs, batch):
        self.calls += 1
        return super().__call__(outputs, batch) * (math.nan if self.calls > 3 else 1.0)


def test_divergence_names_step_and_rate_and_leaves_good_weights() -> None:
    model = small()
    with pytest.raises(NetworkError, match=r"nan at step 4 with learning rate 0\.3"):
        fit(model, blobs(), Exploding(), epochs=5, batch_size=16, precision=PLAIN, optimizer=Sgd(0.3))
    assert all(p.isfinite().all() for p in model.parameters())
    assert not model.training


def test_real_divergence_is_caught() -> None:
    model = small(norm=False)
    with pytest.raises(NetworkError, match="diverged"):
        fit(model, blobs(), Supervised(), epochs=500, batch_size=16, precision=PLAIN, optimizer=Sgd(1e8))
    assert all(p.isfinite().all() for p in model.parameters())


def test_interrupt_comes_through_and_leaves_a_whole_network() -> None:
    model = small()

    def stop(fraction: float, text: str) -> None:
        if fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, blobs(), Supervised(), epochs=5, batch_size=16, precision=PLAIN, progress=stop)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert model(torch.zeros(2, 4)).isfinite().all()


def test_what_is_frozen_stays() -> None:
    model = small()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    fit(model, blobs(), Supervised(), epochs=1, batch_size=16, precision=PLAIN, hold_norms=True)
    after = model.state_dict()
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(before["4.weight"], after["4.weight"])
    model.requires_grad_(False)
    with pytest.raises(NetworkError, match="no parameter that can be trained"):
        fit(model, blobs(), Supervised(), epochs=1)


def test_channels_last_is_undone_at_the_end() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    split = Split((torch.randn(8, 2, 6, 6), torch.arange(8) % 4))
    fit(model, split, Supervised(), epochs=1, precision=Precision(channels_last=True, bf16=True))
    assert model[0].weight.is_contiguous()
    assert model[0].weight.dtype == torch.float32


def test_distilling_reaches_the_teacher_and_shows_all_views_what_they_are() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 3))
    student = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 3))
    split = Split((torch.randn(64, 2, 3, 3), torch.arange(64) % 3))
    outputs = TeacherOutputs(teacher, split, precision=PLAIN)
    objective = Distillation(outputs, alpha=0.0, views=tuple(View))
    before = mean_loss(student, split, objective, precision=PLAIN)
    fit(
        student,
        split,
        objective,
        epochs=60,
        batch_size=16,
        precision=PLAIN,
        optimizer=AdamW(0.02, weight_decay=0.0),
    )
    assert mean_loss(student, split, objective, precision=PLAIN) < 1e-3 * before
    assert outputs.asked == len(View) * 64  # every example once in each view, however many epochs


def test_refreshed_statistics_are_those_of_the_data() -> None:
    model, split = small(), blobs()
    model[1].running_mean.fill_(100.0)
    assert refresh_statistics(model, split, batch_size=96) == 96
    hidden = model[0](split.select(range(96))[0])
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))
    assert model[1].momentum == 0.1
    assert not model.training
    assert refresh_statistics(nn.Linear(4, 3), split) == 0


def test_statistics_that_cannot_be_measured_stay(monkeypatch) -> None:
    model = small()
    before = model[1].running_mean.clone()
    assert refresh_statistics(model, blobs(), deadline=0.0) == 0
    assert torch.equal(model[1].running_mean, before)
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    refresh_statistics(model, blobs())
    assert torch.equal(model[1].running_mean, before)


def test_precisions_on_offer_fit_the_network() -> None:
    convolution, image = nn.Conv2d(1, 1, 1), torch.zeros(2, 1, 4, 4)
    assert len(possible_precisions(convolution, image)) == 4
    assert possible_precisions(convolution, image)[0] == PLAIN
    assert possible_precisions(nn.Linear(4, 4), torch.zeros(2, 4)) == [PLAIN, Precision(bf16=True)]
    assert possible_precisions(nn.Linear(4, 4).double(), torch.zeros(2, 4).double()) == [PLAIN]


def test_the_fastest_is_taken_and_bf16_must_be_worth_it(monkeypatch) -> None:
    def choose(seconds: dict[Precision, float]) -> Precision:
        monkeypatch.setattr(fastest_module, "_step_seconds", lambda m, x, p, **_: seconds.get(p, math.inf))
        return fastest_precision(nn.Conv2d(1, 1, 1), torch.zeros(2, 1, 4, 4))

    last, half, both = Precision(True, False), Precision(False, True), Precision(True, True)
    assert choose({PLAIN: 1.0, last: 0.9, half: 0.5, both: 0.45}) == both
    assert choose({PLAIN: 1.0, last: 0.9, half: 0.8}) == last
    assert choose({PLAIN: 1.0, last: 2.0}) == PLAIN


def test_choosing_a_precision_changes_nothing_and_drops_one_that_fails() -> None:
    class NoHalf(nn.Module):
        """An operator that exists in float32 alone, and in bf16 gives no number."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return self.norm(y.float()) * (math.nan if y.dtype == torch.bfloat16 else 1.0)

    model = NoHalf()
    before = copy.deepcopy(model.state_dict())
    assert fastest_precision(model, torch.randn(8, 4)) == PLAIN
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_pace_leaves_out_slow_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    seconds = [0.0]

    class Slow(Supervised):
        """Its first five steps take a second each by the clock that the loop reads, all others a hundredth."""

        def __call__(self, outputs, batch):
            seconds[0] += 1.0 if next(clock) < 5 else 0.01
            return super().__call__(outputs, batch)

    monkeypatch.setattr(loop_module.time, "monotonic", lambda: seconds[0])
    result = fit(small(), blobs(), Slow(), epochs=2, batch_size=8, precision=PLAIN)
    assert result.steps == 24
    assert result.pace == pytest.approx(0.01)
    assert result.seconds == pytest.approx(5 + 19 * 0.01)
