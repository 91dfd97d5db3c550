"""`Prune` as a technique: what it removes, what it refuses, and that it repeats itself."""

import copy
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prune_networks import Attentive, Blocks, HardCoded, Residual, Unknown, randomised
from torch import Tensor, nn

from tenfold.compress.prune import (
    Bypass,
    ChannelGraph,
    Criterion,
    Prune,
    Scope,
    block_sensitivity,
    drop_blocks,
    importance,
    residual_blocks,
)
from tenfold.compress.recipe import Recipe, apply_recipe, recipe_from
from tenfold.compress.technique import Run, Technique
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.models import CifarResNet


def task_for(model: nn.Module, *shape: int, examples: int = 24) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, *shape, generator=generator)
    targets = torch.randint(5, (examples,), generator=generator)
    return Task(model, (inputs, targets), validation=(inputs, targets))


@pytest.fixture
def resnet() -> Task:
    return task_for(randomised(CifarResNet(14, 10, 1)), 1, 8, 8)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("criterion", list(Criterion))
@pytest.mark.parametrize("scope", list(Scope))
def test_a_pruned_network_is_smaller_repeatable_and_leaves_the_original_alone(
    resnet: Task, criterion: Criterion, scope: Scope
) -> None:
    prune = Prune(ratio=0.5, criterion=criterion, scope=scope, residual=0.75)
    assert isinstance(prune, Technique)
    before = copy.deepcopy(resnet.model.state_dict())
    first = prune.apply(resnet.model, resnet, Run())
    second = prune.apply(resnet.model, resnet, Run())
    assert first.resolved == second.resolved
    assert parameters(first.model) < 0.6 * parameters(resnet.model)
    assert all(torch.equal(t, before[n]) for n, t in resnet.model.state_dict().items())
    assert not first.model.training
    x = resnet.example(4)
    rebuilt = prune.rebuild(CifarResNet(14, 10, 1), json.loads(json.dumps(first.resolved)), resnet.zeros())
    rebuilt.load_state_dict(first.model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(x), first.model(x))


def test_the_kept_share_of_inner_and_residual_channels_is_what_was_asked(resnet: Task) -> None:
    prune = Prune(ratio=0.25, residual=0.5, widths={"layer3.*": 0.25}, criterion=Criterion.MAGNITUDE)
    model = prune.apply(resnet.model, resnet, Run()).model
    assert model.get_submodule("layer1.0.conv1").weight.shape == (12, 8, 3, 3)
    assert model.get_submodule("layer2.1.conv2").weight.shape == (16, 24, 3, 3)
    assert model.get_submodule("layer3.1.conv2").weight.shape == (16, 16, 3, 3)
    assert model.get_submodule("fc").in_features == 16


def test_channels_are_rounded_to_multiples(resnet: Task) -> None:
    prune = Prune(ratio=0.4, residual=0.6, round_to=8, criterion=Criterion.MAGNITUDE)
    model = prune.apply(resnet.model, resnet, Run()).model
    assert {m.out_channels % 8 for m in model.modules() if isinstance(m, nn.Conv2d)} == {0}


@pytest.mark.parametrize("scope", list(Scope))
def test_a_target_is_met_closely(resnet: Task, scope: Scope) -> None:
    prune = Prune(target_macs=0.4, scope=scope, criterion=Criterion.MAGNITUDE)
    model = prune.apply(resnet.model, resnet, Run()).model
    share = (
        ChannelGraph.of(model, resnet.zeros(2), verify=False).macs()
        / ChannelGraph.of(resnet.model, resnet.zeros(2), verify=False).macs()
    )
    assert 0.34 < share <= 0.4


def test_a_second_target_is_a_share_of_what_the_first_left(resnet: Task) -> None:
    steps = [Prune(target_macs=share, criterion=Criterion.MAGNITUDE) for share in (0.6, 0.5)]
    made, _ = apply_recipe(Recipe(tuple(steps)), resnet, Run())
    share = (
        ChannelGraph.of(made, resnet.zeros(2), verify=False).macs()
        / ChannelGraph.of(resnet.model, resnet.zeros(2), verify=False).macs()
    )
    assert 0.2 < share <= 0.3


def test_magnitude_keeps_the_largest_weights() -> None:
    model = randomised(Residual())
    task = task_for(model, 3, 4, 4)
    with torch.no_grad():
        for place in (1, 4):  # these two hidden channels hardly exist
            for tensor in (model.conv1.weight, model.bn1.weight, model.bn1.bias):
                tensor[place] = 1e-3
            model.conv2.weight[:, place] = 1e-3
    prune = Prune(ratio=1 / 3, criterion=Criterion.MAGNITUDE)
    resolved = prune.apply(model, task, Run()).resolved
    assert resolved["kept"][resolved["tensors"]["conv1.weight"]["0"]] == [0, 2, 3, 5]


