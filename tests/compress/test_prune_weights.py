"""Pruning of single weights: curvature and OBS against exact answers, masks, permutations, and the technique."""

from __future__ import annotations

import copy
import itertools
import json
import time

import numpy as np
import pytest
import torch
from prune_networks import randomised
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from tenfold.compress import Recipe, apply_recipe
from tenfold.compress.distill import Distill
from tenfold.compress.prune import ChannelGraph, Free, Saliency, Scope, Sparsify, TwoOfFour
from tenfold.compress.prune.curvature import fisher_diagonal, hutchinson_diagonal, input_hessians
from tenfold.compress.prune.learned_scores import TopShare, cubic
from tenfold.compress.prune.masks import keep_largest, keep_largest_of_all, keep_two_of_four
from tenfold.compress.prune.obs import damped_inverse, least_of_rows, surgeon, two_of_four
from tenfold.compress.prune.permutation import best_order, permuted, retained
from tenfold.compress.prune.sparsify import obd, smoothed
from tenfold.compress.share import Scalar, Share
from tenfold.compress.technique import Run, Technique
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import NetworkError, OutOfTime
from tenfold.training import held_zeros


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


class Tiny(nn.Module):
    """(N, 1, 8, 8) -> (N, 5), with a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.inner = nn.Sequential(
            nn.Conv2d(16, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1),
        )
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        return self.fc((x + self.inner(x)).relu().mean((2, 3)))


@pytest.fixture
def mlp() -> Task:
    torch.manual_seed(0)
    return Task(
        Mlp().double().eval(), (torch.randn(24, 4).double(), torch.arange(24) % 3), (torch.randn(6, 4).double(), torch.arange(6) % 3)
    )  # fmt: skip


def losses(task: Task, parameters: dict[str, Tensor]) -> Tensor:
    """Each example's own loss."""
    x, y = task.train.select(range(len(task.train)))
    return nn.functional.cross_entropy(functional_call(task.model, parameters, x), y, reduction="none")


def test_fisher_is_the_mean_square_of_each_examples_gradient(mlp: Task) -> None:
    parameters = {name: p.detach() for name, p in mlp.model.named_parameters()}
    each = jacrev(lambda p: losses(mlp, p))(parameters)
    found = fisher_diagonal(mlp.model, mlp.train, ["first.weight", "last.weight"], Run())
    assert set(found) == {"first.weight", "last.weight"}
    for name, value in found.items():
        torch.testing.assert_close(value.double(), each[name].square().mean(0), rtol=1e-5, atol=1e-10)
    assert all(p.grad is None for p in mlp.model.parameters())


def test_fisher_is_the_hessian_where_labels_are_drawn_from_the_model() -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 3).double().eval()
    x = torch.randn(6000, 3).double()
    y = torch.multinomial(model(x).softmax(1), 1)[:, 0]
    task = Task(model, (x, y), (x[:9], y[:9]))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    exact = hessian(lambda p: losses(task, p).mean())(parameters)["weight"]["weight"]
    diagonal = exact.reshape(9, 9).diagonal().reshape(3, 3)
    found = fisher_diagonal(model, task.train, ["weight"], Run())["weight"]
    assert float((found / diagonal - 1).abs().max()) < 0.15


def test_hutchinson_nears_the_exact_diagonal_and_obd_is_half_of_it_times_the_square(mlp: Task) -> None:
    parameters = {name: p.detach() for name, p in mlp.model.named_parameters()}
    exact = hessian(lambda p: losses(mlp, p).mean())(parameters)["first.weight"]["first.weight"]
    diagonal = exact.reshape(20, 20).diagonal().reshape(5, 4)
    off = exact.reshape(20, 20).square().sum(1).reshape(5, 4) - diagonal.square()
    # All weights share the signs, so the other layer's block adds variance too: bound by the whole row.
    cross = hessian(lambda p: losses(mlp, p).mean())(parameters)["first.weight"]["last.weight"]
    off = off + cross.reshape(20, 15).square().sum(1).reshape(5, 4)
    probes = 500
    found = hutchinson_diagonal(mlp.model, mlp.train, ["first.weight", "last.weight"], Run(), probes=probes)
    error = (found["first.weight"] - diagonal).abs()
    assert bool((error <= 5 * (off / probes).sqrt() + 1e-9).all())
    assert float(error.max()) < 0.35 * float(diagonal.abs().max())
    weight = parameters["first.weight"]
    torch.testing.assert_close(obd(weight, diagonal.abs()), 0.5 * diagonal.abs() * weight**2)


