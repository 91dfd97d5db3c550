"""CP, tensor train, activation-aware SVD and variational ranks: exact where they should be, and as techniques."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tenfold.compress.factorize import Factorize, Kernels, Share, Vbmf
from tenfold.compress.factorize.factors import (
    cp,
    damped,
    singular_values,
    svd_factors,
    tensor_train,
    whitened_svd,
)
from tenfold.compress.factorize.forms import Canonical, Matrix, Train
from tenfold.compress.factorize.ranks import vbmf_rank
from tenfold.compress.technique import Run
from tenfold.cost import Device, profile
from tenfold.data import Task
from tenfold.errors import RecipeError


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cp_is_exact_at_full_rank_and_finds_few_terms() -> None:
    kernel = seeded(6, 4, 9)
    full = cp(kernel, 24)  # min over pairs of sides: 6·4
    torch.testing.assert_close(torch.einsum("or,ir,kr->oik", *full), kernel, atol=1e-8, rtol=0)
    few = [seeded(n, 2, seed=i) for i, n in enumerate((6, 4, 9))]
    truth = torch.einsum("or,ir,kr->oik", *few)
    found = cp(truth, 2, iterations=500)
    assert float((torch.einsum("or,ir,kr->oik", *found) - truth).norm() / truth.norm()) < 1e-2
    errors = [float((torch.einsum("or,ir,kr->oik", *cp(kernel, 3, n)) - kernel).norm()) for n in (1, 3, 10)]
    assert errors == sorted(errors, reverse=True)


def test_a_tensor_train_is_exact_at_full_rank_and_within_its_bound() -> None:
    tensor = seeded(4, 3, 3, 6)
    cores = tensor_train(tensor, (4, 12, 6))
    whole = torch.einsum("axb,byc,czd,dwe->xyzw", *cores)
    torch.testing.assert_close(whole, tensor, atol=1e-10, rtol=0)
    ranks = (2, 4, 3)
    near = torch.einsum("axb,byc,czd,dwe->xyzw", *tensor_train(tensor, ranks))
    bound = sum(
        float(torch.linalg.svdvals(tensor.reshape(rows, -1))[rank:].square().sum())
        for rows, rank in zip((4, 12, 36), ranks, strict=True)
    )
    assert float((near - tensor).square().sum()) <= bound * (1 + 1e-9)


def test_the_whitened_svd_is_best_for_the_outputs() -> None:
    weight, x = seeded(5, 8), seeded(8, 8, seed=1) @ seeded(8, 200, seed=2)
    moment = x @ x.T / 200
    left, right = whitened_svd(weight, moment, 3)
    plain = svd_factors(weight, 3)

    def lost(near: Tensor) -> float:
        return float(((weight - near) @ x).square().sum() / 200)

    # Eckart and Young: the least error of any answer of rank 3 is the tail of the outputs' spectrum.
    best = float(torch.linalg.svdvals(weight @ x)[3:].square().sum() / 200)
    assert lost(left @ right) == pytest.approx(best, rel=1e-6)
    assert lost(left @ right) < lost(plain[0] @ plain[1])
    exact = whitened_svd(weight, moment, 5)
    torch.testing.assert_close(exact[0] @ exact[1], weight, atol=1e-8, rtol=0)
    assert bool(torch.isfinite(torch.linalg.cholesky(damped(torch.zeros(3, 3)))).all())


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_variational_ranks_tell_signal_from_noise(rank: int) -> None:
    rng = np.random.default_rng(rank)
    signal = rng.normal(size=(40, rank)) @ rng.normal(size=(rank, 90))
    noisy = torch.from_numpy(signal + 0.3 * rng.normal(size=signal.shape))
    assert vbmf_rank(singular_values(noisy), 90) == rank
    assert vbmf_rank(singular_values(noisy), 90, multiple=8) == 8 * -(-rank // 8)
    assert vbmf_rank(singular_values(torch.from_numpy(rng.normal(size=(40, 90)))), 90) == 1
    assert vbmf_rank(torch.zeros(5), 9) == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.Conv2d(6, 8, (3, 1), padding=(2, 0), dilation=(2, 1), bias=False),
        nn.Conv2d(4, 4, 5, padding=2, stride=(1, 2)),
    ],
)
def test_every_form_equals_its_layer_at_full_rank_and_costs_what_it_says(layer: nn.Conv2d) -> None:
    torch.manual_seed(0)
    layer = layer.double().eval()
    x = seeded(2, layer.in_channels, 12, 10)
    moment = torch.eye(layer.weight[0].numel(), dtype=torch.float64)
    with torch.no_grad():
        wanted = layer(x)
        for form in (Matrix(), Canonical(), Train()):
            row = form.factorised(layer, form.largest(layer), moment)
            torch.testing.assert_close(row(x), wanted, atol=1e-7, rtol=0)
    places_in, places_out = x[0, 0].numel(), wanted[0, 0].numel()
    for form, ranks in ((Matrix(), (3,)), (Canonical(), (3,)), (Train(), (2, 3, 2))):
        row, price = form.row(layer, ranks), form.price(layer, places_in, places_out, ranks)
        assert price.parameters == sum(p.numel() for p in row.parameters() if p.dim() > 1)
        counted = profile(row.float(), x[:1].float()).macs
        assert price.macs == pytest.approx(counted, rel=0.25 if isinstance(form, Train) else 1e-9)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.wide(self.conv(x).relu()).relu().mean((2, 3)))


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    x = torch.randn(24, 3, 8, 8)
    return Task(Net().eval(), (x, torch.arange(24) % 10), (x[:8], torch.arange(8)))


@pytest.mark.parametrize(
    "technique",
    [
        Factorize(Share(0.6), kernels=Kernels.CP, multiple=1),
        Factorize(Share(0.6), kernels=Kernels.TENSOR_TRAIN, multiple=1),
        Factorize(Share(0.6), activations=16, multiple=1),
        Factorize(Share(0.6), kernels=Kernels.SVD, multiple=1),
        Factorize(Vbmf(), multiple=1),
    ],
)
def test_the_technique_shrinks_and_rebuilds(task: Task, technique: Factorize) -> None:
    assert technique.preflight(task.model, task, Device()) == []
    applied = technique.apply(task.model, task, Run())
    assert applied.resolved["layers"]
    before, after = applied.resolved["parameters"]
    assert after < before
    rebuilt = technique.rebuild(Net(), json.loads(json.dumps(applied.resolved)), task.zeros())
    rebuilt.load_state_dict(applied.model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(task.example(4)), applied.model(task.example(4)))


def test_activations_lose_less_of_the_outputs_than_weights_alone(task: Task) -> None:
    lost, ranks = [], []
    with torch.no_grad():
        hidden = task.model.conv(task.example(24)).relu()
        wanted = task.model.wide(hidden)
        for activations in (24, 0):
            technique = Factorize(
                Share(0.5), layers=("wide",), multiple=1, kernels=Kernels.SVD, activations=activations
            )
            applied = technique.apply(task.model, task, Run())
            ranks.append(applied.resolved["layers"]["wide"])
            lost.append(float((applied.model.wide(hidden) - wanted).square().sum()))
    assert ranks[0] == ranks[1]
    assert lost[0] < lost[1]


def test_an_svd_by_the_weights_alone_is_the_nearest_matrix(task: Task) -> None:
    weight = task.model.wide.weight.detach().flatten(1).double()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    first, second = Matrix().factorised(task.model.wide, (5,), None)
    product = second.weight.flatten(1).double() @ first.weight.flatten(1).double()
    torch.testing.assert_close(product, (u[:, :5] * s[:5]) @ v[:5], atol=1e-6, rtol=0)


def test_what_does_not_go_together_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="activations go with no kernels of the form cp"):
        Factorize(kernels=Kernels.CP, activations=8)
    with pytest.raises(ValueError, match="activations must be"):
        Factorize(activations=-1)
    odd = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.Flatten(), nn.Linear(512, 10))
    problems = Factorize(kernels=Kernels.CP, layers=("0",)).preflight(odd, task, Device())
    assert str(problems[0]) == "0: cannot be factorised: its padding goes with no cp form"
    for ranks in ([3], [1, 2, 99], [0, 1, 1], "x"):
        with pytest.raises(RecipeError, match="do not fit"):
            Factorize(kernels=Kernels.TENSOR_TRAIN).rebuild(
                task.model, {"layers": {"wide": ranks}}, task.zeros()
            )
