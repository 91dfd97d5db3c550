"""Spans of a graph, learned rounding (AdaRound, block reconstruction) and quantisation-aware training."""

from __future__ import annotations

import copy
import itertools
import time
from pathlib import Path

import pytest
import torch
from quantize_networks import Attention, Residual, images, seeded, task_of
from torch import Tensor, nn

from tenfold.compress import Run, load, pack, save, unpack
from tenfold.compress.healing import Healed
from tenfold.compress.quantize import (
    Gptq,
    Learned,
    Mode,
    Nearest,
    PerChannel,
    PerGroup,
    Quantize,
    QuantizeWeights,
    Unit,
    ZeroPoint,
    aware_static,
    coded_weights,
    packed_weights,
)
from tenfold.compress.quantize.aware import Aware, lsq
from tenfold.compress.quantize.grid import Grid
from tenfold.compress.quantize.observe import placeholders
from tenfold.compress.quantize.spans import compute, joined, spans, take
from tenfold.compress.quantize.weight_only import captured, quantizable
from tenfold.cost import call
from tenfold.data import Task
from tenfold.errors import ExportError, NetworkError, OutOfTime, RecipeError
from tenfold.training import held_zeros


class Blocks(nn.Module):
    """A stem, three residual blocks in a list, a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 1), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(), nn.Conv2d(width, width, 1),
            )
            for _ in range(3)
        )  # fmt: skip
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = x + block(x)
        return self.fc(x.mean(dim=(2, 3)))


def tokens(number: int = 12) -> dict[str, Tensor]:
    return {"tokens": torch.randn(number, 6, 16, generator=torch.Generator().manual_seed(3))}


def correlated(number: int = 64, seed: int = 2) -> Tensor:
    """Images whose pixels go together, as those of photos do."""
    return nn.functional.avg_pool2d(images(number, seed=seed), 3, 1, 1) * 3


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize(
    ("build", "inputs"), [(Blocks, images(9)), (Residual, images(9)), (Attention, tokens(9))]
)
def test_spans_run_one_after_the_other_are_the_network(
    unit: Unit, build: type[nn.Module], inputs: object
) -> None:
    model = seeded(build)
    module = captured(model, inputs)  # type: ignore[arg-type]
    cut = spans(module.graph, [layer.node for layer in quantizable(module).values()], unit)
    values = dict(placeholders(module.graph, inputs))  # type: ignore[arg-type]
    with torch.no_grad():
        for span in cut:
            parts = torch.arange(9).split(4)
            values |= joined([compute(module, span, take(values, span.inputs, part), {}) for part in parts])
        expected = call(model, inputs)  # type: ignore[arg-type]
    assert torch.allclose(values[cut[-1].outputs[0]], expected, atol=1e-5)
    layers = [sum(layer.node in span.nodes for layer in quantizable(module).values()) for span in cut]
    if unit is Unit.LAYER:
        assert max(layers) == 1
    elif build is Blocks:
        assert [n for n in layers if n] == [1, 3, 3, 3, 1]


def error(model: nn.Module, technique: QuantizeWeights, inputs: Tensor, unseen: Tensor) -> float:
    made = technique.apply(model, task_of(model, inputs), Run()).model
    with torch.no_grad():
        return float((model(unseen) - made(unseen)).square().mean() / model(unseen).var())


def test_learning_comes_nearer_than_nearest() -> None:
    """On images that were not learnt from, summed over two networks."""
    totals = {"nearest": 0.0, "layer": 0.0, "block": 0.0}
    for seed in range(2):
        torch.manual_seed(seed)
        model = Blocks().eval()
        for name, rounding in (
            ("nearest", Nearest()),
            ("layer", Learned(Unit.LAYER, steps=60, start=Nearest())),
            ("block", Learned(Unit.BLOCK, steps=60, start=Nearest())),
        ):
            technique = QuantizeWeights(3, PerChannel(), rounding=rounding)
            totals[name] += error(model, technique, correlated(), correlated(seed=9))
    assert totals["layer"] < 0.9 * totals["nearest"]
    assert totals["block"] < 0.9 * totals["nearest"]


def test_learning_finds_nearly_the_best_of_all_roundings() -> None:
    """A layer of five weights: brute force over every pair of neighbours is the least that there is."""
    totals = {"brute": 0.0, "learned": 0.0, "nearest": 0.0}
    for seed in range(6):
        torch.manual_seed(seed)
        layer = nn.Sequential(nn.Linear(5, 1)).eval()
        x = torch.randn(64, 5) @ torch.randn(5, 5)
        grid_of = {}
        for name, rounding in (("learned", Learned(steps=150, start=Nearest())), ("nearest", Nearest())):
            made = QuantizeWeights(2, PerChannel(), rounding=rounding).apply(layer, task_of(layer, x), Run())
            state = made.model.state_dict()
            scale = float(next(v for k, v in state.items() if k.endswith("scale")))
            grid_of["scale"] = scale
            with torch.no_grad():
                totals[name] += float((layer(x) - made.model(x)).square().mean())
        with torch.no_grad():
            places = (layer[0].weight / grid_of["scale"] + 2).floor()
            errors = []
            for ups in itertools.product((0, 1), repeat=5):
                codes = (places + torch.tensor(ups)).clamp(0, 3)
                change = (grid_of["scale"] * (codes - 2) - layer[0].weight) @ x.T
                errors.append(float((change - change.mean()).square().mean()))  # the bias takes the mean
            totals["brute"] += min(errors)
    assert totals["brute"] <= totals["learned"] * (1 + 1e-6)
    assert totals["learned"] < totals["nearest"]


@pytest.mark.parametrize(
    "technique",
    [
        QuantizeWeights(4, PerGroup(4), rounding=Learned(steps=5)),
        QuantizeWeights(3, PerChannel(), ZeroPoint.REAL, rounding=Learned(Unit.LAYER, steps=5)),
        QuantizeWeights(3, PerGroup(4), rounding=Nearest(), epochs=2),
        Quantize(weight_bits=7, epochs=2),
    ],
    ids=["block", "layer", "aware", "aware int8"],
)
def test_what_is_learnt_is_saved_packed_and_loaded_equal(
    technique: QuantizeWeights | Quantize, tmp_path: Path
) -> None:
    pytest.importorskip("constriction")
    model, x = seeded(Residual), images(24)
    before = copy.deepcopy(model.state_dict())
    task = task_of(model, x)
    applied = technique.apply(model, task, Run())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(packed_weights(applied.model)) == 4 * isinstance(technique, QuantizeWeights)
    save(tmp_path / "a", applied.model, [(technique, applied.resolved)], inputs=task.example(1))
    pack(tmp_path / "a", tmp_path / "a.pack")
    unpack(tmp_path / "a.pack", tmp_path / "b")
    with torch.no_grad():
        for folder in ("a", "b"):
            again = load(tmp_path / folder, base=lambda: seeded(Residual))
            assert torch.equal(again(x), applied.model(x))


def test_one_seed_gives_one_result() -> None:
    model, x = seeded(Blocks), correlated(32)
    technique = QuantizeWeights(3, PerGroup(4), rounding=Learned(steps=10))
    first, second = (technique.apply(model, task_of(model, x), Run(seed=4)).model for _ in range(2))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_deadline_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by 1 ms whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: 0.001 * next(ticks))
    model, x = seeded(Blocks), correlated(32)
    shares: list[float] = []
    long = QuantizeWeights(3, PerGroup(4), rounding=Learned(steps=10**6))
    run = Run(deadline=0.3, progress=lambda share, text: shares.append(share))
    made = long.apply(model, task_of(model, x), run).model
    assert 0.15 < time.monotonic() < 0.3
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert bool(torch.isfinite(made(x)).all())
    with pytest.raises(OutOfTime, match="out of time"):
        long.apply(model, task_of(model, x), Run(deadline=0.0))


def test_the_step_has_the_gradient_of_the_paper() -> None:
    """LSQ, eq. 3: ⌊v⌉ − v within the range, −Qn and Qp outside, for v = w / s."""
    w = torch.tensor([[-9.0, -0.7, 0.2, 0.6, 1.4, 8.0]], requires_grad=True)
    s = torch.tensor([[0.5]], requires_grad=True)
    out = lsq(w, s, torch.tensor([[4.0]]), 7)  # Qn = 4, Qp = 3
    assert out.tolist() == [[-2.0, -0.5, 0.0, 0.5, 1.5, 1.5]]
    for index, expected in enumerate([-4.0, -1 + 1.4, 0 - 0.4, 1 - 1.2, 3 - 2.8, 3.0]):
        (gradient,) = torch.autograd.grad(out[0, index], s, retain_graph=True)
        assert float(gradient) == pytest.approx(expected, abs=1e-5)
    (through,) = torch.autograd.grad(out.sum(), w)
    assert through.tolist() == [[0.0, 1.0, 1.0, 1.0, 1.0, 0.0]]


def test_training_brings_a_rounded_network_back() -> None:
    torch.manual_seed(0)
    model = Blocks().eval()
    x = correlated(256)
    task = Task(model, train=(x, model(x).argmax(1).detach()), validation=(x, torch.zeros(len(x)).long()))
    rounded = QuantizeWeights(2, PerChannel(), rounding=Nearest())
    aware = QuantizeWeights(2, PerChannel(), rounding=Nearest(), epochs=15)
    made = [technique.apply(model, task, Run()).model for technique in (rounded, aware)]
    assert all(
        torch.equal(layer.codes.unique(), layer.codes.unique().clamp(0, 3))
        for layer in coded_weights(made[1])
    )
    unseen = correlated(seed=9)
    with torch.no_grad():
        wanted = model(unseen).log_softmax(1)
        losses = [
            float((wanted.exp() * (wanted - each(unseen).log_softmax(1))).sum(1).mean()) for each in made
        ]
    assert losses[1] < 0.5 * losses[0]


def test_a_pruned_weight_is_known_and_held_while_it_is_rounded_in_training() -> None:
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    matrix[:, ::3] = 0
    grid = Grid(4, torch.full((4, 1), 0.3), torch.full((4, 1), 8.0), 0)
    layer = Aware(matrix, grid, grid.quantized(matrix), torch.float32, (4, 6), 0)
    with held_zeros(layer) as held:
        layer().sum().backward()
    assert held == ["place"]
    assert bool(((layer.place.grad == 0) == (matrix == 0)).all())
    torch.testing.assert_close(layer(), grid.rounded(matrix))


def spread_out(model: Blocks, x: Tensor) -> Blocks:
    """The network with logits that differ from image to image, as those of a trained one do."""
    with torch.no_grad():
        logits = model(x)
        gain = 2 / logits.std(0)
        model.fc.weight *= gain[:, None]
        model.fc.bias.copy_((model.fc.bias - logits.mean(0)) * gain)
    return model


def test_a_static_network_computes_in_integers_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever training moves weights, biases and steps to, the stored integers and steps answer the same."""
    model, x = spread_out(seeded(Blocks), correlated(32)), correlated(32)
    task = task_of(model, x)
    moved: list[nn.Module] = []

    def move(network: nn.Module, *_: object) -> Healed:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn(parameter.shape, generator=generator)
        moved.append(network)
        return Healed(1.0, 0.5, True, 1)

    monkeypatch.setattr(aware_static, "taught", move)
    applied = Quantize(weight_bits=7, epochs=1.0).apply(model, task, Run())
    plain = Quantize(weight_bits=7).apply(model, task, Run())
    with torch.no_grad():
        trained, stored, before = (network(x) for network in (moved[0], applied.model, plain.model))
    assert float((trained - before).abs().max()) > 0.1 * float(trained.std())
    # Sums in another order round some values one step off, as between any two kernels: 40 dB here.
    assert float((trained - stored).std()) < 0.03 * float(trained.std())
    for name, each in applied.resolved["tensors"].items():
        assert each["scale"] == float(applied.model.get_submodule(f"int8.{name}").scale)
        assert each["scale"] != plain.resolved["tensors"][name]["scale"]
    again = Quantize(weight_bits=7, epochs=1.0).rebuild(model, applied.resolved, x[:2])
    again.load_state_dict(applied.model.state_dict())
    assert torch.equal(again(x), applied.model(x))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Learned(steps=0),
        lambda: Learned(batch_size=1.5),  # type: ignore[arg-type]
        lambda: QuantizeWeights(epochs=-1),
        lambda: QuantizeWeights(epochs=float("nan")),
        lambda: Quantize(epochs=-1.0),
    ],
)
def test_values_out_of_range_are_refused(wrong: object) -> None:
    with pytest.raises((ValueError, RecipeError), match="must be"):
        wrong()  # type: ignore[operator]


