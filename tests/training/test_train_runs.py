"""Whole runs: what they learn, what they leave behind, and how they go on after they were stopped."""

import itertools
import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tenfold.cli import main
from tenfold.compress import load, save
from tenfold.cost import wilson_interval
from tenfold.data import Splits
from tenfold.errors import DataError, NetworkError, OutputError
from tenfold.models import create
from tenfold.training import Augmentation, Precision, Sgd, TrainingRecipe, fitted, loop, train, trainer
from tenfold.training.checkpoint import CHECKPOINT, read_checkpoint
from tenfold.training.recipes import Arithmetic
from tenfold.training.schedules import warmup_cosine
from tenfold.training.stepper import Stepper

RECIPE = TrainingRecipe(
    epochs=6,
    batch_size=16,
    optimizer=Sgd(0.05),
    augmentation=Augmentation(padding=1, flip=True),
    average=0.9,
    arithmetic=Arithmetic.FP32,
)


def stripes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 8, 8) of three classes: bright rows, bright columns, neither."""
    generator = torch.Generator().manual_seed(seed)
    pixels, labels = 0.5 * torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3
    pixels[labels == 0, :, ::2] += 1
    pixels[labels == 1, :, :, ::2] += 1
    return pixels, labels


def splits() -> Splits:
    return Splits(stripes(96, 0), stripes(30, 1), stripes(30, 2))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [t.clone() for t in model.state_dict().values()]


def test_a_run_learns_and_leaves_its_result(tmp_path: Path) -> None:
    model = network()
    result = train(model, splits(), RECIPE, name="small", folder=tmp_path)
    assert result.complete
    assert result.steps == 36
    assert result.test is not None
    assert result.test.value > 0.9
    right = round(30 * result.test.value)
    assert result.test == wilson_interval(right, 30)
    assert [point.epoch for point in result.curve] == [1, 2, 3, 4, 5, 6]
    assert result.curve[-1].loss < 0.5 * result.curve[0].loss
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["test"] == result.test.to_json()
    assert stored["environment"]["versions"]["torch"] == version("torch")
    assert stored["recipe"] == RECIPE.to_dict()
    again = network(1)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    inputs, labels = stripes(30, 2)
    assert int((again.eval()(inputs).argmax(1) == labels).sum()) == right
    assert not model.training


def test_the_same_seed_gives_the_same_weights_and_another_other_ones() -> None:
    first, second, third = network(), network(), network()
    before = torch.get_rng_state()
    train(first, splits(), RECIPE, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    train(second, splits(), RECIPE, seed=5)
    train(third, splits(), RECIPE, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(first), weights(third), strict=True))


def test_a_teacher_is_learnt_from_and_left_as_it_was(tmp_path: Path) -> None:
    teacher = network(7)
    train(teacher, splits(), RECIPE)
    with torch.no_grad():  # from now on it takes every class for the next one
        for tensor in (teacher[-1].weight, teacher[-1].bias):
            tensor.copy_(tensor.roll(1, 0).clone())
    before = weights(teacher.train())
    recipe = replace(RECIPE, teaching=1.0, temperature=1.0)
    taught = network()
    result = train(taught, splits(), recipe, teacher=teacher, folder=tmp_path)
    assert result.taught
    assert teacher.training
    assert all(torch.equal(a, b) for a, b in zip(before, weights(teacher), strict=True))
    inputs, labels = stripes(30, 2)
    assert int((taught(inputs).argmax(1) == (labels + 1) % 3).sum()) > 24
    with pytest.raises(OutputError, match="different teacher"):
        train(network(), splits(), recipe, teacher=network(8), folder=tmp_path, resume=True)
    with pytest.raises(NetworkError, match="give a teacher of the same classes"):
        train(network(), splits(), recipe, teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    with pytest.raises(NetworkError, match=r"the teacher cannot teach on these data: .*raised"):
        train(network(), splits(), recipe, teacher=nn.Linear(3, 3))
    with torch.no_grad():
        teacher[-1].bias[0] = float("nan")
    with pytest.raises(NetworkError, match=r"the teacher cannot teach .* holds NaN"):
        train(network(), splits(), recipe, teacher=teacher)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have Ctrl-C come in the middle of this step."""
    taken, plain = 0, Stepper.__call__

    def interrupting(self: Stepper, index: torch.Tensor, rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGINT)
        plain(self, index, rate)

    monkeypatch.setattr(Stepper, "__call__", interrupting)


