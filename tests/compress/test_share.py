"""Sharing of values, vectors and layers: k-means against brute force, and the two techniques."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, Technique, apply_recipe, load, parse_recipe, save
from tenfold.compress.batches import held_out
from tenfold.compress.distill import Distill
from tenfold.compress.healing import heal
from tenfold.compress.layers import weighted_layers
from tenfold.compress.prune import Free, Saliency, Scope, Sparsify, TwoOfFour, learned_scores
from tenfold.compress.prune.curvature import input_hessians
from tenfold.compress.share import Partition, Product, Scalar, Share, Tie, kmeans
from tenfold.compress.share.codebooks import Looked, looked_up
from tenfold.compress.share.kmeans import best_values, error, lloyd, nearest_centroid
from tenfold.compress.share.tying import nearest_runs, stacks_of
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.training.losses import distillation_loss


def brute_force(points: np.ndarray, weights: np.ndarray, number: int) -> float:
    """The least cost over every assignment of points to clusters."""
    best = np.inf
    for labels in itertools.product(range(number), repeat=len(points)):
        cost = 0.0
        for label in set(labels):
            chosen = np.array(labels) == label
            mean = np.average(points[chosen], axis=0, weights=weights[chosen])
            cost += float((weights[chosen, None] * (points[chosen] - mean) ** 2).sum())
        best = min(best, cost)
    return best


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(1, 3), count=st.integers(3, 7))
def test_values_are_clustered_exactly(seed: int, number: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points, weights = rng.normal(size=(count, 1)).round(2), rng.uniform(0.1, 2, count)
    tensors = torch.from_numpy(points), torch.from_numpy(weights)
    centroids, codes = kmeans(tensors[0], number, weights_N=tensors[1])
    assert len(centroids) <= number
    assert error(*tensors, centroids, codes) == pytest.approx(brute_force(points, weights, number), abs=1e-9)


def test_vectors_reach_the_best_of_brute_force_in_most_draws_and_never_beat_it() -> None:
    reached = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(7, 2)) + 3 * rng.integers(0, 2, size=(7, 1))
        best = brute_force(points, np.ones(7), 2)
        tensor = torch.from_numpy(points)
        found = min(error(tensor, torch.ones(7).double(), *kmeans(tensor, 2, seed=s)) for s in range(8))
        assert found >= best - 1e-9
        reached += found <= best + 1e-9
    assert reached >= 9


def test_lloyd_never_makes_it_worse_and_many_values_are_nearly_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5000, 1, generator=generator).double()
    ones = torch.ones(5000).double()
    start = torch.linspace(-2, 2, 8).double()[:, None]
    before = error(points, ones, start, nearest_centroid(points, start))
    linear = error(points, ones, *lloyd(points, ones, start))
    found = error(points, ones, *kmeans(points, 8))
    assert found <= linear * (1 + 1e-6) <= before
    # The optimum of a Gaussian with 8 levels has a distortion of 0.03454 (Max, 1960).
    assert found / 5000 == pytest.approx(0.0345, rel=0.06)
    few = best_values(np.array([1.0, 1.0, 2.0, 9.0]), np.ones(4), 2)
    assert few.tolist() == pytest.approx([4 / 3, 9.0])


class Stack(nn.Module):
    """(N, 16) -> (N, 4): five equal layers between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 24)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24)) for _ in range(5))
        self.last = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.last(x)


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model = Stack().eval()
    x = torch.randn(64, 16)
    return Task(model, (x, model(x).argmax(1)), (x[:20], model(x[:20]).argmax(1)))


