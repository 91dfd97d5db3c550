"""Losses that are read some steps late: the same training, and nothing kept that a loss has yet to tell of."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from blob_networks import blobs, small
from torch import Tensor, nn

from tenfold.training import AdamW, Diverged, FitResult, Keeper, Precision, Supervised, fit
from tenfold.training import loop as loop_module
from tenfold.training import unread as unread_module
from tenfold.training.unread import Unread

CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trained(model: nn.Module, objective: Supervised | None = None, **options) -> FitResult:
    options = {"epochs": 4.0, "batch_size": 16, "seed": 3, "optimizer": AdamW(0.02), **options}
    return fit(model, blobs(), objective or Supervised(), precision=Precision(), **options)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow a step is, it runs ahead as far as its window lets it."""
    monkeypatch.setattr(unread_module, "AHEAD_SECONDS", 1e9)


class Exploding(Supervised):
    """A loss that is not finite in one step alone, which a later one does not tell of."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def __call__(self, outputs, batch):
        self.left -= 1
        return super().__call__(outputs, batch) * (math.inf if self.left == 0 else 1.0)


def test_losses_come_in_order_with_their_weights_and_as_many_as_asked_stay() -> None:
    unread = Unread(CPU, window=5)
    for step in range(5):
        unread.add(torch.tensor(float(step)), {"step": torch.tensor(step)} if step % 2 == 0 else None)
    assert len(unread) == 5
    assert [(value, state is not None) for value, state in unread.read(2)] == [
        (0.0, True),
        (1.0, False),
        (2.0, True),
    ]
    assert list(unread.read(2)) == []
    assert [value for value, _ in unread.read()] == [3.0, 4.0]


def test_how_many_stay_unread_is_bounded_in_number_and_in_time() -> None:
    assert Unread(CPU).window == 1
    assert Unread(torch.device("cuda")).window == unread_module.WINDOW
    unread = Unread(CPU, window=6)
    seconds = unread_module.AHEAD_SECONDS
    assert [unread.fitting(s) for s in (0.0, seconds / 100, seconds / 3.5, 2 * seconds)] == [0, 5, 3, 0]
    with pytest.raises(ValueError, match="window must be at least 1"):
        Unread(CPU, window=0)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("window", [2, 7, 100])
def test_it_is_the_same_training(window: int) -> None:
    model, other = small(), small()
    wanted, found = trained(model), trained(other, window=window)
    assert (found.steps, found.losses) == (wanted.steps, wanted.losses)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize(("at", "good"), [(1, 0), (2, 0), (6, 0), (8, 5), (24, 20)])
def test_a_loss_that_is_not_finite_is_found_by_its_step_and_nothing_after_it_is_kept(
    at: int, good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "GOOD_STATE_EVERY", 5)
    ends = []
    for window in (1, 8):
        model = small()
        with pytest.raises(Diverged, match=f"the loss is inf at step {at} with learning rate") as error:
            trained(model, Exploding(at), window=window)
        assert error.value.result.steps == good
        ends.append((error.value.result.losses, model.state_dict()))
    (losses, weights), (late_losses, late_weights) = ends
    assert losses == late_losses
    assert all(torch.equal(late_weights[name], value) for name, value in weights.items())


@pytest.mark.usefixtures("ahead")
def test_what_is_written_has_a_finite_loss_for_each_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter(range(1, 100))
    monkeypatch.setattr(Keeper, "due", lambda self: next(asked) % 3 == 0)
    path = tmp_path / "kept.safetensors"
    with pytest.raises(Diverged, match="step 5"):
        trained(small(), Exploding(5), window=8, keeper=Keeper(path, {}))
    assert Keeper(path, {}).holds_a_run
    model, whole = small(), small()
    result, wanted = trained(model, window=8, keeper=Keeper(path, {})), trained(whole)
    assert result.steps_before == 3
    assert result.losses == wanted.losses
    assert all(torch.equal(model.state_dict()[name], value) for name, value in whole.state_dict().items())


class Queue:
    """A GPU by a clock of its own: steps of `seconds` each, one after the other, that take no time to be started."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.free = seconds, 0.0, 0.0
        queue = self

        class Queued(Unread):
            def __init__(self, device: torch.device, window: int | None) -> None:
                super().__init__(device, window)
                self.ends: deque[float] = deque()

            def add(self, loss: Tensor, state: dict[str, Tensor] | None = None) -> None:
                queue.now += 1e-3
                queue.free = max(queue.free, queue.now) + queue.seconds
                self.ends.append(queue.free)
                super().add(loss, state)

            def read(self, most: int = 0) -> Iterator[tuple[float, dict[str, Tensor] | None]]:
                for found in super().read(most):
                    queue.now = max(queue.now, self.ends.popleft())
                    yield found

        self.unread = Queued


@pytest.mark.parametrize("bound", ["until", "seconds"])
@pytest.mark.parametrize("seconds", [0.01, 0.04, 0.5])
def test_no_clock_is_fooled_by_work_that_is_queued(
    seconds: float, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(seconds)
    monkeypatch.setattr(loop_module, "Unread", queue.unread)
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: queue.now)
    told: list[float] = []
    epochs = None if bound == "seconds" else 1000.0
    result = trained(
        small(),
        window=8,
        epochs=epochs,
        progress=lambda fraction, text: told.append(queue.free - queue.now),
        **{bound: 3.0},
    )
    assert queue.free <= queue.now <= 3.0  # all was read, in time
    assert result.steps >= 3.0 / (seconds + 1e-3) - 3
    assert result.pace == pytest.approx(seconds, abs=2e-3)
    assert max(told) <= unread_module.AHEAD_SECONDS + 2 * seconds
    assert (max(told) > seconds) == (seconds < unread_module.AHEAD_SECONDS)


@GPU
def test_a_gpu_that_is_ahead_learns_the_same_and_tells_the_same_losses() -> None:
    found = []
    for window in (1, None):
        model = small().cuda()
        result = trained(model, window=window, epochs=40.0, hold_norms=True, graph=False)
        found.append((result.losses, torch.cat([p.detach().flatten().cpu() for p in model.parameters()])))
    (losses, weights), (late_losses, late_weights) = found
    assert late_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(late_weights, weights, rtol=1e-3, atol=1e-4)
    broken = small().cuda()
    with pytest.raises(Diverged, match="the loss is inf at step 60"):
        trained(broken, Exploding(60), epochs=40.0)
    assert all(p.isfinite().all() for p in broken.parameters())