def test_noise_in_the_curvature_sends_no_large_weight_away_for_its_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 8, 3, 3, generator=generator)
    noise = torch.randn(16, 8, 3, 3, generator=generator)
    score = obd(weight, smoothed(noise))
    assert bool((score[weight != 0] > 0).all())
    # Within a kernel nothing but the size of a weight decides, since its positions share one estimate.
    order = score.flatten(2).argsort(2)
    assert torch.equal(order, weight.flatten(2).abs().argsort(2))
    flat = torch.tensor([[-2.0, 3.0]])
    assert torch.equal(smoothed(flat), flat.abs())


def test_the_hessian_of_a_layer_is_that_of_its_output_error() -> None:
    torch.manual_seed(0)
    for layer, shape in (
        (nn.Linear(4, 3), (6, 5, 4)),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2), (2, 3, 9, 8)),
        (nn.Conv2d(4, 6, 3, padding="same", groups=2), (2, 4, 5, 5)),
        (nn.Conv2d(2, 3, (3, 2), padding=(1, 0), padding_mode="reflect"), (2, 2, 6, 6)),
        (nn.Conv1d(2, 3, 3, padding=1), (2, 2, 7)),
        (nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), (1, 2, 4, 4, 4)),
    ):
        layer = layer.double().eval()
        model = nn.Sequential(layer)
        x = torch.randn(shape).double()
        with torch.no_grad():
            output = model(x)
        task = Task(nn.Identity(), (x, torch.zeros(len(x))), (x, torch.zeros(len(x))))
        found = input_hessians(model, task.train, {"0": layer}, Run())["0"]
        change = torch.randn_like(layer.weight)
        moved = copy.deepcopy(layer)
        with torch.no_grad():
            moved.weight += change
            error = (moved(x) - output).square()
        places = error.numel() / layer.weight.shape[0]
        groups = change.flatten(1).reshape(len(found), -1, found.shape[1])
        predicted = 0.5 * torch.einsum("grd,gde,gre->", groups, found, groups)
        assert float(predicted) == pytest.approx(float(error.sum()) / places, rel=1e-6)


def quadratic(change: np.ndarray, hessian_: np.ndarray) -> float:
    return float(0.5 * change @ hessian_ @ change)


def best_without(weight: np.ndarray, hessian_: np.ndarray, gone: tuple[int, ...]) -> np.ndarray:
    """The rest of the row that minimises the quadratic with these weights at zero, solved directly."""
    rest = [i for i in range(len(weight)) if i not in gone]
    found = np.zeros_like(weight)
    # minimise over w': (w'−w)ᵀH(w'−w) with w'[gone] = 0
    found[rest] = np.linalg.solve(hessian_[np.ix_(rest, rest)], hessian_[rest] @ weight)
    return found