def test_a_dynamic_network_has_no_steps_to_learn() -> None:
    with pytest.raises(ValueError, match="static mode"):
        Quantize(Mode.DYNAMIC, epochs=1.0)


@pytest.mark.parametrize("technique", [QuantizeWeights(rounding=Learned(steps=2)), Quantize(epochs=1.0)])
def test_calibration_data_of_another_shape(technique: QuantizeWeights | Quantize) -> None:
    model, wrong = seeded(Blocks), torch.randn(8, 4, 12, 12)
    with pytest.raises(ExportError, match=r"Blocks cannot be traced.*4 channels|Blocks cannot be traced"):
        technique.apply(model, task_of(model, wrong), Run())


@pytest.mark.parametrize("rounding", [Gptq(), Learned(steps=3), Learned(Unit.LAYER, steps=3)])
def test_inputs_that_say_nothing(rounding: Gptq | Learned) -> None:
    """Constant, dead, one alone: singular Hessians and nothing to learn from give finite codes."""
    for x in (torch.zeros(8, 3, 12, 12), torch.ones(1, 3, 12, 12), images(2)):
        model = seeded(Blocks)
        with torch.no_grad():
            model.stem.weight[2] = 0.0
            model.stem.bias[2] = -1.0  # a channel that is never active
        made = QuantizeWeights(4, PerGroup(4), rounding=rounding).apply(model, task_of(model, x), Run()).model
        assert bool(torch.isfinite(made(images(4))).all())
    broken = images(8).clone()
    broken[3] = torch.nan
    with pytest.raises(NetworkError, match=r"stem.*calibration examples"):
        QuantizeWeights(4, rounding=rounding).apply(model, task_of(model, broken), Run())
