"""Recipes taught by several networks: the mean of them teaches, and what cannot teach is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import tenfold
from tenfold.cli.app import main
from tenfold.compress import Recipe, Run, read_recipe, read_structure
from tenfold.compress.distill import Distill, Matching
from tenfold.compress.quantize import Quantize
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.search.applying import apply_to_folder
from tenfold.training import Ensemble, View, joint_teacher

HEAL = Distill(
    epochs=2,
    precision="fp32",
    teacher_precision="fp32",
    views=(View.IDENTITY,),
    mixing=False,
    learning_rate=0.01,
)


def student() -> nn.Module:
    return made(0)


def second() -> nn.Module:
    return made(1, hidden=12)


def third() -> nn.Module:
    return made(2, hidden=7)


def strange() -> nn.Module:
    return made(3, outputs=4)


def data() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(96) % 3
    return {"train": (x[:64], labels[:64]), "validation": (x[64:], labels[64:])}


def made(seed: int, inputs: int = 6, hidden: int = 5, outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)).eval()


@pytest.fixture
def task() -> Task:
    return Task(student(), **data())


def test_the_mean_of_the_teachers_teaches_and_their_names_are_kept(task: Task, tmp_path: Path) -> None:
    teachers = {"original": task.model, "a": second(), "b": third()}
    apply_to_folder(Recipe((HEAL,)), task, tmp_path / "made", train_on="cpu", teachers=teachers)
    wanted = HEAL.apply(task.model, task, Run(teacher=Ensemble(teachers.values()))).model
    alone = HEAL.apply(task.model, task, Run()).model
    found = tenfold.load(tmp_path / "made", base=student)
    x = task.example(8)
    with torch.no_grad():
        torch.testing.assert_close(found(x), wanted(x))
        assert not torch.allclose(found(x), alone(x), atol=1e-3)
    assert read_structure(tmp_path / "made" / "structure.json").extra == {"teachers": ["original", "a", "b"]}
    assert read_recipe(tmp_path / "made" / "recipe.yaml") == Recipe((HEAL,))


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (
            made(1, outputs=4),
            r"the teacher odd answers \(4,\) for an example and the network \(3,\): .*same classes",
        ),
        (made(1, inputs=7), r"the teacher odd cannot teach on these data: .*layer '0' raised"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named_before_any_work(
    task: Task, tmp_path: Path, teacher: nn.Module, words: str
) -> None:
    with pytest.raises(NetworkError, match=words):
        teachers = {"original": task.model, "odd": teacher}
        apply_to_folder(Recipe((HEAL,)), task, tmp_path / "made", teachers=teachers)
    assert not (tmp_path / "made").exists()


def test_a_teacher_with_nan_and_none_at_all_are_refused(task: Task) -> None:
    broken = second()
    broken[0].weight.data[0, 0] = float("nan")
    with pytest.raises(
        NetworkError, match=r"the teacher b cannot teach on these data: the parameter 0\.weight holds NaN"
    ):
        joint_teacher({"a": third(), "b": broken}, task.model, task.train)
    with pytest.raises(NetworkError, match="at least one teacher"):
        joint_teacher({}, task.model, task.train)
    alone = second()
    assert joint_teacher({"a": alone}, task.model, task.train) is alone


def test_hidden_layers_are_the_originals_and_a_recipe_that_learns_nothing_takes_no_teacher(
    task: Task, tmp_path: Path
) -> None:
    hidden = Recipe((Distill(epochs=1, hidden=Matching.AUTO),))
    for teachers in ({"original": task.model, "a": second()}, {"a": second()}):
        with pytest.raises(RecipeError, match=r"step 1 \(distill\) matches hidden layers, .* original alone"):
            apply_to_folder(hidden, task, tmp_path / "made", teachers=teachers)
    with pytest.raises(RecipeError, match="no step of the recipe learns from a teacher"):
        apply_to_folder(Recipe((Quantize(),)), task, tmp_path / "made", teachers={"a": second()})


def test_the_commands_take_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = "tests.search.test_teachers" if __name__.startswith("tests.") else __name__
    Recipe((HEAL,)).write(tmp_path / "heal.yaml")
    command = [
        "apply",
        str(tmp_path / "heal.yaml"),
        f"{here}:student",
        "--data",
        f"{here}:data",
        "--train-on",
        "cpu",
    ]
    command += ["--teacher", "original", "--teacher", f"{here}:second", "--out", str(tmp_path / "made")]
    with pytest.raises(SystemExit) as leaving:
        main(command)
    assert leaving.value.code == 0
    kept = json.loads((tmp_path / "made" / "structure.json").read_text())["extra"]
    assert kept == {"teachers": ["original", f"{here}:second"]}
    for more, words in (
        (f"{here}:strange", f"the teacher {here}:strange answers (4,)"),
        ("original", "--teacher original is given twice"),
        ("", "--teacher is empty"),
        ("mobilenet_v2?num_classes=3", "has random weights, which teach nothing: give a trained network"),
    ):
        with pytest.raises(SystemExit):
            main([*command[:-1], str(tmp_path / "other"), "--teacher", more])
        assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other").exists()