def test_the_surgeon_is_exact() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    hessian_ = 2 * x.T @ x / 40
    weight = rng.normal(size=(5, 6))
    inverse = damped_inverse(torch.from_numpy(hessian_), damping=0.0)
    one = surgeon(torch.from_numpy(weight), inverse, least_of_rows(1 / 6, 1), 1).numpy()
    three = surgeon(torch.from_numpy(weight), inverse, least_of_rows(0.5, 3), 3).numpy()
    for row, after_one, after_three in zip(weight, one, three, strict=True):
        # One weight: the cheapest of all, and the best answer for it.
        options = {i: best_without(row, hessian_, (i,)) for i in range(6)}
        best = min(options, key=lambda i: quadratic(options[i] - row, hessian_))
        np.testing.assert_allclose(after_one, options[best], atol=1e-8)
        # Three, one at a time: greedy at every step, and the best answer for what is gone.
        gone: tuple[int, ...] = ()
        for _ in range(3):
            left = [i for i in range(6) if i not in gone]
            gone += (
                min(left, key=lambda i: quadratic(best_without(row, hessian_, (*gone, i)) - row, hessian_)),
            )
        np.testing.assert_allclose(after_three, best_without(row, hessian_, gone), atol=1e-8)
        brute = min(
            quadratic(best_without(row, hessian_, some) - row, hessian_)
            for some in itertools.combinations(range(6), 3)
        )
        reached = quadratic(after_three - row, hessian_)
        assert brute <= reached + 1e-12
        plain = row * (np.argsort(np.argsort(np.abs(row))) >= 3)
        assert reached <= quadratic(plain - row, hessian_)


def test_the_surgeon_keeps_two_of_four_and_survives_dead_inputs() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 16).double()
    x[:, 3] = 0  # an input that is never there
    hessian_ = 2 * x.T @ x / 50
    weight = torch.randn(3, 16).double()
    found = surgeon(weight, damped_inverse(hessian_), two_of_four(8), 2).reshape(3, 2, 4, 2)
    assert bool((found != 0).sum(2).eq(2).all())
    assert bool(found.isfinite().all())
    assert torch.equal(damped_inverse(torch.zeros(3, 3).double()), torch.eye(3).double())


