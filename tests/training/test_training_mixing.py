"""Mixed images: drawn by the step's number, answered by the teacher as they are, and resumed as everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.training import (
    Batch,
    Distillation,
    Keeper,
    Precision,
    Supervised,
    TeacherOutputs,
    answers_mixed,
    fit,
    soft_loss,
)
from tenfold.training import keeping as keeping_module
from tenfold.training.mixing import Mixer

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def images(number: int = 48) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split((torch.randn(number, 2, 6, 6, generator=generator), torch.arange(number) % 3))


def batch(number: int = 16) -> Batch:
    inputs, targets = images().select(range(number))
    return Batch(torch.arange(number), inputs, targets, torch.zeros(number, dtype=torch.long))


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 3)
    )


def test_a_step_draws_what_its_number_says_and_nothing_of_anyone_elses() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (Mixer(HERE, seed=1)(batch(), step).inputs for step in (7, 7, 8))
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    for seed in (2, 257, 2**62):
        assert not torch.equal(one, Mixer(HERE, seed)(batch(), 7).inputs)


def test_every_pixel_lies_between_an_image_and_the_one_before_it() -> None:
    given = batch()
    before = given.inputs.roll(1, 0)
    low, high = torch.minimum(given.inputs, before), torch.maximum(given.inputs, before)
    for step in range(8):  # both kinds of mixing
        mixed = Mixer(HERE, seed=0)(given, step)
        assert mixed.mixed
        assert torch.equal(mixed.targets, given.targets)
        found = mixed.inputs.cpu()
        assert ((found >= low - 1e-6) & (found <= high + 1e-6)).all()
        assert not torch.equal(found, given.inputs)


def test_labels_do_not_teach_mixed_images() -> None:
    with pytest.raises(ValueError, match="labels say nothing of mixed images"):
        fit(network(0), images(), Supervised(), epochs=1, batch_size=16, precision=Precision(), mixing=True)


def test_only_images_are_mixed() -> None:
    words = Batch(torch.arange(2), torch.ones(2, 5, dtype=torch.long), torch.arange(2), torch.zeros(2))
    with pytest.raises(ValueError, match="only float images"):
        Mixer(HERE, 0)(words, 0)


def test_the_teacher_answers_what_is_shown_and_labels_have_no_say() -> None:
    teacher, student = network(0).to(HERE), network(1).to(HERE).eval()
    outputs = TeacherOutputs(teacher, images(), precision=Precision())
    objective = Distillation(outputs, temperature=3.0, alpha=0.4)
    mixed = Mixer(HERE, 0)(batch(), 0)
    answers = student(mixed.inputs).detach()
    wanted = soft_loss(answers, teacher.eval()(mixed.inputs).detach(), 3.0)
    for _ in range(2):
        torch.testing.assert_close(objective(answers, mixed), wanted, atol=1e-5, rtol=1e-5)
    other = Batch(mixed.indices, mixed.inputs, mixed.targets.roll(1), mixed.views, mixed=True)
    torch.testing.assert_close(objective(answers, other), wanted, atol=1e-5, rtol=1e-5)
    assert outputs.asked == 0  # nothing of it is kept
    few = Mixer(HERE, 0)(batch(5), 1)  # of another size than the first
    found = outputs.fresh(few.inputs)
    torch.testing.assert_close(found, teacher(few.inputs).detach(), atol=1e-5, rtol=1e-5)
    outputs.release()
    torch.testing.assert_close(outputs.fresh(few.inputs), found, atol=1e-5, rtol=1e-5)


def test_a_teacher_that_answers_mixed_images_with_nonsense_is_refused() -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).to(HERE)
    outputs = TeacherOutputs(broken, images(), precision=Precision())
    with torch.no_grad():
        outputs.teacher[1].weight.fill_(torch.nan)
    with pytest.raises(NetworkError, match="teacher's outputs are not finite"):
        outputs.fresh(batch().inputs)


def test_it_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping_module, "EVERY_SECONDS", -1.0)
    monkeypatch.setattr(keeping_module, "SHARE_OF_TIME", 1e9)

    def run(keeper: Keeper | None, stop_after: int = 0) -> nn.Module:
        student, taken = network(1).to(HERE), 0

        def progress(fraction: float, text: str) -> None:
            nonlocal taken
            taken += 1
            if taken == stop_after:
                raise KeyboardInterrupt

        teacher = TeacherOutputs(network(0), images(), precision=Precision(), device=HERE)
        objective = Distillation(teacher)
        fit(
            student, images(), objective, epochs=3, batch_size=16, seed=4, precision=Precision(), mixing=True,
            keeper=keeper, progress=progress, graph=False,
        )  # fmt: skip
        return student

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(Keeper(tmp_path / "kept.safetensors", {"a": "b"}), stop_after=4)
    resumed = run(Keeper(tmp_path / "kept.safetensors", {"a": "b"}))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


class Share(nn.Module):
    """Answers (N, 3, H, W) images, each of one colour, with logits `certain` times those of how much is of a class."""

    def __init__(self, certain: float) -> None:
        super().__init__()
        self.certain = certain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.certain * x.mean(dim=(2, 3)).clamp_min(1e-6).log()


@pytest.mark.parametrize(("certain", "told"), [(1.0, True), (40.0, False), (0.0, False)])
def test_a_teacher_is_asked_whether_mixed_images_tell_it_of_both(certain: float, told: bool) -> None:
    classes = torch.arange(200) % 3
    colours = torch.eye(3)[classes][:, :, None, None].expand(-1, -1, 6, 6).contiguous()
    split = Split((colours, classes))
    assert answers_mixed(TeacherOutputs(Share(certain), split, precision=Precision()), split) is told


def test_answers_that_are_no_classes_and_inputs_that_are_no_images_tell_nothing_of_mixtures() -> None:
    split = Split((torch.rand(20, 3, 6, 6), torch.arange(20) % 3))
    assert not answers_mixed(TeacherOutputs(nn.Conv2d(3, 3, 1), split, precision=Precision()), split)
    flat = Split((torch.rand(20, 4), torch.arange(20) % 3))
    assert not answers_mixed(TeacherOutputs(nn.Linear(4, 3), flat, precision=Precision()), flat)
