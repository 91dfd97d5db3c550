"""A profile as JSON and as text."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import nn

from tenfold.cost import profile


def test_json_is_strict_and_complete():
    counted = profile(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.empty(2, 4))
    back = json.loads(json.dumps(counted.to_json(), allow_nan=False))
    assert back["macs"] == 24
    assert back["flops"] == 48
    assert back["other_flops"] == 6
    assert back["input_shapes"] == [[2, 4]]
    assert [layer["name"] for layer in back["layers"]] == ["0", "1"]
    assert set(back["layers"][0]) >= {
        "name", "op", "macs", "params", "bytes_read", "bytes_written", "intensity", "output_shape"
    }  # fmt: skip


def test_layers_add_up_to_the_whole():
    counted = profile(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.empty(1, 5, 16))
    for figure in ("macs", "other_flops", "params"):
        assert sum(getattr(layer, figure) for layer in counted.layers) == getattr(counted, figure)
    assert counted.bytes_written == counted.activation_bytes


def test_the_table_fits_its_width_and_is_cut():
    layers = (nn.Sequential(nn.Linear(8 + i % 3, 8 + (i + 1) % 3), nn.ReLU()) for i in range(1000))
    counted = profile(nn.Sequential(*layers), torch.empty(1, 8))
    for width in (60, 80, 120):
        lines = counted.table(width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) < 60
        assert any(" 333 " in line or " 334 " in line for line in lines)  # layers that are alike


def test_equal_siblings_share_a_row_and_groups_keep_network_order():
    model = nn.Sequential(nn.Linear(8, 4), *(nn.Linear(4, 4) for _ in range(30)), nn.Linear(4, 2))
    lines = profile(model, torch.empty(1, 8)).table().splitlines()
    rows = [line.split() for line in lines if line.startswith(("0 ", "* ", "31 "))]
    assert rows[0][0] == "0"
    assert rows[1][:2] == ["*", "30"]
    assert rows[2][0] == "31"


def test_an_odd_network_prints_too():
    assert "Identity" in str(profile(nn.Identity(), torch.empty(3)))
    assert "scalar" in str(profile(nn.ReLU(), torch.tensor(1.0)))


def test_operators_are_summed():
    counted = profile(nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.ReLU()), torch.empty(2, 8))
    linear, relu = counted.by_operator
    assert (linear.op, linear.calls, linear.macs) == ("addmm", 3, counted.macs)
    assert (relu.op, relu.other_flops, relu.predicted_ms) == ("relu", 16, None)
    assert "By operator" in str(counted)
    assert [total["op"] for total in counted.to_json()["by_operator"]] == ["addmm", "relu"]


def test_predicted_times_are_shown_where_a_device_gave_them():
    counted = profile(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.empty(2, 8))
    assert all(layer.predicted_ms is None and layer.bound is None for layer in counted.layers)
    timed = replace(
        counted, layers=tuple(replace(layer, predicted_ms=1.5, bound="memory") for layer in counted.layers)
    )
    assert timed.by_operator[0].predicted_ms == 3.0
    lines = timed.table().splitlines()
    assert any(line.startswith("0 ") and line.endswith("1.5  memory") for line in lines)
    assert max(map(len, lines)) <= 80


def test_one_layer_without_a_time_leaves_its_sum_without_one():
    counted = profile(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.empty(2, 8))
    half = replace(counted, layers=(replace(counted.layers[0], predicted_ms=1.0), counted.layers[1]))
    assert half.by_operator[0].predicted_ms is None