def test_masks_keep_exactly_the_largest() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 2.0]])
    assert keep_largest(scores, 0.25).tolist() == [[True, False], [True, True]]
    assert keep_largest(torch.ones(8), 0.5).sum() == 4
    both = keep_largest_of_all({"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([2.0, 3.0])}, 0.5)
    assert {name: mask.tolist() for name, mask in both.items()} == {"a": [False, True], "b": [False, True]}
    weight = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = keep_two_of_four(weight.abs())
    for o, g, i, j in itertools.product(range(3), range(2), range(2), range(2)):
        four = weight[o, 4 * g : 4 * g + 4, i, j].abs()
        assert set(mask[o, 4 * g : 4 * g + 4, i, j].nonzero()[:, 0].tolist()) == set(
            four.topk(2).indices.tolist()
        )


@pytest.mark.parametrize("channels", [4, 8, 12, 24])
def test_a_permutation_is_never_worse_than_none_and_exact_where_small(channels: int) -> None:
    for seed in range(6):
        magnitude = torch.rand(5, channels, generator=torch.Generator().manual_seed(seed)).double() ** 3
        order = best_order(magnitude)
        assert sorted(order) == list(range(channels))
        assert retained(magnitude, order) >= retained(magnitude, list(range(channels))) - 1e-12
        if channels == 8:
            brute = max(
                retained(magnitude, [*a, *(i for i in range(8) if i not in a)])
                for a in itertools.combinations(range(8), 4)
            )
            assert retained(magnitude, order) == pytest.approx(brute, rel=1e-5)
        if channels == 24:
            assert retained(magnitude, order) > retained(magnitude, list(range(channels)))
    with pytest.raises(ValueError, match="do not come in fours"):
        best_order(torch.rand(2, 6).double())


@pytest.fixture
def resnet() -> Task:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 1, 8, 8, generator=generator), torch.randint(5, (24,), generator=generator)
    return Task(randomised(Tiny()), (x, y), (x, y))


def test_reordered_channels_answer_the_same_and_keep_more(resnet: Task) -> None:
    model, x = resnet.model, resnet.example(4)
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    readers = {name: layer for name, layer in layers.items() if layer.weight.shape[1] % 4 == 0}
    better, changed = permuted(model, ChannelGraph.of(model, resnet.zeros(2)), readers, x)
    assert changed
    with torch.no_grad():
        torch.testing.assert_close(better(x), model(x), rtol=1e-4, atol=1e-5)
    kept = [
        sum(
            float((w.abs() * keep_two_of_four(w.abs())).sum())
            for w in (net.get_submodule(n).weight.detach() for n in readers)
        )
        for net in (model, better)
    ]
    assert kept[1] > kept[0]


@pytest.mark.parametrize("saliency", [s for s in Saliency if s is not Saliency.MOVEMENT])
@pytest.mark.parametrize("pattern", [Free(0.6, Scope.UNIFORM), TwoOfFour(permute=False)])
def test_what_was_asked_is_zero_and_nothing_else(
    resnet: Task, saliency: Saliency, pattern: Free | TwoOfFour
) -> None:
    before = copy.deepcopy(resnet.model.state_dict())
    technique = Sparsify(pattern, saliency, examples=8)
    assert isinstance(technique, Technique)
    assert technique.preflight(resnet.model, resnet, Device()) == []
    applied = technique.apply(resnet.model, resnet, Run())
    assert applied.resolved == technique.apply(resnet.model, resnet, Run()).resolved
    json.dumps(applied.resolved, allow_nan=False)
    assert all(torch.equal(value, before[name]) for name, value in resnet.model.state_dict().items())
    wanted = 0.6 if isinstance(pattern, Free) else 0.5
    assert applied.resolved["sparsity"] == pytest.approx(wanted, abs=0.01)
    for name, layer in applied.model.named_modules():
        if name in applied.resolved["zeros"]:
            assert float((layer.weight == 0).float().mean()) == pytest.approx(wanted, abs=0.05)
            assert not bool(torch.signbit(layer.weight[layer.weight == 0]).any())
            if saliency is not Saliency.OBS:
                same = layer.weight == before[f"{name}.weight"]
                assert bool((same | (layer.weight == 0)).all())


def test_a_healing_that_the_time_cuts_short_is_none(resnet: Task) -> None:
    for stages in (1, 2):
        technique = Sparsify(Free(0.8), stages=stages, epochs=2)
        with pytest.raises(
            OutOfTime, match=rf"after 0 of {2 / stages:g} passes of healing \(stage 1 of {stages}\)"
        ):
            technique.apply(resnet.model, resnet, Run(deadline=time.monotonic()))


def test_stages_heal_and_zeros_stay(resnet: Task) -> None:
    applied = Sparsify(Free(0.8), stages=2, epochs=2, examples=8).apply(resnet.model, resnet, Run())
    assert applied.resolved["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert len(applied.resolved["healed"]) == 2
    moved = any(
        not torch.equal(p[p != 0], resnet.model.get_parameter(n)[p != 0])
        for n, p in applied.model.named_parameters()
    )
    assert moved


def zeros_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p == 0 for name, p in model.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3, 0.9])
def test_healing_keeps_every_zero_however_few_there_are(resnet: Task, ratio: float) -> None:
    before = zeros_of(Sparsify(Free(ratio)).apply(resnet.model, resnet, Run()).model)
    healed = Sparsify(Free(ratio), epochs=2).apply(resnet.model, resnet, Run())
    assert healed.resolved["sparsity"] == pytest.approx(ratio, abs=1e-3)
    assert all(torch.equal(zero, before[name]) for name, zero in zeros_of(healed.model).items())
    later = Distill(epochs=1).apply(healed.model, resnet, Run())
    assert later.resolved["kept"] == "trained"
    assert all(torch.equal(zero, before[name]) for name, zero in zeros_of(later.model).items())


