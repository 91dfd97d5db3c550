"""Healing: it brings a damaged network back to its teacher, never makes it worse, and keeps to its bounds."""

import copy
import json
import math
import time
from dataclasses import replace

import pytest
import torch
from distill_networks import Net, damaged_copy, data, taught_task
from safetensors import SafetensorError
from torch import nn

from tenfold.compress.batches import batch_for, held_out
from tenfold.compress.distill import Distill, Matching
from tenfold.compress.healing import heal
from tenfold.compress.recipe import Recipe, parse_recipe
from tenfold.compress.technique import Run, Technique
from tenfold.cost import Device
from tenfold.data import Split, Task
from tenfold.errors import NetworkError, OutOfTime
from tenfold.training import Distillation, View


@pytest.fixture(scope="module")
def task() -> Task:
    return taught_task()


@pytest.fixture
def damaged(task: Task) -> nn.Module:
    return damaged_copy(task.model)


def agreement(student: nn.Module, task: Task) -> float:
    inputs, _ = task.validation.select(range(60))
    with torch.no_grad():
        return (student(inputs).argmax(1) == task.model(inputs).argmax(1)).float().mean().item()


def test_it_is_a_technique() -> None:
    assert isinstance(Distill(), Technique)


def test_it_heals_and_tells_what_it_did(task: Task, damaged: nn.Module) -> None:
    before = copy.deepcopy(damaged.state_dict())
    technique = Distill(epochs=15, learning_rate=0.005)
    assert technique.preflight(damaged, task, Device()) == []
    applied = technique.apply(damaged, task, Run(teacher=task.model))
    assert all(torch.equal(before[k], v) for k, v in damaged.state_dict().items())
    assert not applied.model.training
    told = applied.resolved
    assert told["kept"] == "trained"
    assert told["held_out_losses"]["trained"] < 0.3 * told["held_out_losses"]["unchanged"]
    assert agreement(damaged, task) < 0.8
    assert agreement(applied.model, task) > 0.95
    assert told["steps"] == 15 * (160 // told["batch_size"])
    json.dumps(told, allow_nan=False)
    rebuilt = technique.rebuild(damaged, told, task.zeros())
    rebuilt.load_state_dict(applied.model.state_dict())
    x = task.zeros(2)
    assert torch.equal(rebuilt(x), applied.model(x))


def test_same_seed_same_network(task: Task, damaged: nn.Module) -> None:
    """Equal up to what timing decides: the precision, which is therefore fixed here by float64."""
    double = Task(copy.deepcopy(task.model).double(), (data()[0].double(), data()[1]), task.validation)
    student = copy.deepcopy(damaged).double()
    # Channels last may still be chosen by time; it changes sums only in their last bits.
    one, two = (Distill(epochs=1).apply(student, double, Run(seed=5)).model for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_it_never_hands_back_something_worse(task: Task) -> None:
    """A perfect student, and a learning rate that can only hurt it."""
    applied = Distill(epochs=2, learning_rate=1.0).apply(task.model, task, Run())
    losses = applied.resolved["held_out_losses"]
    assert applied.resolved["kept"] != "trained"
    assert losses[applied.resolved["kept"]] == min(losses.values()) < losses["trained"]
    assert agreement(applied.model, task) == 1.0


def test_a_deadline_that_has_passed_trains_nothing(task: Task, damaged: nn.Module) -> None:
    applied = Distill().apply(damaged, task, Run(deadline=time.monotonic() - 1))
    assert applied.resolved["steps"] == 0
    assert applied.resolved["kept"] == "unchanged"
    assert applied.resolved["loss"] is None


def test_seconds_bound_it_too(task: Task, damaged: nn.Module) -> None:
    applied = Distill(seconds=1.0, epochs=10_000).apply(damaged, task, Run())
    assert 0 < applied.resolved["steps"] < 10_000 * 8


def test_what_a_timed_run_decided_makes_the_same_network_again(task: Task, damaged: nn.Module) -> None:
    """Bit for bit, though the first run tried steps, chose views and had other answers known before it."""
    run = Run(teacher=task.model)
    Distill(epochs=1).apply(task.model, task, run)
    told = Distill(epochs=2, steps=11).apply(damaged, task, run)
    timed = Distill(seconds=2.0, epochs=3).apply(damaged, task, run)
    for applied in (told, timed):
        found = applied.resolved
        again = Distill(
            epochs=found["planned_epochs"],
            steps=found["steps"],
            precision=found["precision"],
            teacher_precision=found["teacher_precision"],
            views=tuple(View(view) for view in found["views"]),
        ).apply(damaged, task, Run(teacher=task.model))
        assert again.resolved["held_out_losses"] == found["held_out_losses"]
        for a, b in zip(again.model.parameters(), applied.model.parameters(), strict=True):
            assert torch.equal(a, b)
    assert told.resolved["steps"] == 11
    assert told.resolved["cut_short"]


def test_the_teacher_is_asked_once_for_a_job(task: Task, damaged: nn.Module, tmp_path) -> None:
    run = Run(teacher=task.model, folder=tmp_path)
    Distill(epochs=4).apply(damaged, task, run)
    asked = [outputs.asked for outputs in run.cache.values()]
    Distill(epochs=4).apply(damaged, task, run)
    assert [outputs.asked for outputs in run.cache.values()] == asked
    later = Run(teacher=task.model, folder=tmp_path)  # the same job, started again
    Distill(epochs=4).apply(damaged, task, later)
    assert [outputs.asked for outputs in later.cache.values()] == [0, 0]


def test_an_interrupt_keeps_the_answers_and_comes_through(task: Task, damaged: nn.Module, tmp_path) -> None:
    def stop(fraction: float, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Distill(epochs=4).apply(damaged, task, Run(folder=tmp_path, progress=stop))
    assert list(tmp_path.glob("teacher-*.safetensors"))
    assert not list(tmp_path.glob(".*"))


def test_a_healing_that_was_stopped_goes_on(task: Task, damaged: nn.Module, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tenfold.training.keeping.EVERY_SECONDS", -1.0)
    monkeypatch.setattr("tenfold.training.keeping.SHARE_OF_TIME", 1e9)
    # Stated, since timing may choose other arithmetic for another run.
    arithmetic = {"precision": "fp32", "teacher_precision": "fp32"}
    plain = Distill(epochs=4, **arithmetic).apply(damaged, task, Run())

    def stop(fraction: float, text: str) -> None:
        if fraction > 0.6:
            raise KeyboardInterrupt

    kept = tmp_path / "healing.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Distill(epochs=4, **arithmetic).apply(damaged, task, Run(checkpoint=kept, progress=stop))
    # Called again with another bound, it keeps to what was decided.
    again = Distill(seconds=300.0, **arithmetic).apply(damaged, task, Run(checkpoint=kept))
    assert 2.4 <= again.resolved["epochs_before"] < 4
    assert again.resolved["planned_epochs"] == 4
    assert again.resolved["held_out_losses"] == plain.resolved["held_out_losses"]
    for a, b in zip(again.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)
    # Another network does not go on with it.
    other = Distill(epochs=1, **arithmetic).apply(task.model, task, Run(checkpoint=kept))
    assert other.resolved["epochs_before"] == 0


def test_a_process_that_is_killed_leaves_the_answers_beside_the_checkpoint(
    task: Task, damaged: nn.Module, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("tenfold.training.keeping.EVERY_SECONDS", -1.0)
    monkeypatch.setattr("tenfold.training.keeping.SHARE_OF_TIME", 1e9)
    kept, seen = tmp_path / "healing.safetensors", []

    def look(fraction: float, text: str) -> None:
        seen.append(kept.exists() and len(list(tmp_path.glob("teacher-*.safetensors"))) == 1)

    Distill(epochs=1).apply(damaged, task, Run(folder=tmp_path, checkpoint=kept, progress=look))
    assert all(seen)


@pytest.mark.parametrize("hidden", [Matching.AUTO, [["stage", "stage"]]])
def test_hidden_layers_of_another_width_are_matched(task: Task, hidden) -> None:
    torch.manual_seed(0)
    student = Net(width=4, hidden=6)
    technique = Distill(epochs=3, hidden=hidden, learning_rate=0.01)
    assert technique.preflight(student, task, Device()) == []
    applied = technique.apply(student, task, Run())
    assert ["stage", "stage"] in applied.resolved["hidden"]
    assert applied.resolved["kept"] == "trained"
    assert set(applied.model.state_dict()) == set(student.state_dict())


def test_preflight_names_what_is_missing(task: Task) -> None:
    problems = Distill(hidden=(("stage", "gone"), ("lost", "stage"))).preflight(task.model, task, Device())
    assert {p.layer for p in problems} == {"gone", "lost"}
    frozen = copy.deepcopy(task.model).requires_grad_(False)
    (problem,) = Distill().preflight(frozen, task, Device())
    assert "no parameter can be trained" in str(problem)
    integers = copy.deepcopy(task.model)
    integers.fc.register_buffer("weight_int8", torch.zeros(3, 12, dtype=torch.int8))
    (problem,) = Distill().preflight(integers, task, Device())
    assert problem.layer == "fc"
    assert "quantised" in problem.text


@pytest.mark.parametrize(
    "options",
    [
        {"seconds": 0},
        {"epochs": -1},
        {"temperature": 0.0},
        {"alpha": 1.5},
        {"learning_rate": float("nan")},
        {"batch_size": 0},
        {"examples": 0},
        {"steps": 0},
        {"views": (View.FLIP,)},
        {"hidden": (("a", "b", "c"),)},
        {"hidden_weight": -1.0},
        {"mixing": True, "alpha": 0.9},
        {"mixing": True, "batch_size": 1},
    ],
)
def test_parameters_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Distill(**options)


@pytest.mark.parametrize("hidden", [Matching.AUTO, (("stage", "stage"), ("stem", "stem"))])
def test_it_is_written_in_a_recipe_and_read_again(hidden) -> None:
    recipe = Recipe((Distill(seconds=30.0, hidden=hidden),))
    assert parse_recipe(recipe.to_yaml()) == recipe


def test_regression_is_healed_against_outputs() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
    x = torch.randn(80, 5)
    task = Task(teacher, (x, teacher(x).detach()), (x, teacher(x).detach()))
    student = copy.deepcopy(teacher)
    nn.init.normal_(student[2].weight, std=0.3)
    applied = Distill(epochs=40, learning_rate=0.01).apply(student, task, Run())
    losses = applied.resolved["held_out_losses"]
    assert losses["trained"] < 0.2 * losses["unchanged"]
    assert applied.resolved["views"] == ["identity"]


class Sum(nn.Module):
    """Takes keyword inputs, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = (self.embed(tokens) * mask[..., None]).sum(1)
        return {"logits": self.head(x)}


def test_dict_inputs_and_outputs_work() -> None:
    torch.manual_seed(0)
    inputs = {"tokens": torch.randint(0, 20, (40, 6)), "mask": torch.ones(40, 6)}
    task = Task(Sum(), (inputs, torch.arange(40) % 3))
    applied = Distill(epochs=5, learning_rate=0.02).apply(Sum(), task, Run())
    assert applied.resolved["kept"] == "trained"


@pytest.mark.parametrize("number", [2, 3, 11])
def test_a_handful_of_examples_does_not_break_batch_norm(task: Task, damaged: nn.Module, number: int) -> None:
    few = Task(task.model, data(number), data(10))
    applied = Distill(epochs=2).apply(damaged, few, Run())
    assert applied.resolved["steps"] == 2
    assert applied.model(task.zeros(2)).isfinite().all()


def test_held_out_examples_are_apart_and_the_same_every_time() -> None:
    split = Split((torch.arange(100.0)[:, None], torch.zeros(100, dtype=torch.long)))
    train, held = held_out(split)
    mine, theirs = (set(s.select(range(len(s)))[0].flatten().tolist()) for s in (train, held))
    assert len(mine) == 80
    assert len(theirs) == 20
    assert not mine & theirs
    assert torch.equal(held_out(split)[1].select(range(20))[0], held.select(range(20))[0])


@pytest.mark.parametrize(
    ("examples", "batch"),
    [(50_000, 128), (15_000, 100), (9_744, 64), (800, 32), (80, 10), (5, 5), (1, 1)],
)
def test_batches_shrink_with_the_data(examples: int, batch: int) -> None:
    assert batch_for(examples, 128) == batch


def test_batches_shrink_with_the_activations() -> None:
    assert batch_for(50_000, 128, 1e6) == 128
    assert batch_for(50_000, 128, 1e8) == 20  # 2 GB in all
    assert batch_for(50_000, 128, 1e10) == 8


def test_a_network_broken_before_it_is_healed_is_told_from_one_that_diverges(
    task: Task, damaged: nn.Module
) -> None:
    with pytest.raises(NetworkError, match="diverged"):
        Distill(epochs=20, learning_rate=1e30).apply(damaged, task, Run())
    broken = copy.deepcopy(damaged)
    with torch.no_grad():
        broken.fc.weight.fill_(float("nan"))
    with pytest.raises(NetworkError, match="before any training"):
        Distill(epochs=1).apply(broken, task, Run())


def test_what_was_learned_before_it_diverged_is_kept(task: Task, damaged: nn.Module, monkeypatch) -> None:
    settings = Distill(epochs=4, precision="fp32", teacher_precision="fp32", views=(View.IDENTITY,))
    right, steps = Distillation.loss, 0

    def wrong_later(self, outputs, answers, batch):
        nonlocal steps
        steps += torch.is_grad_enabled()
        return right(self, outputs, answers, batch) * (
            math.nan if torch.is_grad_enabled() and steps > 7 else 1
        )

    monkeypatch.setattr("tenfold.training.loop.GOOD_STATE_EVERY", 3)
    with monkeypatch.context() as patched:
        patched.setattr(Distillation, "loss", wrong_later)
        found = settings.apply(damaged, task, Run())
    assert "diverged: the loss is nan at step 8" in found.resolved["diverged"]
    assert found.resolved["steps"] == 6
    assert found.resolved["cut_short"]
    again = replace(settings, steps=6).apply(damaged, task, Run())
    assert again.resolved["diverged"] is None
    for a, b in zip(again.model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_inside_a_technique_is_done_as_asked_or_not_at_all(task: Task) -> None:
    """A recipe states its passes: a network that had fewer would not be the one that the recipe makes."""
    model = copy.deepcopy(task.model)
    with pytest.raises(OutOfTime, match="of 500 passes"):
        heal(model, task, Run(deadline=time.monotonic() + 0.3), epochs=500)


def test_a_network_without_a_backward_pass_is_refused(task: Task) -> None:
    class Frozen(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(NetworkError, match="no backward pass"):
        Distill(epochs=1).apply(Frozen(), task, Run())


def test_a_full_disk_does_not_stop_a_healing(task: Task, damaged: nn.Module, tmp_path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("tenfold.training.kept.save_file", full)
    assert Distill(epochs=1).apply(damaged, task, Run(folder=tmp_path)).resolved["steps"] > 0
