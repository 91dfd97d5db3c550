"""Training on a GPU what a processor will serve: names are checked, and what comes back lies on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import tenfold
from tenfold.cli.app import main
from tenfold.compress import Run
from tenfold.compress.distill import Distill
from tenfold.compress.prune import Free, Saliency, Scope, Sparsify
from tenfold.compress.share import Scalar, Share
from tenfold.compress.technique import Technique
from tenfold.data import Task
from tenfold.data.sample import fashion_mnist
from tenfold.errors import NetworkError, TenfoldWarning
from tenfold.models import create
from tenfold.training import place, place_for, training_place
from tenfold.training.place import placed

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def small_task() -> Task:
    torch.manual_seed(0)
    splits = fashion_mnist()
    parts = {"train": splits.train.take(300), "validation": splits.validation.take(100)}
    model = create("resnet20", num_classes=10, in_channels=1)
    return Task(model.eval(), **parts)


def test_a_name_is_checked_and_the_option_named() -> None:
    assert training_place("cpu") == torch.device("cpu")
    assert training_place().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(NetworkError, match="train_on is cpu or cuda, not 'tpu'"):
        training_place("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(NetworkError, match="--train-on cuda: this PyTorch sees no GPU"):
            training_place("cuda", "--train-on")


@pytest.mark.parametrize("command", [["shrink"], ["apply", "int8"]])
def test_the_commands_refuse_it_before_anything_is_read(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*command, "no/such/network", "--train-on", "tpu", "--out", str(tmp_path / "run")])
    assert leaving.value.code == 1
    assert "--train-on is cpu or cuda, not 'tpu'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class MakesTensors(nn.Module):
    """A network that cannot leave the CPU: what it adds always lies there."""

    def __init__(self, adds: bool) -> None:
        super().__init__()
        self.layer, self.adds = nn.Linear(2, 2), adds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.ones(2) if self.adds else self.layer(x)


def test_what_cannot_move_is_trained_on_the_processor_unless_it_was_to_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place, "training_place", lambda name: torch.device("meta"))
    assert place_for(MakesTensors(adds=False), torch.zeros(2, 2)) == torch.device("meta")
    with pytest.warns(TenfoldWarning, match="does not run on the GPU .*: it is trained on the processor"):
        assert place_for(MakesTensors(adds=True), torch.zeros(2, 2)) == torch.device("cpu")
    with pytest.raises(NetworkError, match="leave train_on out, or say cpu"):
        place_for(MakesTensors(adds=True), torch.zeros(2, 2), "cuda")


def test_a_healing_goes_on_only_on_the_kind_of_device_that_it_was_begun_on(tmp_path: Path) -> None:
    task = small_task()
    kept = Distill()._keeper(task.model, task.train, Run(checkpoint=tmp_path / "kept"), 32)
    assert kept is not None
    assert kept.facts["device"] == "cpu"
    assert kept.facts["batch_size"] == 32


def test_parameters_stay_the_same_objects_where_a_model_lies_elsewhere_for_a_while() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = list(model.parameters())
    with placed(model, training_place()):
        assert all(p.device.type == training_place().type for p in model.parameters())
    assert all(a is b and a.device.type == "cpu" for a, b in zip(before, model.parameters(), strict=True))


@GPU
@pytest.mark.parametrize(
    "technique",
    [
        Distill(epochs=2, batch_size=50),
        Share(Scalar(4), epochs=1),
        Sparsify(Free(0.5, Scope.UNIFORM), Saliency.MOVEMENT, epochs=1),
    ],
    ids=lambda technique: type(technique).__name__,
)
def test_what_trains_does_so_on_the_gpu_and_comes_back(technique: Technique) -> None:
    task = small_task()
    weights = copy.deepcopy(task.model.state_dict())
    run = Run(train_on=torch.device("cuda"), teacher=task.model)
    torch.cuda.reset_peak_memory_stats()
    made = technique.apply(task.model, task, run).model
    assert torch.cuda.max_memory_allocated() > 1e6
    assert all(t.device.type == "cpu" for t in made.state_dict().values())
    assert all(torch.equal(weights[k], v) for k, v in task.model.state_dict().items())
    inputs, _ = task.validation.select(range(4))
    assert made(inputs).isfinite().all()


@GPU
def test_a_search_heals_on_the_gpu_and_says_so(tmp_path: Path) -> None:
    task = small_task()
    size = 0.3 * sum(4 * p.numel() for p in task.model.parameters()) / 1e6
    found = tenfold.shrink(task, tenfold.Budget(size_mb=size), out=tmp_path / "run", time_limit=120)
    assert found.sections["provenance"]["train_on"] == torch.cuda.get_device_name()
    assert any("healed" in point.label for point in found.points)