def test_shared_values_are_few_and_stored_as_indices(task: Task, tmp_path: Path) -> None:
    before = copy.deepcopy(task.model.state_dict())
    technique = Share(Scalar(3))
    assert isinstance(technique, Technique)
    assert technique.preflight(task.model, task, Device()) == []
    made, steps = apply_recipe(Recipe((technique,)), task, Run())
    json.dumps(steps[0].resolved, allow_nan=False)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    for name in steps[0].resolved["entries"]:
        weight = made.get_submodule(name).weight
        assert len(torch.unique(weight)) <= 8
        original = before[f"{name}.weight"]
        share = float(((weight - original).square().sum() / original.square().sum()).detach())
        assert share == pytest.approx(steps[0].resolved["relative_errors"][name], rel=1e-4)
        assert share < 0.05
    save(tmp_path / "a", task.model, (), inputs=task.example(1))
    save(tmp_path / "b", made, steps, inputs=task.example(1))
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in "ab"]
    assert sizes[1] < 0.45 * sizes[0]
    loaded = load(tmp_path / "b", base=Stack)
    with torch.no_grad():
        assert torch.equal(loaded(task.example(8)), made(task.example(8)))


@pytest.mark.parametrize(("ratio", "bits"), [(0.05, 4), (0.15, 2)])
def test_few_zeros_stay_and_are_one_of_the_values(task: Task, ratio: float, bits: int) -> None:
    sparse = Sparsify(Free(ratio, Scope.UNIFORM)).apply(task.model, task, Run()).model
    shared = Share(Scalar(bits), epochs=1).apply(sparse, task, Run()).model
    layers = weighted_layers(shared)
    assert layers
    for name, layer in weighted_layers(sparse).items():
        before, after = layer.weight == 0, layers[name].weight
        assert bool(before.any())
        assert bool((after[before] == 0).all())
        if before.numel() >= 2 * 2**bits:
            assert len(after.unique()) <= 2**bits


def test_vectors_are_refused_for_sparse_weights_before_any_work(task: Task) -> None:
    sparse = Sparsify(Free(0.7)).apply(task.model, task, Run()).model
    problems = Share(Product(2, 4)).preflight(sparse, task, Device())
    assert problems
    assert all("would fill their zeros" in str(problem) for problem in problems)
    with pytest.raises(RecipeError, match="would fill their zeros"):
        Recipe((Sparsify(Free(0.7)), Share(Product(2, 4))))


def test_fine_tuned_values_stay_shared_zeros_stay_and_the_loss_falls(task: Task) -> None:
    for codebook in (Scalar(1), Product(4, 8)):
        applied = Share(codebook, epochs=8).apply(task.model, task, Run())
        healed = applied.resolved["healed"]
        assert healed["kept"]
        assert healed["after"] < healed["before"]
        assert type(applied.model.get_submodule("first")) is nn.Linear
        assert {n for n, _ in applied.model.named_parameters()} == {
            n for n, _ in task.model.named_parameters()
        }
        for name, entries in applied.resolved["entries"].items():
            vectors = applied.model.get_submodule(name).weight.reshape(-1, codebook.length)
            assert len(torch.unique(vectors, dim=0)) <= entries <= codebook.entries
    sparse = Sparsify(Free(0.7)).apply(task.model, task, Run()).model
    zero = {name: p == 0 for name, p in sparse.named_parameters() if p.dim() > 1}
    shared = Share(Scalar(3), epochs=2).apply(sparse, task, Run()).model
    assert all(bool((shared.get_parameter(name)[mask] == 0).all()) for name, mask in zero.items())
    assert len(torch.unique(shared.get_parameter("first.weight"))) <= 9
    with pytest.raises(NetworkError, match="would fill their zeros"):
        Share(Product(2, 4)).apply(sparse, task, Run())


def test_product_codebooks_share_vectors(task: Task) -> None:
    made = Share(Product(4, 16), layers=("layers.*",)).apply(task.model, task, Run())
    assert set(made.resolved["entries"]) == {f"layers.{i}.0" for i in range(5)}
    for name in made.resolved["entries"]:
        assert len(torch.unique(made.model.get_submodule(name).weight.reshape(-1, 4), dim=0)) <= 16


