"""Linear layers as tensor trains: against the weight that the cores multiply to, and as a technique to the end."""

from __future__ import annotations

import json
import math
from functools import reduce
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, apply_recipe, load, parse_recipe, save
from tenfold.compress.factorize import Energy, Factorize, Kernels, Linears, Share, Vbmf
from tenfold.compress.factorize.forms import Train
from tenfold.compress.factorize.trains import TrainLinear, TrainMatrix, balanced, carried
from tenfold.compress.quantize import Quantize
from tenfold.cost import Device, profile
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, export_onnx, verify
from tenfold.errors import RecipeError


def weight_of(train: TrainLinear) -> Tensor:
    """(O, I): the cores contracted by one einsum, each read from its layer's weight (o·s, r·i)."""
    cores = []
    layers = (*train.first, train.last)
    for layer, (r, s), o, i in zip(layers, pairwise((*train.ranks, 1)), train.out, train.into, strict=True):
        cores.append(layer.weight.detach().reshape(o, s, r, i))
    if len(cores) == 2:
        whole = torch.einsum("asri,bqsj->abij", *cores)  # r = q = 1
    else:
        whole = torch.einsum("asri,btsj,cqtk->abcijk", *cores)
    return whole.reshape(math.prod(train.out), math.prod(train.into))


def unfoldings(weight: Tensor, train: TrainLinear) -> list[Tensor]:
    """For each k the matrix with rows (o_1, i_1, …, o_k, i_k)."""
    d = len(train.out)
    split, found = weight.reshape(*train.out, *train.into), []
    for k in range(1, d):
        before, after = [*range(k)], [*range(k, d)]
        order = [*before, *(d + a for a in before), *after, *(d + a for a in after)]
        rows = math.prod(train.out[:k]) * math.prod(train.into[:k])
        found.append(split.permute(order).reshape(rows, -1))
    return found


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([2, 3]), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_train_computes_the_matrix_of_its_cores_and_keeps_within_the_bound(
    into: int, out: int, cores: int, bias: bool, data: st.DataObject
) -> None:
    torch.manual_seed(into + 100 * out)
    layer, form = nn.Linear(into, out, bias=bias).double(), TrainMatrix(cores)
    largest = form.largest(layer)
    exact = form.factorised(layer, largest, None)
    torch.testing.assert_close(weight_of(exact), layer.weight.detach(), atol=1e-9, rtol=0)
    wanted = tuple(data.draw(st.integers(1, top)) for top in largest)
    ranks = form.ranks(layer, wanted)
    assert all(rank <= want for rank, want in zip(ranks, wanted, strict=True))
    train = form.factorised(layer, ranks, None)
    whole, shape = weight_of(train), data.draw(st.sampled_from([(into,), (3, into), (2, 3, into)]))
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(train(x), nn.functional.linear(x, whole, layer.bias), atol=1e-9, rtol=0)
        torch.testing.assert_close(exact(x), layer(x), atol=1e-9, rtol=0)
    # Oseledets (2011), theorem 2.2: no more is lost than the unfoldings discard altogether.
    discarded = sum(
        float(torch.linalg.svdvals(matrix)[rank:].square().sum())
        for matrix, rank in zip(unfoldings(layer.weight.detach(), train), ranks, strict=True)
    )
    assert float((whole - layer.weight).detach().square().sum()) <= discarded * (1 + 1e-9) + 1e-12
    price = form.price(layer, 6, 6, ranks)
    assert price.parameters == sum(p.numel() for p in train.parameters() if p.dim() > 1)