def test_taylor_is_the_squared_gradient_of_a_gate() -> None:
    """Against gates written by hand: the hidden units of a small network times a vector of ones."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 7), nn.Linear(7, 5)
            self.gate: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.up(x))
            return self.down(hidden if self.gate is None else hidden * self.gate)

    model = randomised(Gated())
    task = task_for(model, 6)
    graph = ChannelGraph.of(model, task.zeros(2))
    score = importance(graph, model, Criterion.TAYLOR, task, Run(), examples=24)["up"]
    expected = np.zeros(7)
    for i in range(24):
        inputs, targets = task.train.select([i])
        model.gate = torch.ones(7, requires_grad=True)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        assert model.gate.grad is not None
        expected += model.gate.grad.double().square().numpy() / 24
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_taylor_finds_the_channel_that_nothing_reads() -> None:
    model = randomised(Attentive())
    task = task_for(model, 7, 6)
    with torch.no_grad():
        model.out.weight[:, 8:12] = 0  # head 2
        model.down.weight[:, 5] = 0
    graph = ChannelGraph.of(model, task.zeros(2))
    scores = importance(graph, model, Criterion.TAYLOR, task, Run())
    assert int(scores["qkv"].argmin()) == 2
    assert int(scores["up"].argmin()) == 5
    assert scores["qkv"][2] == scores["up"][5] == 0


def test_residual_blocks_are_found_and_dropped() -> None:
    model = randomised(Blocks())
    task = task_for(model, 7, 6)
    blocks = residual_blocks(model, task.zeros(2))
    assert list(blocks) == ["layers.0", "layers.1", "layers.2", "tail.0"]
    shallow = drop_blocks(model, {"layers.1": False, "tail.0": False})
    assert isinstance(shallow.get_submodule("layers.1"), Bypass)
    assert isinstance(shallow.get_submodule("tail.0"), nn.Identity)
    x = task.example(3)
    with torch.no_grad():
        h = model.embed(x)
        h = model.layers[2](model.layers[0](h, scale=0.5), scale=0.5)
        assert torch.equal(shallow(x), model.head(model.tail[1](h)).mean(1))


def test_the_block_that_does_nothing_is_dropped_first() -> None:
    model = randomised(Blocks())
    task = task_for(model, 7, 6)
    with torch.no_grad():
        model.layers[1].down.weight.zero_()
        model.layers[1].down.bias.zero_()
    moved = block_sensitivity(model, task, residual_blocks(model, task.zeros(2)), Run())
    assert moved["layers.1"] == pytest.approx(0, abs=1e-6)
    assert min(v for name, v in moved.items() if name != "layers.1") > 1e-3
    applied = Prune(ratio=0.0, blocks=1).apply(model, task, Run())
    assert applied.resolved["dropped"] == {"layers.1": False}
    x = task.example(3)
    with torch.no_grad():
        torch.testing.assert_close(applied.model(x), model(x))


def test_blocks_and_widths_together_are_rebuilt(resnet: Task) -> None:
    prune = Prune(ratio=0.5, residual=0.75, blocks=("layer1.1", "layer3.1"), criterion=Criterion.MAGNITUDE)
    applied = prune.apply(resnet.model, resnet, Run())
    rebuilt = prune.rebuild(CifarResNet(14, 10, 1), json.loads(json.dumps(applied.resolved)), resnet.zeros())
    rebuilt.load_state_dict(applied.model.state_dict())
    x = resnet.example(4)
    with torch.no_grad():
        assert torch.equal(rebuilt(x), applied.model(x))
    assert isinstance(rebuilt.get_submodule("layer3.1"), nn.Identity)


def test_a_recipe_holds_every_parameter() -> None:
    prune = Prune(
        ratio=0.3,
        criterion=Criterion.MAGNITUDE,
        scope=Scope.GLOBAL,
        residual=0.5,
        widths={"layer1.*": 0.25},
        blocks=("layer1.1",),
        target_macs=0.4,
        round_to=8,
        examples=64,
    )
    recipe = Recipe((prune, Prune(blocks=3), Prune(target_latency=0.5)))
    assert recipe_from(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1.0}, "ratio must be at least 0 and below 1"),
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"residual": 0.0}, "residual must be above 0"),
        ({"widths": {"a": 2.0}}, "widths"),
        ({"target_macs": 1.5}, "target_macs"),
        ({"round_to": 0}, "round_to"),
        ({"blocks": -1}, "blocks"),
        ({"examples": 0}, "examples"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prune(**arguments)


def problems(prune: Prune, model: nn.Module, *shape: int) -> str:
    return " | ".join(map(str, prune.preflight(model, task_for(model, *shape), Device())))


def test_preflight_is_silent_where_all_is_well(resnet: Task) -> None:
    prune = Prune(blocks=("layer1.1",), widths={"layer2*": 0.5}, target_macs=0.5, residual=0.5)
    assert prune.preflight(resnet.model, resnet, Device()) == []


def test_preflight_names_what_is_wrong(resnet: Task) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Conv2d(3, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(self.only(x)).real.mean((2, 3))

    net = resnet.model
    assert "cannot trace Branching" in problems(Prune(), Branching(), 3, 4, 4)
    bare = problems(Prune(), Bare(), 3, 4, 4)
    assert "no channel can be pruned" in bare
    assert " in its own forward is not known" in bare
    assert "did you mean 'layer1.1'" in problems(Prune(blocks=("layer1.11",)), net, 1, 8, 8)
    assert "only 4 are residual" in problems(Prune(blocks=9), net, 1, 8, 8)
    assert "nowhere*: matches no family" in problems(Prune(widths={"nowhere*": 0.5}), net, 1, 8, 8)
    assert "cannot reach 1%" in problems(Prune(target_macs=0.01), net, 1, 8, 8)
    assert "is frozen" in problems(Prune(widths={"qkv": 0.5}), randomised(HardCoded()), 7, 6)


def test_apply_refuses_what_it_cannot_do(resnet: Task) -> None:
    with pytest.raises(RecipeError, match=r"'layer9\.0' is no residual block"):
        Prune(blocks=("layer9.0",)).apply(resnet.model, resnet, Run())
    with pytest.raises(NetworkError, match="cannot reach 1%"):
        Prune(target_macs=0.01, criterion=Criterion.MAGNITUDE).apply(resnet.model, resnet, Run())
    with torch.no_grad():
        resnet.model.get_submodule("conv1").weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NetworkError, match="not finite"):
        Prune(ratio=0.0, criterion=Criterion.MAGNITUDE).apply(resnet.model, resnet, Run())


def test_rebuild_refuses_a_malformed_structure(resnet: Task) -> None:
    resolved = Prune(criterion=Criterion.MAGNITUDE).apply(resnet.model, resnet, Run()).resolved
    for change in (
        {"dropped": ["layer1.1"]},
        {"dropped": {"layer9": False}},
        {"kept": [[-1]] * 99},
        {"tensors": 3},
    ):
        with pytest.raises(RecipeError):
            Prune().rebuild(resnet.model, {**resolved, **change}, resnet.zeros())


def test_the_deadline_stops_the_scan(resnet: Task) -> None:
    run = Run(deadline=time.monotonic() - 1)
    moved = block_sensitivity(resnet.model, resnet, residual_blocks(resnet.model, resnet.zeros(2)), run)
    assert set(moved.values()) == {float("inf")}


def test_no_block_is_scanned_that_would_not_be_done(resnet: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, now = residual_blocks(resnet.model, resnet.zeros(2)), 0.0

    class Ending(Run):
        """A run of 35 seconds, of which the original, and the network without a block, take ten each."""

        def seconds_left(self) -> float:
            return 35.0 - now

    def slow(model: nn.Module, inputs: Tensor) -> Tensor:
        nonlocal now
        now += 10.0
        return model(inputs)

    monkeypatch.setattr("tenfold.compress.prune.blocks.call", slow)
    monkeypatch.setattr("tenfold.pacing.time", SimpleNamespace(monotonic=lambda: now))
    moved = block_sensitivity(resnet.model, resnet, blocks, Ending())
    assert [name for name, value in moved.items() if value < float("inf")] == list(blocks)[:2]
    assert len(blocks) > 3


def test_an_unknown_operator_is_reported_and_the_rest_is_pruned() -> None:
    model = randomised(Unknown())
    applied = Prune(criterion=Criterion.MAGNITUDE).apply(model, task_for(model, 3, 4, 4), Run())
    assert applied.model.before.out_channels == 8
    assert applied.model.after.out_channels == 3


def test_an_outline_has_the_size_of_the_pruned_network(resnet: Task) -> None:
    graph = ChannelGraph.of(resnet.model, resnet.zeros(2))
    blocks = residual_blocks(resnet.model, resnet.zeros(2), graph.program)
    prune = Prune(ratio=0.5, residual=0.75, blocks=("layer2.1",), criterion=Criterion.MAGNITUDE)
    outlined = prune.outline(resnet.model, graph, blocks)
    pruned = prune.apply(resnet.model, resnet, Run()).model
    shapes = {name: tensor.shape for name, tensor in pruned.state_dict().items()}
    assert {name: tensor.shape for name, tensor in outlined.state_dict().items()} == shapes
    with pytest.raises(RecipeError, match="name them"):
        Prune(blocks=1).outline(resnet.model, graph, blocks)