def test_what_share_refuses(task: Task) -> None:
    def told(technique: Share) -> str:
        return "; ".join(map(str, technique.preflight(task.model, task, Device())))

    assert "did you mean 'first'" in told(Share(layers=("frist",)))
    assert "last: its 96 weights are too few for a table of 256" in told(Share(Scalar(8), layers=("last",)))
    assert "first: its 384 weights do not divide into vectors of 9" in told(
        Share(Product(9, 2), layers=("first",))
    )
    for made, message in (
        (lambda: Scalar(0), "bits"), (lambda: Product(3), "length"), (lambda: Product(4, 1), "entries"), (lambda: Share(epochs=-1), "epochs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            made()
    for later in ("distill", "factorize", "tie"):
        with pytest.raises(RecipeError, match=rf"r:3: step 2: {later} may not follow share: "):
            parse_recipe(f"steps:\n- technique: share\n- technique: {later}\n", "r")
    assert len(parse_recipe("steps:\n- technique: share\n- technique: quantize\n").steps) == 2


@pytest.mark.parametrize("norms", [False, True])
def test_tied_layers_are_one_on_disk_and_load_tied(task: Task, tmp_path: Path, norms: bool) -> None:
    technique = Tie(norms=norms)
    assert technique.preflight(task.model, task, Device()) == []
    made, steps = apply_recipe(Recipe((technique,)), task, Run())
    assert steps[0].resolved["groups"] == [[f"layers.{i}" for i in range(5)]]
    mean = torch.stack([layer[0].weight for layer in task.model.layers]).mean(0)
    assert all(layer[0].weight is made.layers[0][0].weight for layer in made.layers)
    assert (made.layers[1][1].weight is made.layers[0][1].weight) == norms
    torch.testing.assert_close(made.layers[3][0].weight, mean)
    assert not torch.equal(task.model.layers[0][0].weight, mean)
    save(tmp_path / "a", made, steps, inputs=task.example(1))
    loaded = load(tmp_path / "a", base=Stack)
    assert loaded.layers[4][0].weight is loaded.layers[0][0].weight
    with torch.no_grad():
        assert torch.equal(loaded(task.example(8)), made(task.example(8)))
    own = sum(p.numel() for p in made.parameters())
    assert own < 0.45 * sum(p.numel() for p in task.model.parameters())


def losses(task: Task, model: nn.Module) -> float:
    """What `Share` and movement heal by, on the examples that judge them."""
    _, inputs, targets = next(iter(held_out(task.train)[1].batches(1000)))
    with torch.no_grad():
        return float(
            distillation_loss(model(inputs), task.model(inputs), targets, temperature=4.0, alpha=0.1)
        )


def test_tied_layers_are_healed_as_the_network_that_is_returned(task: Task) -> None:
    tied = Tie().apply(task.model, task, Run()).model
    shared = Share(Scalar(2), epochs=4)
    applied = shared.apply(tied, task, Run(teacher=task.model))
    healed = applied.resolved["healed"]
    assert healed["kept"]
    assert losses(task, applied.model) == pytest.approx(healed["after"], rel=1e-4)
    plain = Share(Scalar(2)).apply(tied, task, Run()).model
    assert losses(task, plain) == pytest.approx(healed["before"], rel=1e-4)


def test_movement_scores_a_tied_weight_in_all_its_layers(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = Tie().apply(task.model, task, Run()).model
    trained: list[float] = []

    def watch(model: nn.Module, *arguments: object, **named: object) -> object:
        result = heal(model, *arguments, **named)  # type: ignore[arg-type]
        trained.append(losses(task, model))
        return result

    monkeypatch.setattr(learned_scores, "heal", watch)
    technique = Sparsify(Free(0.5, Scope.UNIFORM), Saliency.MOVEMENT, epochs=4)
    applied = technique.apply(tied, task, Run(teacher=task.model))
    assert losses(task, applied.model) == pytest.approx(trained[0], rel=1e-4)
    assert applied.resolved["sparsity"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "technique",
    [
        Share(Scalar(2), epochs=1),
        Sparsify(Free(0.5), epochs=1),
        Sparsify(Free(0.5, Scope.UNIFORM), Saliency.MOVEMENT, epochs=1),
        Sparsify(Free(0.5, Scope.UNIFORM), Saliency.OBS),
        Sparsify(TwoOfFour()),
        Distill(epochs=1),
    ],
    ids=lambda technique: f"{type(technique).__name__}",
)
def test_ties_stay_ties(task: Task, technique: Technique) -> None:
    tied = Tie().apply(task.model, task, Run()).model
    made = technique.apply(tied, task, Run(teacher=task.model)).model
    assert all(layer[0].weight is made.layers[0][0].weight for layer in made.layers)
    assert all(type(layer[0]) is nn.Linear for layer in made.layers)
    assert {name for name, _ in made.named_parameters()} == {name for name, _ in tied.named_parameters()}
    assert all(p.requires_grad for p in made.parameters())


def test_an_embedding_that_shares_its_table_with_a_layer_takes_the_same_values() -> None:
    model = nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 40))
    model[1].weight = model[0].weight
    layers = weighted_layers(model)
    tables = {name: Looked.of(name, layer.weight.detach(), Scalar(2), 0) for name, layer in layers.items()}
    before = model[0].weight
    with looked_up(model, layers, tables):
        assert torch.equal(model[0].weight, model[1].weight)
        assert len(torch.unique(model[0].weight)) == 4
    assert model[0].weight is model[1].weight is before
    assert len(torch.unique(before)) == 4


def test_inputs_are_gathered_from_all_layers_that_share_a_weight(task: Task) -> None:
    tied = Tie().apply(task.model, task, Run()).model
    seen: list[Tensor] = []
    for layer in tied.layers:
        layer[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().double()))
    split = task.train.take(32)
    found = input_hessians(tied, split, weighted_layers(tied, ("layers.*",)), Run())["layers.0.0"]
    assert len(seen) == 5
    rows = torch.cat(seen)
    torch.testing.assert_close(found[0], 2 * rows.T @ rows / len(rows))


