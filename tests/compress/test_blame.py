"""Blame against figures worked out by hand, and what it leaves alone."""

from __future__ import annotations

import copy
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tenfold.compress.answers import distance
from tenfold.compress.blame import HIGHEST_DB, Bench, Blame, Column, Harm, LayerBlame, blame
from tenfold.compress.changes import CHANGES
from tenfold.compress.layers import weighted_layers
from tenfold.compress.quantize import Quantize
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.report import blame_table, blame_tables, change_table, worst_tables, write_blame_map


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    x = torch.randn(40, 8)
    model = Two().eval()
    return Task(model, (x, torch.arange(40) % 3), (x, model(x).argmax(1)))


def rounded(weight: np.ndarray, bits: int) -> np.ndarray:
    scale = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(weight / scale) * scale


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_figures_are_those_worked_out_by_hand(task: Task) -> None:
    column = blame(task, ["int4"], examples=40).columns[0]
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in task.model.parameters())
    x = task.validation.select(range(40))[0].double().numpy()

    def answers(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        return np.maximum(x @ first.T + b1, 0) @ last.T + b2

    def kl(first: np.ndarray, last: np.ndarray) -> float:
        p, q = softmax(answers(w1, w2)), softmax(answers(first, last))
        return float((p * np.log(p / q)).sum(1).mean())

    f1, f2 = rounded(w1, 4), rounded(w2, 4)
    hidden = np.maximum(x @ w1.T + b1, 0)
    first, last = column.layers["first"], column.layers["last"]
    assert first.alone is not None
    assert last.alone is not None
    assert first.alone.distance == pytest.approx(kl(f1, w2), rel=1e-3)
    assert last.alone.distance == pytest.approx(kl(w1, f2), rel=1e-3)
    noise = hidden @ (f2 - w2).T
    signal = hidden @ w2.T + b2
    assert last.snr_db == pytest.approx(10 * np.log10((signal**2).sum() / (noise**2).sum()), abs=0.01)
    assert column.whole is not None
    assert column.whole.distance == pytest.approx(kl(f1, f2), rel=1e-3)
    right = (answers(f1, f2).argmax(1) == answers(w1, w2).argmax(1)).mean()
    assert column.whole.drop == pytest.approx(1 - right)
    # Sparing one of two layers is changing the other; the last one reached is the whole.
    assert first.spared == last.alone
    worst = column.layers[column.order()[-1]]
    assert worst.reached == column.whole


def test_a_change_that_changes_nothing_does_no_harm(task: Task) -> None:
    for layer in weighted_layers(task.model).values():
        layer.weight.data = layer.weight.data.sign() * 127 / 128
    row = blame(task, ["int8"]).columns[0].layers["first"]
    assert row.snr_db == HIGHEST_DB
    assert row.alone is not None
    assert row.alone.distance == pytest.approx(0, abs=1e-9)


def test_every_change_keeps_shapes_and_the_network_is_left_alone(task: Task) -> None:
    before = copy.deepcopy(task.model.state_dict())
    table = blame(task)
    assert [column.change for column in table.columns] == list(CHANGES)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    generator = torch.Generator().manual_seed(0)
    for change in CHANGES.values():
        for shape in ((6, 8), (6, 8, 3, 3), (8, 1, 3, 3), (5, 3, 1, 1), (4, 4, 3), (4, 8, 2, 2, 2)):
            weight = torch.randn(shape, generator=generator)
            changed = change.apply(weight)
            assert changed is None or (changed.shape == weight.shape and changed.dtype == weight.dtype)
            assert changed is None or not torch.equal(changed, weight)


def test_a_time_that_ends_it_early_is_what_is_left(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tenth of a second a figure, with time for four of them, a quarter is gone after the first."""
    clock = iter(0.1 * n for n in range(10_000))
    now = [0.0]

    def steps(*_: object) -> Iterator[str]:
        for _each in range(1000):
            now[0] = next(clock)
            yield "a figure"

    told: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr("tenfold.compress.blame._steps", steps)
        patch.setattr("tenfold.compress.blame.time.monotonic", lambda: now[0])
        blame(task, ["int8"], run=Run(deadline=0.35, progress=lambda share, text: told.append(share)))
    assert told == sorted(told)
    assert told[1] == pytest.approx(0.1 / 0.35)
    assert told[-2:] == [1.0, 1.0]


def test_a_deadline_leaves_out_the_less_telling_and_says_so(task: Task) -> None:
    table = blame(task, ["int4", "int8"], run=Run(deadline=time.monotonic()))
    assert not table.finished
    assert table.columns[0].layers["first"].alone is not None
    assert table.columns[0].layers["first"].spared is None
    assert not table.columns[1].layers


def test_what_is_refused(task: Task) -> None:
    with pytest.raises(RecipeError, match="no change 'int9'; did you mean"):
        blame(task, ["int9"])
    with pytest.raises(RecipeError, match="give one or more"):
        blame(task, [])
    task.model.first.weight.data[0, 0] = float("nan")
    with pytest.raises(NetworkError, match=r"the parameter first\.weight holds NaN \(1 of \d+ values\)"):
        blame(task)
    task.model.first.weight.data.fill_(3e38)
    with pytest.raises(NetworkError, match="answers are not finite, though its weights are"):
        blame(task)
    with pytest.raises(NetworkError, match="no layer"):
        blame(Task(nn.Flatten(), task.train, task.validation))


def test_the_table_and_the_map_show_every_layer_and_escape_names(task: Task, tmp_path: Path) -> None:
    data = json.loads(json.dumps(blame(task, ["int4", "2:4"]).to_json()))
    write_blame_map(data, tmp_path / "map.html", "<script>x</script>")
    page = (tmp_path / "map.html").read_text()
    assert "<script>x" not in page
    assert page.count('<th scope="row">') == 3
    assert "first" in page
    assert blame_table(data).row_count == 4
    assert len(blame_tables(data, 80)) == 1


def test_a_narrow_terminal_gets_the_columns_in_pieces_and_every_figure_whole(task: Task) -> None:
    data = blame(task, examples=40).to_json()
    whole, pieces = blame_tables(data, 200), blame_tables(data, 60)
    assert [len(whole), len(pieces) > 1] == [1, True]
    texts = []
    for tables, width in ((whole, 200), (pieces, 60)):
        console = Console(width=width, record=True, file=io.StringIO())
        for table in tables:
            console.print(table)
        texts.append(console.export_text())
    assert "…" not in texts[1]
    figures = [set(re.findall(r"[\d.e+-]+\d", text)) for text in texts]
    assert figures[0] == figures[1]
    assert all(texts[1].count(f" {change} ") == 1 for change in CHANGES)


def test_one_change_is_shown_in_full(task: Task) -> None:
    data = blame(task, ["int4"]).to_json()
    assert change_table(data["columns"][0]).row_count == 2


def test_several_changes_are_told_in_what_the_metric_loses_the_worst_layer_first() -> None:
    def column(change: str, **harms: tuple[float, float]) -> Column:
        rows = {layer: LayerBlame(1.0, Harm(*harm)) for layer, harm in harms.items()}
        return Column(change, CHANGES[change].text, Harm(1.0, 0.5), rows)

    columns = [
        column("int4", good=(0.1, 0.0), bad=(0.2, 0.25), worse=(0.3, 0.0)),
        column("2:4", worse=(0.9, 0.25), good=(0.2, -0.125)),
    ]
    data = json.loads(json.dumps(Blame(0.75, 8, True, columns).to_json()))
    assert data["worst"] == [  # the first two lose as much, and the answers of the first move more
        {"layer": "worse", "lost": {"int4": 0.0, "2:4": 0.25}},
        {"layer": "bad", "lost": {"int4": 0.25}},
        {"layer": "good", "lost": {"int4": 0.0, "2:4": -0.125}},
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    for table in worst_tables(data, 200):
        console.print(table)
    assert [line.split() for line in console.export_text().splitlines()[-3:]] == [
        ["worse", "+0.0000", "+0.2500"],
        ["bad", "+0.2500", "–"],
        ["good", "+0.0000", "-0.1250"],
    ]
    assert [table.row_count for table in worst_tables(data, 25)] == [3, 3]


def test_inputs_are_rounded_as_quantize_rounds_them(task: Task) -> None:
    whole = Quantize(weight_bits=8, bias_correction=False).apply(task.model, task, Run())
    scales = sorted(tensor["scale"] for tensor in whole.resolved["tensors"].values())
    affines = [affine for row in Bench(task, 40).inputs.values() for affine in row.values()]
    assert sorted(affine.scale for affine in affines) == scales
    inputs, _ = task.validation.select(range(40))
    with torch.no_grad():
        moved = distance(whole.model(inputs), task.model(inputs), classes=True)
    for column in blame(task, ["int8-full", "int8-activations"], examples=40).columns:
        assert column.whole is not None
        if column.change == "int8-full":
            assert column.whole.distance == pytest.approx(moved, rel=0.01)
        else:
            assert 0 < column.whole.distance < moved
        assert column.layers["first"].spared == column.layers["last"].alone


def test_the_layer_that_reads_an_outlier_is_blamed_for_its_inputs_alone(task: Task) -> None:
    with torch.no_grad():  # one hidden value grows a thousandfold, and what is made of it stays the same
        task.model.first.weight[3] *= 1000
        task.model.first.bias[3] *= 1000
        task.model.last.weight[:, 3] /= 1000
    table = blame(task, ["int8-activations", "int8-full"], examples=40)
    for column in table.columns:
        first, last = column.layers["first"], column.layers["last"]
        assert column.order() == ["first", "last"]
        assert first.alone is not None
        assert last.alone is not None
        assert last.alone.distance > 100 * first.alone.distance
        assert last.snr_db is not None
        assert last.snr_db < 10 < 30 < first.snr_db  # type: ignore[operator]


def test_a_layer_whose_inputs_are_never_seen_is_left_out(task: Task) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape(len(x), 1, 8)
            return self.last(input=self.attend(x, x, x)[0][:, 0])

    table = blame(Task(Attention(), task.train, task.validation), ["int8", "int8-full"])
    assert [list(column.layers) for column in table.columns] == [["attend.out_proj", "last"], ["last"]]
    network = Attention()
    network.last = nn.Identity()
    alone = Task(network, task.train, task.validation)
    table = blame(alone, ["int8", "int8-full"])
    assert [list(column.layers) for column in table.columns] == [["attend.out_proj"], []]
    assert table.columns[1].whole is None
    assert blame_table(table.to_json()).row_count == 3
    with pytest.raises(NetworkError, match="no layer for this: weights and inputs rounded"):
        blame(alone, ["int8-full"])
