"""Second moments of inputs are held for a few layers at a time, and nothing comes out differently for it."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tenfold.compress.factorize import Energy, Factorize, Share, Vbmf
from tenfold.compress.layers import weighted_layers
from tenfold.compress.prune import Free, Saliency, Scope, Sparsify, TwoOfFour, curvature
from tenfold.compress.prune.curvature import in_groups, input_hessians, moment_bytes, moment_room
from tenfold.compress.technique import Run, Technique
from tenfold.data import Task

WIDTH, DEPTH = 20, 12
EACH = 8 * WIDTH**2  # bytes of a layer's second moments


class Deep(nn.Module):
    """Layers that change their input in place afterwards, as residual streams do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        for layer in self.layers:
            x.add_(layer(x).tanh())
        return x


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    x = torch.randn(40, WIDTH)
    return Task(Deep().eval(), (x, torch.arange(40) % WIDTH), (x, torch.arange(40) % WIDTH))


class Held(TorchDispatchMode):
    """Counts the bytes of square matrices of float64, three-dimensional as second moments are, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if not isinstance(value, Tensor) or value.dtype != torch.float64 or id(value) in self._known:
                continue
            if value.dim() == 3 and value.shape[1] == value.shape[2] == WIDTH:
                self._known.add(id(value))
                self.now += value.nbytes
                self.peak = max(self.peak, self.now)
                weakref.finalize(value, self._gone, id(value), value.nbytes)
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


TECHNIQUES = {
    "obs": Sparsify(Free(0.5, Scope.UNIFORM), Saliency.OBS, examples=32),
    "obs 2:4": Sparsify(TwoOfFour(permute=False), Saliency.OBS, examples=32),
    "share": Factorize(Share(0.6), activations=40, multiple=1),
    "energy": Factorize(Energy(0.9), activations=40, multiple=1),
    "vbmf": Factorize(Vbmf(), activations=40, multiple=1),
}


@pytest.mark.parametrize("technique", TECHNIQUES.values(), ids=TECHNIQUES)
def test_a_small_bound_changes_nothing_but_the_memory(
    task: Task, technique: Technique, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, peaks = [], []
    for bound in (1 << 29, 3 * EACH):
        monkeypatch.setattr(curvature, "free_memory", lambda bound=bound: bound / curvature.MOMENT_SHARE)
        told: list[float] = []
        with Held() as held:
            found.append(
                technique.apply(
                    task.model, task, Run(progress=lambda share, _, told=told: told.append(share))
                )
            )
        assert held.now == 0
        assert told == sorted(told)
        peaks.append(held.peak)
    assert found[0].resolved == found[1].resolved
    before, after = found[0].model.state_dict(), found[1].model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    # Beside what is held, the products of one batch, and a matrix that is just being worked with.
    assert peaks[0] >= DEPTH * EACH
    assert 3 * EACH <= peaks[1] <= 5 * EACH


def test_groups_hold_no_more_than_the_bound_and_every_layer_once() -> None:
    layers = {
        "a": nn.Linear(10, 3),  # 800 bytes
        "wide": nn.Linear(50, 2),  # 20,000, more than the bound
        "b": nn.Conv2d(4, 4, 2, groups=2),  # 2 · 8² · 8 = 1,024
        "c": nn.Linear(10, 1),
        "d": nn.Conv1d(2, 5, 5),  # 800
    }
    assert [moment_bytes(layer) for layer in layers.values()] == [800, 20_000, 1_024, 800, 800]
    groups = in_groups(layers, 2_000)
    assert [list(group) for group in groups] == [["a"], ["wide"], ["b", "c"], ["d"]]
    assert {name: layer for group in groups for name, layer in group.items()} == layers
    assert in_groups(layers, 1 << 29) == [layers]
    assert in_groups({}, 0) == [{}]


def test_a_share_of_the_free_memory_is_held_and_never_more_than_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = nn.Linear(10, 3)
    for free, room in ((1 << 30, 1 << 28), (1 << 50, 4 << 30), (math.inf, 4 << 30), (0, 0)):
        monkeypatch.setattr(curvature, "free_memory", lambda free=free: free)
        assert moment_room(layer) == room
    assert in_groups({"a": layer, "b": layer}, 0) == [
        {"a": layer},
        {"b": layer},
    ]  # one that needs more is alone


def test_inputs_count_as_the_layers_saw_them(task: Task) -> None:
    model = task.model
    seen: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, n=name: seen.update({n: args[0].double().clone()}))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    x = task.train.stacked[0][:8]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    found = input_hessians(model, task.train.subset(torch.arange(8)), weighted_layers(model), Run())
    assert len(found) == DEPTH
    for name, rows in seen.items():
        torch.testing.assert_close(found[name][0], 2 * rows.T @ rows / 8)