def test_the_nearest_layers_become_one() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(6, 3, generator=generator).double()
    best = min(
        (
            sum(
                float((vectors[a:b] - vectors[a:b].mean(0)).square().sum())
                for a, b in itertools.pairwise((0, *cut, 6))
            ),
            cut,
        )
        for cut in itertools.combinations(range(1, 6), 2)
    )
    assert nearest_runs(vectors, 3) == [0, *best[1], 6]
    assert nearest_runs(vectors, 1) == [0, 6]
    assert nearest_runs(vectors, 9) == [0, 1, 2, 3, 4, 5, 6]


def test_stacks_and_what_tie_refuses(task: Task) -> None:
    assert stacks_of(task.model) == [("layers", [f"layers.{i}" for i in range(5)])]
    even = Tie(groups=2, partition=Partition.EVEN).apply(task.model, task, Run()).resolved["groups"]
    assert even == [["layers.0", "layers.1"], ["layers.2", "layers.3", "layers.4"]]

    def told(technique: Tie, model: nn.Module = task.model) -> str:
        return "; ".join(map(str, technique.preflight(model, task, Device())))

    assert "did you mean 'layers'" in told(Tie(stacks=("layer",)))
    assert "no stack deeper than 5" in told(Tie(groups=5))
    assert "no stack of equal layers" in told(Tie(), nn.Linear(16, 4))
    with pytest.raises(ValueError, match="groups must be"):
        Tie(groups=0)
    for resolved in (
        {},
        {"groups": [[1]]},
        {"groups": [["layers.0", "none"]]},
        {"groups": [["first", "last"]]},
    ):
        with pytest.raises(RecipeError, match="Tie: "):
            Tie().rebuild(task.model, resolved, task.zeros())
