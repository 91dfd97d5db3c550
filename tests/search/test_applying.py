"""A recipe applied to a folder: what is told of the original beside it, and that nothing of the work rests on that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.compress import Recipe, load
from tenfold.compress.quantize import Quantize
from tenfold.data import Task
from tenfold.deploy import Artifact, deploy_onnx
from tenfold.search import applying
from tenfold.search.applying import apply_to_folder
from tenfold.search.serving import FILES


def made() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 3)).eval()


@pytest.fixture
def task() -> Task:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 3
    return Task(made(), (x[:40], labels[:40]), (x[40:], labels[40:]))


def test_the_original_is_told_beside_what_was_made(task: Task, tmp_path: Path) -> None:
    phases: dict[str, list[float]] = {}
    found = apply_to_folder(
        Recipe((Quantize(),)),
        task,
        tmp_path / "made",
        report=lambda phase, fraction, text: phases.setdefault(phase, []).append(fraction),
    )
    with torch.no_grad():
        right = (
            task.model(task.validation.select(range(160))[0]).argmax(1) == torch.arange(40, 200) % 3
        ).double()
    assert found.original_score == pytest.approx(float(right.mean()))
    assert found.original_bytes == deploy_onnx(task.model, task.example(2), tmp_path / "a.onnx").size_bytes
    assert f"(the original {found.original_score:.4f})" in found.summary()
    assert f"(the original {found.original_bytes:,}: " in found.summary()
    assert "not scored" not in found.summary()
    for told in phases.values():  # each is a bar of its own
        assert told == sorted(told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "made"]


@pytest.mark.parametrize(
    ("error", "untold"),
    [
        (MemoryError("no room"), "MemoryError: no room"),
        (RuntimeError("a bug of the exporter"), "RuntimeError: a bug of the exporter"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_an_original_that_cannot_be_exported_costs_nothing_of_what_was_made(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, untold: str
) -> None:
    folder = tmp_path / "made"

    def deploy(*_: object) -> Artifact:
        assert {path.name for path in folder.iterdir()} == set(FILES)
        raise error

    monkeypatch.setattr(applying, "deploy_onnx", deploy)
    found = apply_to_folder(Recipe((Quantize(),)), task, folder)
    assert (found.original_bytes, found.original_score) == (None, None)
    assert found.summary().endswith(f"\nthe original was not scored: {untold}")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert load(folder, base=made)(task.example(4)).shape == (4, 3)


def test_an_original_that_is_slow_is_not_waited_for(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "ORIGINAL_SECONDS", 0.0)
    monkeypatch.setattr(applying, "ORIGINAL_TIMES", 0.0)
    found = apply_to_folder(Recipe((Quantize(),)), task, tmp_path / "made")
    assert found.original_bytes is not None
    assert found.original_score is None
    assert found.summary().endswith("the original was not scored: it would take more than 0 s")
