"""Training in stretches: each step is fixed by its number, and a teacher is asked about what the student sees."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.training import Augmentation, Course, Sgd, TrainingRecipe, soft_loss, warmup_cosine
from tenfold.training.recipes import Compiling
from tenfold.training.resident import ResidentImages

CPU = torch.device("cpu")


def images(number: int = 40, padding: int = 1) -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(number, 1, 6, 6, generator=generator)
    return ResidentImages.of(Split((x, (x.mean((1, 2, 3)) > 0).long())), CPU, "train", padding)


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


RECIPE = TrainingRecipe(
    epochs=3, batch_size=10, optimizer=Sgd(0.1), augmentation=Augmentation(padding=1, flip=True)
)


def test_a_stretch_repeats_and_leaves_the_callers_random_numbers_alone() -> None:
    course = Course(images(), RECIPE)
    assert course.steps == 12
    first, second = student(), student()
    state = torch.get_rng_state()
    assert course(first, 0, 7) == 7
    assert torch.equal(torch.get_rng_state(), state)
    course(second, 0, 7)
    assert torch.equal(weights(first), weights(second))
    assert not first.training
    course(first, 7)
    course(second, 7)
    assert torch.equal(weights(first), weights(second))
    other = student()
    Course(images(), RECIPE, seed=1)(other)
    assert not torch.equal(weights(other), weights(first))


def test_a_step_is_the_one_written_by_hand_with_its_teacher() -> None:
    data, teacher = images(padding=0), student(5).eval()
    plain = TrainingRecipe(
        epochs=3,
        batch_size=10,
        optimizer=Sgd(0.1, momentum=0.0, weight_decay=0.0),
        augmentation=Augmentation(padding=0, flip=False),
        teaching=0.75,
        temperature=2.0,
    )
    course = Course(data, plain, teacher=teacher)
    made, byhand = student(), student().train()
    course(made, 6, 7)
    # Step 6 is the third of the second pass.
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[20:30]
    x, labels = data.batch(order)
    outputs, answers = byhand(x), teacher(x).detach()
    loss = 0.25 * nn.functional.cross_entropy(outputs, labels) + 0.75 * soft_loss(outputs, answers, 2.0)
    loss.backward()
    rate = 0.1 * warmup_cosine(6 / 12, plain.warmup)
    with torch.no_grad():
        for parameter in byhand.parameters():
            parameter -= rate * parameter.grad
    torch.testing.assert_close(weights(made), weights(byhand), rtol=1e-5, atol=1e-6)


def test_a_deadline_ends_it_and_what_is_refused() -> None:
    course = Course(images(), RECIPE)
    assert course(student(), until=time.monotonic() - 1) == 0
    with pytest.raises(ValueError, match="between steps 0 and 12"):
        course(student(), 5, 13)
    with pytest.raises(ValueError, match="no recipe with an average"):
        Course(images(), TrainingRecipe(average=0.9))
    broken = student()
    with torch.no_grad():
        broken[4].weight.fill_(float("nan"))
    with pytest.raises(NetworkError, match="diverged"):
        course(broken)


def test_a_course_can_be_resized_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.training.course.LOOK_EVERY", 2)
    sizes, shares, rates = {4: 7, 6: 8}, [], []
    course = Course(images(), RECIPE)

    def progress(share: float, text: str) -> None:
        shares.append(share)
        rates.append(course._learning_rate(round(share * course.steps)))
        course.resize(sizes.get(round(share * course.steps), course.steps))

    assert course(student(), progress=progress) == 8
    assert shares == [2 / 12, 4 / 12, 6 / 7, 1.0]
    assert rates == [0.1 * warmup_cosine(share, RECIPE.warmup) for share in shares]
    with pytest.raises(ValueError, match="not 0"):
        course.resize(0)


def test_only_a_recipe_that_asks_for_it_is_compiled_by_every_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def compile_(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    model, teacher = student(), student(5).eval()
    for how in (Compiling.OFF, Compiling.AUTO):
        Course(images(), replace(RECIPE, compile=how), teacher=teacher)(model, 0, 1)
    assert compiled == []
    course = Course(images(), replace(RECIPE, compile=Compiling.ON), teacher=teacher)
    course(model, 0, 1)
    course(model, 1, 2)
    assert [id(one) for one in compiled] == [id(model), id(teacher)] * 2