@pytest.mark.parametrize("step", [20, 21, 35])
def test_an_interrupted_run_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = network()
    expected = train(whole, splits(), RECIPE, seed=3)

    interrupt_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        train(network(), splits(), RECIPE, seed=3, folder=tmp_path)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / CHECKPOINT)[1]["step"] == step
    resumed = network(9)  # whatever weights it begins with
    result = train(resumed, splits(), RECIPE, seed=3, folder=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert [p.accuracy for p in result.curve] == [p.accuracy for p in expected.curve]
    assert result.test == expected.test


def finished(folder: Path) -> None:
    train(network(), splits(), replace(RECIPE, epochs=1), folder=folder)


def test_a_checkpoint_of_another_network_is_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    finished(tmp_path)
    other = create("resnet20", num_classes=3, in_channels=1)
    before = weights(other)
    with pytest.raises(
        NetworkError, match=r"of another network; missing: bn1\.bias.* more; unexpected: 0\.bias"
    ):
        train(other, splits(), replace(RECIPE, epochs=1), folder=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(other), strict=True))
    wider = network()
    wider[0] = nn.Conv2d(1, 8, 5, padding=2)
    with pytest.raises(NetworkError, match=r"other shapes: 0\.weight is \(8, 1, 3, 3\), here \(8, 1, 5, 5\)"):
        train(wider, splits(), replace(RECIPE, epochs=1), folder=tmp_path, resume=True)