@pytest.mark.parametrize("cores", [2, 3])
def test_it_is_counted_as_it_is_priced(cores: int) -> None:
    layer, form = nn.Linear(24, 36), TrainMatrix(cores)
    ranks = (3, 2)[: cores - 1]
    train = form.factorised(layer, ranks, None).eval()
    counted = profile(train, torch.randn(1, 5, 24))
    assert counted.macs == form.price(layer, 5, 5, ranks).macs
    assert counted.params == sum(p.numel() for p in train.parameters())
    # By hand: out 4·9 or 3·3·4, in 6·4 or 4·3·2 (descending).
    if cores == 2:
        assert (train.out, train.into) == ((6, 6), (6, 4))
        assert counted.macs == 5 * (6 * 3 * 6 * 4 + 6 * (6 * 3 * 4))
    else:
        assert (train.out, train.into) == ((3, 3, 4), (4, 3, 2))
        assert counted.macs == 5 * ((3 * 3 * 4) * 6 + 3 * (3 * 2 * 3 * 3) * 2 + 9 * (4 * 2 * 2))


@given(st.integers(1, 3000), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_factors_are_balanced(number: int, parts: int) -> None:
    found = balanced(number, parts)
    assert math.prod(found) == number
    assert len(found) == parts
    assert list(found) == sorted(found)
    if parts == 2:
        assert found[0] == max(d for d in range(1, math.isqrt(number) + 1) if number % d == 0)


def test_three_factors_have_the_least_sum() -> None:
    for number in (12, 64, 100, 97, 360, 768):
        options = [
            (a, b, number // (a * b))
            for a in range(1, number + 1) if number % a == 0
            for b in range(1, number // a + 1) if number // a % b == 0
        ]  # fmt: skip
        assert sum(balanced(number, 3)) == min(map(sum, options))


def test_a_sum_of_two_kronecker_products_is_found_exactly() -> None:
    """What a train of two cores takes for simple: with A (o_1, i_1) and B (o_2, i_2), A ⊗ B has rank 1."""
    torch.manual_seed(0)
    parts = [(torch.randn(4, 6).double(), torch.randn(5, 4).double()) for _ in range(2)]
    layer = nn.Linear(24, 20, bias=False).double()
    layer.weight.data = sum(torch.kron(a, b) for a, b in parts)
    train = TrainMatrix(2).factorised(layer, (2,), None)
    torch.testing.assert_close(weight_of(train), layer.weight.detach(), atol=1e-9, rtol=0)
    assert int(torch.linalg.matrix_rank(layer.weight)) > 2


class Net(nn.Module):
    """(N, 3, 4, 4) -> (N, 10)"""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Linear(64, 64)
        self.fc = nn.Linear(64, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.wide(self.conv(x).relu().flatten(1)).relu())


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    model = Net().eval()
    # The sum of two products of six small matrices is a train of rank 2 wherever it is cut.
    low = sum(reduce(torch.kron, [torch.randn(2, 2) for _ in range(6)]) for _ in range(2))
    model.wide.weight.data = 0.1 * low / low.std() + 0.001 * torch.randn(64, 64)
    x = torch.randn(24, 3, 4, 4)
    return Task(model, (x, torch.arange(24) % 10), (x[:8], torch.arange(8)))


@pytest.mark.parametrize("linears", [Linears.TENSOR_TRAIN, Linears.TENSOR_TRAIN_3])
@pytest.mark.parametrize("keep", [Energy(0.95), Share(0.7), Vbmf()])
def test_the_technique_shrinks_saves_exports_and_rebuilds(
    task: Task, linears: Linears, keep: Energy | Share | Vbmf, tmp_path: Path
) -> None:
    technique = Factorize(keep, linears=linears, multiple=1)
    assert technique.preflight(task.model, task, Device()) == []
    model, steps = apply_recipe(Recipe((technique,)), task, Run())
    (step,) = steps
    assert "wide" in step.resolved["layers"]
    assert isinstance(model.get_submodule("wide"), TrainLinear)
    before, after = step.resolved["parameters"]
    assert before - after == sum(p.numel() for p in task.model.parameters()) - sum(
        p.numel() for p in model.parameters()
    )
    assert step.resolved["macs"][1] == profile(model, task.example(1)).macs
    made = load(save(tmp_path / "a", model, steps, inputs=task.example(1)), base=Net)
    x = task.example(8)
    with torch.no_grad():
        assert torch.equal(made(x), model(x))
    if isinstance(keep, Energy):
        export_onnx(model, task.example(2), tmp_path / "a.onnx")
        verify(model, OnnxRunner(tmp_path / "a.onnx"), x).require()


def test_a_train_is_quantised_like_the_layers_that_it_is_made_of(task: Task, tmp_path: Path) -> None:
    train = Factorize(Energy(0.95), linears=Linears.TENSOR_TRAIN, multiple=1)
    model, _ = apply_recipe(Recipe((train, Quantize())), task, Run())
    integers = {name for name, value in model.state_dict().items() if value.dtype == torch.int8}
    assert {"int8.wide.first.0.conv1d.weight", "int8.wide.last.linear.weight"} <= integers
    export_onnx(model, task.example(2), tmp_path / "a.onnx")
    verify(model, OnnxRunner(tmp_path / "a.onnx"), task.example(8)).require()


def test_recipes_of_before_and_of_now_are_read(task: Task) -> None:
    recipe = Recipe((Factorize(Share(0.5), linears=Linears.TENSOR_TRAIN_3, kernels=Kernels.CP),))
    assert parse_recipe(recipe.to_yaml()) == recipe
    before = recipe.to_yaml().replace("linears: tensor_train_3", "")
    assert parse_recipe(before) == Recipe((Factorize(Share(0.5), kernels=Kernels.CP),))
    # Kernels alone never made a linear layer a train, and do not.
    applied = Factorize(Share(0.7), kernels=Kernels.TENSOR_TRAIN, multiple=1).apply(task.model, task, Run())
    assert "wide" in applied.resolved["layers"]
    assert isinstance(applied.model.get_submodule("wide"), nn.Sequential)
    with pytest.raises(ValueError, match="activations go with no linears of the form tensor_train"):
        Factorize(linears=Linears.TENSOR_TRAIN, activations=8)
    for wrong in ({"linears": "tensor_train"}, {"kernels": Linears.SVD}):
        with pytest.raises(ValueError, match=r"must be one of .*\.SVD, .*TENSOR_TRAIN.*, not"):
            Factorize(**wrong)
    for ranks in ([], [1, 1], [0], [10**6], "x"):
        with pytest.raises(RecipeError, match="do not fit"):
            Factorize(linears=Linears.TENSOR_TRAIN).rebuild(
                task.model, {"layers": {"wide": ranks}}, task.zeros()
            )
    resolved = json.loads(json.dumps({"layers": {"wide": [3]}}))
    made = Factorize(linears=Linears.TENSOR_TRAIN).rebuild(task.model, resolved, task.zeros())
    assert made(task.example(2)).shape == (2, 10)


def test_no_rank_is_larger_than_what_comes_before_can_carry() -> None:
    assert carried((16, 3, 3, 16), (1, 12, 6)) == (1, 3, 6)
    assert carried((16, 3, 3, 16), (16, 20, 16)) == (16, 20, 16)
    layer = nn.Conv2d(16, 16, 3, padding=1)
    ranks = Train().ranks(layer, (1, 12, 6))  # as a rule that takes each unfolding by itself may choose them
    x = torch.randn(2, 16, 6, 6)
    assert Train().factorised(layer, ranks, None)(x).shape == layer(x).shape


def test_gradients_reach_every_core_and_a_weight_of_zeros_stays_one() -> None:
    layer = nn.Linear(12, 8)
    train = TrainMatrix(3).factorised(layer, (2, 2), None)
    norms = [float(core.weight.detach().norm()) for core in (*train.first, train.last)]
    assert max(norms) == pytest.approx(min(norms), rel=1e-5)
    train(torch.randn(4, 12)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in train.parameters())
    layer.weight.data.zero_()
    assert not bool(weight_of(TrainMatrix(3).factorised(layer, (2, 2), None)).any())
