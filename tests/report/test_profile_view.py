"""A profile as it is shown: roofs against the formula, alike layers, the thinned memory timeline, totals of two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_times import CPU, timed
from torch import nn

from tenfold.cost import profile
from tenfold.errors import OutputError
from tenfold.report import Roofs, Times, View, profile_comparison, view
from tenfold.report.profile_view import Step, alike, common_name, thinned
from tenfold.report.totals import totals


def network() -> nn.Module:
    block = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *block, nn.Flatten(), nn.Linear(8 * 16 * 16, 10))


def viewed(roofs: Roofs | None = CPU) -> View:
    return timed(profile(network(), torch.empty(1, 3, 16, 16)), "a network", roofs)


def test_roofs_by_hand() -> None:
    assert CPU.ridge == 4
    assert CPU.attainable(1) == 16e9
    assert CPU.attainable(4) == CPU.attainable(400) == 64e9


def test_roofs_need_what_they_are_asked_for() -> None:
    with pytest.raises(OutputError, match=r"no peak for 'fp16'; it has: fp32"):
        Roofs("a CPU", {"fp32": 1e9}, {"DRAM": 1e9}, "fp16", "DRAM")
    with pytest.raises(OutputError, match=r"no bandwidth for 'HBM'"):
        Roofs("a CPU", {"fp32": 1e9}, {"DRAM": 1e9}, "fp32", "HBM")
    with pytest.raises(OutputError, match="above zero"):
        Roofs("a CPU", {"fp32": 0.0}, {"DRAM": 1e9}, "fp32", "DRAM")


def test_figures_of_a_layer() -> None:
    one = viewed()
    conv = one.layers[0]
    # 3 -> 8 channels, 3×3, 16×16 pixels; bytes in fp32: input, weights with bias, output.
    assert (conv.macs, conv.params) == (3 * 8 * 9 * 256, 3 * 8 * 9 + 8)
    assert conv.moved == 4 * (3 * 256 + conv.params + 8 * 256)
    assert conv.ms == pytest.approx(1e3 * max(conv.flops / 64e9, conv.moved / 16e9))
    assert conv.rate == pytest.approx(CPU.attainable(conv.intensity))
    assert one.ms == pytest.approx(sum(layer.ms or 0 for layer in one.layers))
    assert one.share("compute") + one.share("memory") == pytest.approx(1)
    assert one.share("overhead") == 0


def test_a_layer_within_anothers_kernel_has_no_rate_and_a_call_its_own_cost() -> None:
    counted = profile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.empty(1, 3, 16, 16))
    one = view(counted, "x", Times((2.0, 0.0), ("memory", "fused"), 2.5, 2.0, 3.0, "predicted"))
    conv, relu = one.layers
    assert (relu.fused, relu.rate, conv.fused) == (True, None, False)
    assert (one.ms, one.interval, one.share("memory")) == (2.5, (2.0, 3.0), 1.0)


def test_without_a_device_no_time_is_claimed() -> None:
    one = viewed(None)
    assert one.ms is one.how is one.interval is None
    assert all(layer.ms is layer.bound is layer.rate is None for layer in one.layers)


def test_alike_layers_are_one_and_none_is_lost() -> None:
    one = viewed()
    groups = alike(one.layers)
    assert [(group.name, len(group.layers)) for group in groups] == [
        ("0", 1), ("*.0", 3), ("*.1", 3), ("5", 1),
    ]  # fmt: skip
    assert sorted(layer.number for group in groups for layer in group.layers) == [
        layer.number for layer in one.layers
    ]


@pytest.mark.parametrize(
    ("names", "common"),
    [(["a.0.b"], "a.0.b"), (["a.0.b1", "a.12.b1"], "a.*.b1"), (["a.0.b1", "a.1.b2"], "a.*.b*")],
)
def test_common_name(names: list[str], common: str) -> None:
    assert common_name(names) == common


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300), st.integers(1, 40))
def test_a_thinned_timeline_keeps_its_peak_and_its_order(live: list[int], most: int) -> None:
    steps = [Step(number, "layer", "op", size) for number, size in enumerate(live, start=1)]
    kept = thinned(steps, most)
    assert len(kept) <= most
    assert max(step.live for step in kept) == max(live)
    assert [step.number for step in kept] == sorted({step.number for step in kept})


def test_what_lives_at_the_peak_is_named_and_adds_up() -> None:
    class Held(nn.Module):
        """Two branches, whose first output waits while the second is made."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 1000), nn.Linear(4, 2000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.a(x)
            return torch.cat([first, self.b(x).relu_()], 1)

    one = view(profile(Held(), torch.empty(1, 4)), "x")
    assert one.memory is not None
    held = [(tensor.layer, tensor.op, tensor.shape, tensor.size) for tensor in one.memory.held]
    assert held == [
        ("(network)", "cat", "1×3000", 12000),
        ("b", "addmm", "1×2000", 8000),
        ("a", "addmm", "1×1000", 4000),
        ("(network)", "input", "", 16),
    ]
    assert sum(tensor.size for tensor in one.memory.held) == one.peak_bytes == one.memory.peak.live


def test_tensors_that_are_alike_are_one() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, *(layer(x) for layer in self.layers)]

    memory = view(profile(Kept(), torch.empty(4, 8)), "x").memory
    assert memory is not None
    assert [(h.layer, h.op, h.size, h.count) for h in memory.held] == [
        ("layers.*", "addmm", 3 * 128, 3),
        ("(network)", "input", 128, 1),
    ]


def test_two_networks_in_the_terminal() -> None:
    a = viewed()
    b = timed(profile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.empty(2, 4)), "another", CPU)
    rows = {row["name"]: row for row in totals(a, b)}
    assert rows["MACs"]["texts"] == (f"{a.macs / 1e3:.0f} k", "32")
    assert rows["Parameters"]["ratio"] == f"{a.params / 20:.0f}× fewer"
    text = profile_comparison(a, b)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "A  a network, input 1×3×16×16" in text
    assert "B  another, input 2×4" in text


def test_a_cost_of_nothing_has_no_ratio() -> None:
    relu = view(profile(nn.ReLU(), torch.empty(2, 4)), "relu")
    rows = {row["name"]: row for row in totals(relu, relu)}
    assert "Latency" not in rows
    assert rows["MACs"]["ratio"] == ""
    assert rows["MACs"]["shares"] == (None, None)