def test_a_folder_in_use_another_recipe_and_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="leave out --resume"):
        train(network(), splits(), RECIPE, folder=tmp_path, resume=True)
    finished(tmp_path)
    with pytest.raises(OutputError, match="--resume"):
        finished(tmp_path)
    untouched = network(4)
    with pytest.raises(OutputError, match=r"another run .different recipe"):
        train(untouched, splits(), RECIPE, folder=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(untouched), weights(network(4)), strict=True))
    with pytest.raises(OutputError, match="different seed"):
        train(network(), splits(), replace(RECIPE, epochs=1), seed=1, folder=tmp_path, resume=True)
    with pytest.raises(OutputError, match="different train"):
        changed = Splits(stripes(96, 7), stripes(30, 1), stripes(30, 2))
        train(network(), changed, replace(RECIPE, epochs=1), folder=tmp_path, resume=True)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (bytes(40), whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(
            OutputError, match=r"checkpoint\.safetensors cannot be read: .*; to train .* remove it"
        ):
            train(network(), splits(), replace(RECIPE, epochs=1), folder=tmp_path, resume=True)


def test_a_loss_that_is_not_finite_ends_the_run_and_no_bad_state_is_stored(tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer=Sgd(1e18), average=None)
    with pytest.raises(
        NetworkError, match=r"training diverged: the loss is \w+ by step .* give a lower learning rate"
    ):
        train(network(), splits(), recipe, folder=tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / "weights.safetensors").exists()


def test_data_with_other_channels_or_classes_are_refused_before_any_work() -> None:
    with pytest.raises(NetworkError, match="layer '0' raised"):
        train(network(), Splits((torch.randn(20, 3, 8, 8), torch.arange(20) % 3)), RECIPE)
    pixels, labels = stripes(96, 0)
    with pytest.raises(DataError, match=r"label 3 .*3 classes"):
        train(network(), Splits((pixels, labels + 1), stripes(30, 1)), RECIPE)


def test_time_bounds_a_run_and_its_schedule_runs_down(monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(network(), splits(), replace(RECIPE, epochs=100_000), seconds=1.0)
    assert not result.complete
    assert result.steps > 0
    assert result.curve[-1].learning_rate < 0.2 * RECIPE.optimizer.learning_rate
    assert math.isfinite(result.curve[-1].loss)


class Pretence:
    """A clock that runs only while steps and scorings do: `step(n)` and `scoring` are their seconds."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, step: Callable[[int], float], scoring: float = 0.0
    ) -> None:
        self.now, self.taken, self.rates = 1000.0, 0, []
        right_answers, pretence = trainer.right_answers, self

        class Slow(Stepper):
            def __call__(self, index: torch.Tensor, learning_rate: float) -> None:
                super().__call__(index, learning_rate)
                pretence.now += step(pretence.taken)
                pretence.taken += 1
                pretence.rates.append(learning_rate / RECIPE.optimizer.learning_rate)

        def scored(*given: Any) -> int:
            self.now += scoring
            return right_answers(*given)

        monkeypatch.setattr(trainer, "Stepper", Slow)
        monkeypatch.setattr(trainer, "right_answers", scored)
        for module in (trainer, fitted, loop):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.mark.parametrize("pace", [0.05, 0.4, 1.9, 4.0])
@pytest.mark.parametrize("epochs", [2, 1000])
def test_a_schedule_runs_down_within_its_time_at_any_pace(
    monkeypatch: pytest.MonkeyPatch, pace: float, epochs: int
) -> None:
    clock = Pretence(monkeypatch, lambda step: 2 * pace if step == 0 else pace, scoring=1.0)
    result = train(network(), splits(), replace(RECIPE, epochs=epochs), seconds=20.0)
    assert result.complete == (result.steps == 6 * epochs)
    spent = clock.now - 1000.0
    assert spent <= 20.0 + 3 * 1.0 + 1e-6  # the last point of the curve, and the two scores
    if not result.complete:
        every = max(6, -(-6 * epochs // 30))
        scorings = (result.steps - 1) // every
        assert result.steps == pytest.approx((20.0 - scorings) / pace - 1, abs=1.5 + 1.0 / pace)
        assert f"after {result.epochs:.4g} of {epochs} epochs" in result.summary()
    # The share of the last step: one step is still to go.
    last = 1 - 1 / (result.steps - 1) if not result.complete else 1 - 1 / result.steps
    assert clock.rates[-1] <= warmup_cosine(last - 0.1, RECIPE.warmup) + 1e-9
    peak = clock.rates.index(max(clock.rates))
    assert all(a >= b for a, b in itertools.pairwise(clock.rates[peak:]))


def test_a_time_that_is_ample_changes_nothing_however_often_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[int] = []

    def step(taken: int) -> float:
        if taken in stops:
            signal.raise_signal(signal.SIGINT)
        return 0.1

    clock = Pretence(monkeypatch, step, scoring=1.0)
    train(network(), splits(), RECIPE)
    wanted, half = list(clock.rates), clock.taken // 2
    assert len(wanted) == 36
    train(network(), splits(), RECIPE, seconds=1000.0)
    assert clock.rates == 2 * wanted
    stops.append(clock.taken + half)
    with pytest.raises(KeyboardInterrupt):
        train(network(), splits(), RECIPE, seconds=1000.0, folder=tmp_path)
    train(network(), splits(), RECIPE, seconds=1000.0, folder=tmp_path, resume=True)
    assert clock.rates == 3 * wanted


def test_the_rate_rises_no_faster_than_in_a_hundred_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipe warms up for as many: a peak that is there at once teaches nothing."""
    clock = Pretence(monkeypatch, lambda step: 15.0)
    result = train(network(), splits(), replace(RECIPE, epochs=1000, warmup=0.05), seconds=20.0)
    assert result.steps == 2
    assert clock.rates[0] <= 0.01
    assert clock.rates[1] == pytest.approx(0.02)  # of six thousand steps three hundred would warm up
    clock = Pretence(monkeypatch, lambda step: 15.0)
    train(network(), splits(), replace(RECIPE, epochs=1000, warmup=0.0), seconds=20.0)
    assert clock.rates[0] > 0.5


def test_a_machine_that_slows_down_is_planned_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Pretence(monkeypatch, lambda step: 0.1 if step < 60 else 0.5)
    result = train(network(), splits(), replace(RECIPE, epochs=1000), seconds=20.0)
    assert clock.now - 1000.0 <= 20.5
    assert result.steps == pytest.approx(60 + 14 / 0.5, abs=3)
    assert clock.rates[-1] < 0.05


def test_a_run_that_goes_on_does_not_warm_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Pretence(monkeypatch, lambda step: 1.0)
    recipe = replace(RECIPE, epochs=1000, warmup=0.002)
    train(network(), splits(), recipe, seconds=20.0, folder=tmp_path)
    steps = clock.taken
    train(network(), splits(), recipe, seconds=60.0, folder=tmp_path, resume=True)
    again = clock.rates[steps:]
    assert len(again) == pytest.approx(60 - 20, abs=3)
    assert again[0] == pytest.approx(warmup_cosine(20 / 60, recipe.warmup), abs=0.05)
    assert again[-1] < 0.02


def test_half_is_what_is_stored_and_scored(tmp_path: Path) -> None:
    model = network()
    train(model, splits(), replace(RECIPE, epochs=1, half=True), folder=tmp_path)
    stored = load_file(tmp_path / "weights.safetensors")
    assert stored["0.weight"].dtype == torch.float16
    assert torch.equal(stored["0.weight"].float(), model[0].weight)


def test_precision_of_a_run_that_goes_on_is_that_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=1, arithmetic=Arithmetic.AUTO)
    choose = "tenfold.training.trainer.fastest_precision"
    monkeypatch.setattr(choose, lambda *a, **k: Precision(channels_last=True))
    first = train(network(), splits(), recipe, folder=tmp_path)
    monkeypatch.setattr(choose, lambda *a, **k: Precision())
    again = train(network(), splits(), recipe, folder=tmp_path, resume=True)
    assert first.precision == again.precision == "fp32, channels last"


def test_the_command_trains_a_network_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels, labels = stripes(150, 0)
    bytes_ = (80 * pixels[:, 0] + 100).clamp(0, 255).byte().numpy()
    np.savez(tmp_path / "stripes.npz", images=bytes_, labels=labels.numpy())
    monkeypatch.chdir(tmp_path)
    arguments = [
        "train",
        "resnet20",
        "--data",
        "stripes.npz",
        "--epochs",
        "1",
        "--out",
        "run",
        "--device",
        "cpu",
    ]
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 0
    assert "resnet20: validation" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["network"] == "resnet20"
    assert result["epochs"] == 1.0
    create("resnet20", num_classes=3, in_channels=1).load_state_dict(
        load_file(tmp_path / "run/weights.safetensors")
    )
    loaded = load(tmp_path / "run" / "network")
    assert torch.equal(loaded.conv1.weight, load_file(tmp_path / "run/weights.safetensors")["conv1.weight"])
    for extra, message in (
        ([], "--resume"),
        (["--recipe", "cifr"], "did you mean 'cifar'"),
        (["--device", "tpu"], "--device is cpu or cuda"),
    ):
        with pytest.raises(SystemExit) as leaving:
            main([*arguments, *extra])
        assert leaving.value.code == 1
        assert message in capsys.readouterr().err
    arguments[arguments.index("run")] = "taught"
    for classes in (3, 10):
        named = f"resnet20?num_classes={classes}&in_channels=1"
        made = create("resnet20", num_classes=classes, in_channels=1)
        save(tmp_path / f"other-{classes}", made, [], inputs=pixels[:1], base=named)
    for other, status, words in (
        ("other-10", 1, "the teacher other-10 answers (10,) for an example and the network (3,)"),
        ("resnet20?num_classes=3&in_channels=1", 1, "has random weights, which teach nothing"),
        ("other-3", 0, ""),
    ):
        with pytest.raises(SystemExit) as leaving:
            main([*arguments, "--teacher", "run/network", "--teacher", other])
        assert leaving.value.code == status
        assert words in " ".join(capsys.readouterr().err.split())
    extra = json.loads((tmp_path / "taught" / "network" / "structure.json").read_text())["extra"]
    assert extra == {"teachers": ["run/network", "other-3"]}


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at(monkeypatch, 2)
    (tmp_path / "short.yaml").write_text(RECIPE.to_yaml())
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "resnet20", "--data", "tenfold.data:fashion_mnist", "--recipe", "short.yaml"]
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "--out", "run", "--device", "cpu"])
    assert leaving.value.code == 130
    assert "--resume" in capsys.readouterr().err
    assert read_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["step"] == 2