def test_layers_emptied_by_pruning_stay_empty_and_branches_that_start_at_zero_grow(resnet: Task) -> None:
    model = copy.deepcopy(resnet.model)
    with torch.no_grad():
        for network in (model, resnet.model):
            network.get_submodule("inner.0").weight.zero_()
        model.get_submodule("fc").weight.zero_()
    with held_zeros(model, resnet.model) as held:
        assert held == ["fc.weight"]
    with held_zeros(model) as held:
        assert held == []


def test_a_factor_that_is_emptied_stays_empty(resnet: Task) -> None:
    model = copy.deepcopy(resnet.model)
    model.fc = nn.Sequential(
        nn.Linear(16, 16, bias=False), model.fc
    )  # of a name that the task's network has not
    with torch.no_grad():
        model.fc[0].weight.copy_(torch.eye(16) + 1e-3)
    emptied = Sparsify(Free(0.9999), epochs=1, layers=("fc.0",)).apply(model, resnet, Run())
    assert emptied.resolved["sparsity"] == 1.0


def test_sharing_in_some_layers_leaves_the_zeros_of_the_others(resnet: Task) -> None:
    steps = (Sparsify(Free(0.6)), Share(Scalar(3), epochs=2, layers=("inner.*",)))
    sparse = Sparsify(Free(0.6)).apply(resnet.model, resnet, Run()).model
    made, told = apply_recipe(Recipe(steps), resnet, Run())
    assert told[1].resolved["healed"]["kept"]
    assert not torch.equal(made.get_submodule("conv1").weight, sparse.get_submodule("conv1").weight)
    assert all(torch.equal(zero, zeros_of(sparse)[name]) for name, zero in zeros_of(made).items())


def test_movement_learns_which_weights_go(resnet: Task) -> None:
    technique = Sparsify(Free(0.5, Scope.UNIFORM), Saliency.MOVEMENT, epochs=4)
    applied = technique.apply(resnet.model, resnet, Run())
    assert applied.resolved["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert {n for n, _ in applied.model.named_parameters()} == {n for n, _ in resnet.model.named_parameters()}
    assert type(applied.model.get_submodule("conv1")) is nn.Conv2d
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    scores = torch.tensor([0.3, 0.1, 0.2], requires_grad=True)
    masked = TopShare.apply(weight, scores, 1 / 3)
    assert masked.tolist() == [1.0, 0.0, 3.0]
    masked.backward(torch.tensor([1.0, 1.0, -1.0]))
    assert weight.grad.tolist() == [1.0, 0.0, -1.0]
    assert scores.grad.tolist() == [1.0, -2.0, -3.0]
    assert [cubic(0.9, t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.9 * 0.875, 0.9])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": Free(0.5), "saliency": Saliency.OBS}, "within a layer"),
        ({"pattern": TwoOfFour(), "saliency": Saliency.MOVEMENT}, "learns while it trains"),
        ({"stages": 2}, "only with epochs"),
        ({"stages": 2, "epochs": 1.0, "pattern": TwoOfFour()}, "one stage"),
        ({"epochs": float("nan")}, "epochs must be"),
        ({"examples": 0}, "examples must be"),
    ],
)
def test_what_cannot_be_asked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sparsify(**arguments)  # type: ignore[arg-type]


def test_problems_name_layers(resnet: Task) -> None:
    def told(technique: Sparsify) -> list[str]:
        return [str(problem) for problem in technique.preflight(resnet.model, resnet, Device())]

    assert "did you mean 'conv1'" in told(Sparsify(layers=("conv2",)))[0]
    assert "conv1: its 1 inputs do not come in fours" in told(Sparsify(TwoOfFour(), layers=("conv1",)))[-1]
    resnet.model.get_submodule("fc").weight.data[0, 0] = float("nan")
    assert told(Sparsify()) == ["fc: its weight holds NaN or inf"]
    with pytest.raises(NetworkError, match="can be made sparse"):
        Sparsify().apply(nn.ReLU(), resnet, Run())
    with pytest.raises(ValueError, match="ratio must be between"):
        Free(1.0)
