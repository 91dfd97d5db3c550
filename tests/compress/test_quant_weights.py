"""`QuantizeWeights` on whole networks: packed codes, equality after a reload, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from quantize_networks import Attention, Residual, Standardised, images, seeded, task_of
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, apply_recipe, load, parse_recipe, save
from tenfold.compress.quantize import (
    Gptq,
    Learned,
    Nearest,
    Observer,
    PerChannel,
    PerGroup,
    PerTensor,
    Quantize,
    QuantizeWeights,
    Unit,
    ZeroPoint,
    is_quantized,
    packed_weights,
    unpacked,
)
from tenfold.cost import Device, call
from tenfold.errors import NetworkError, OutOfTime, RecipeError


def tokens(number: int = 12) -> dict[str, Tensor]:
    return {"tokens": torch.randn(number, 6, 16, generator=torch.Generator().manual_seed(3))}


def noise_db(model: nn.Module, quantised: nn.Module, inputs: object) -> float:
    with torch.no_grad():
        y, z = call(model, inputs), call(quantised, inputs)  # type: ignore[arg-type]
    return float(10 * torch.log10(y.square().sum() / (y - z).square().sum()))


REAL, INTEGER = ZeroPoint.REAL, ZeroPoint.INTEGER
PICTURES, TOKENS = (Residual, images()), (Attention, tokens())


@pytest.mark.parametrize(
    ("technique", "decibels", "build", "inputs"),
    [
        (QuantizeWeights(8, PerTensor(), rounding=Nearest()), 30, *TOKENS),
        (QuantizeWeights(8, PerChannel(), INTEGER, Observer.MINMAX, Nearest()), 35, *PICTURES),
        (QuantizeWeights(6, PerGroup(4), REAL), 28, *PICTURES),
        (QuantizeWeights(5, PerChannel(), REAL, Observer.PERCENTILE), 15, *TOKENS),
        (QuantizeWeights(4, PerGroup(7)), 12, *PICTURES),
        (QuantizeWeights(3, PerGroup(4), INTEGER), 8, *TOKENS),
        (QuantizeWeights(2, PerGroup(4), REAL, bias_correction=False), 1, *PICTURES),
        (QuantizeWeights(4, PerChannel(), observer=Observer.ENTROPY, rounding=Nearest()), 8, *TOKENS),
    ],
    ids=lambda value: f"{value.bits} bits" if isinstance(value, QuantizeWeights) else "",
)
def test_answers_stay_close_and_the_saved_network_is_equal(
    technique: QuantizeWeights, decibels: float, build: type[nn.Module], inputs: object, tmp_path: Path
) -> None:
    model = seeded(build)
    before = copy.deepcopy(model.state_dict())
    task = task_of(model, inputs)
    applied = technique.apply(model, task, Run())
    assert noise_db(model, applied.model, inputs) > decibels
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    save(tmp_path / "saved", applied.model, [(technique, applied.resolved)], inputs=task.example(1))
    again = load(tmp_path / "saved", base=lambda: seeded(build))
    plain = unpacked(applied.model)
    with torch.no_grad():
        expected = call(applied.model, inputs)  # type: ignore[arg-type]
        assert torch.equal(call(again, inputs), expected)  # type: ignore[arg-type]
        assert torch.equal(call(plain, inputs), expected)  # type: ignore[arg-type]


def test_the_file_holds_packed_codes_and_no_float_weight() -> None:
    model = seeded(Residual)
    applied = QuantizeWeights(3, PerChannel()).apply(model, task_of(model, images()), Run())
    state = applied.model.state_dict()
    packed = packed_weights(applied.model)
    assert len(packed) == 4
    for weight in packed:
        assert state[weight.codes].dtype == torch.uint8
        assert len(state[weight.codes]) == -(-weight.rows * weight.width * 3 // 8)
    floats = sum(value.numel() for value in state.values() if value.is_floating_point())
    assert floats == 2 * (7 + 7 + 7 + 5)  # a scale and a bias for each channel


def test_gptq_comes_nearer_than_nearest_and_correction_keeps_means() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16)))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, generator=generator) @ torch.randn(6, 48, generator=generator)
    inputs += 0.1 * torch.randn(200, 48, generator=generator)
    task = task_of(model, inputs)
    made = {
        rounding: QuantizeWeights(3, PerChannel(), rounding=rounding, examples=200)
        .apply(model, task, Run())
        .model
        for rounding in (Nearest(), Gptq())
    }
    assert noise_db(model, made[Gptq()], inputs) > noise_db(model, made[Nearest()], inputs) + 3
    with torch.no_grad():
        means = [
            call(each, task.train.select(range(len(task.train)))[0]).mean(0) for each in (model, made[Gptq()])
        ]
    assert torch.allclose(*means, atol=1e-4)


def test_a_weight_that_layers_read_twice_is_packed_and_one_that_something_else_reads_stays_float() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(self.a(x)))) + (x[:, None] * self.c.weight).sum(2)

    model, x = seeded(Tied), torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    applied = QuantizeWeights(4, PerGroup(4)).apply(model, task_of(model, x), Run())
    assert list(applied.resolved["layers"]) == ["a.linear", "a.linear_1", "b.linear"]
    assert [weight.codes for weight in packed_weights(applied.model)] == [
        "int8.a.linear.codes",
        "int8.b.linear.codes",
    ]


@pytest.mark.parametrize(
    "made",
    [
        lambda: QuantizeWeights(1),
        lambda: QuantizeWeights(9),
        lambda: QuantizeWeights(4.0),  # type: ignore[arg-type]
        lambda: QuantizeWeights(4, examples=0),
        lambda: PerGroup(1),
        lambda: Gptq(damping=0.0),
    ],
)
def test_values_out_of_range_are_refused(made: object) -> None:
    with pytest.raises((RecipeError, ValueError), match=r"must be"):
        made()  # type: ignore[operator]


def test_the_recipe_reads_back_and_names_its_errors() -> None:
    recipe = Recipe((QuantizeWeights(3, PerGroup(64), ZeroPoint.REAL, Observer.ENTROPY, Gptq(0.1, False)),))
    assert parse_recipe(recipe.to_yaml()) == recipe
    learned = Recipe(
        (QuantizeWeights(rounding=Learned(Unit.LAYER, start=Nearest()), equalize=True, epochs=1.0),)
    )
    assert parse_recipe(learned.to_yaml()) == learned
    with pytest.raises(RecipeError, match=r":4.*.*bits.*2 to 8, not 9"):
        parse_recipe("tenfold: 1\nsteps:\n  - technique: quantize-weights\n    bits: 9\n")
    with pytest.raises(RecipeError, match="must come last"):
        Recipe((QuantizeWeights(), Quantize()))


def test_what_cannot_be_quantised_is_refused() -> None:
    model = seeded(Residual)
    task = task_of(model, images())
    once = QuantizeWeights(4, PerChannel()).apply(model, task, Run()).model
    assert is_quantized(once)
    assert "already quantised" in str(QuantizeWeights().preflight(once, task, Device())[0])
    with pytest.raises(NetworkError, match="already quantised"):
        QuantizeWeights().apply(once, task, Run())
    with torch.no_grad():
        model.conv2.weight[0, 0] = torch.nan
    assert "conv2.weight" in str(QuantizeWeights().preflight(model, task, Device())[0])
    with pytest.raises(NetworkError, match=r"conv2\.weight"):
        QuantizeWeights().apply(model, task, Run())
    plain = nn.Sequential(nn.ReLU())
    assert "no convolution" in str(QuantizeWeights().preflight(plain, task, Device())[0])


def test_calibration_data_that_are_constant_nan_or_late() -> None:
    model = seeded(Standardised)
    constant = torch.zeros(8, 3, 12, 12)
    applied = QuantizeWeights(4, PerChannel()).apply(model, task_of(model, constant), Run())
    assert all(bool(torch.isfinite(v).all()) for v in applied.model.state_dict().values())
    broken = images().clone()
    broken[0, 0, 0, 0] = torch.nan
    for correction in (True, False):
        with pytest.raises(NetworkError, match=r"conv2d: .*calibration examples"):
            technique = QuantizeWeights(4, PerChannel(), bias_correction=correction)
            technique.apply(model, task_of(model, broken), Run())
    with pytest.raises(OutOfTime, match="out of time"):
        QuantizeWeights(4).apply(model, task_of(model, images()), Run(deadline=0.0))


def test_a_saved_structure_of_another_network_is_refused() -> None:
    model = seeded(Residual)
    task = task_of(model, images())
    technique = QuantizeWeights(4, PerChannel())
    resolved = technique.apply(model, task, Run()).resolved
    assert json.loads(json.dumps(resolved)) == resolved
    with pytest.raises(RecipeError, match="another network"):
        technique.rebuild(seeded(Standardised), resolved, task.zeros(1))
    for bad in (
        {},
        {"layers": {"fc.linear": {"bits": 64}}, "bias_correction": True},
        {"layers": [], "bias_correction": True},
    ):
        with pytest.raises(RecipeError, match="must have"):
            technique.rebuild(model, bad, task.zeros(1))


def test_a_recipe_applies_it_after_pruning() -> None:
    model = seeded(lambda: Residual(16))
    recipe = parse_recipe(
        "tenfold: 1\nsteps:\n  - {technique: prune, ratio: 0.5}\n"
        "  - {technique: quantize-weights, bits: 4, granularity: {type: PerChannel}}\n"
    )
    made, steps = apply_recipe(recipe, task_of(model, images()), Run())
    assert [type(step.technique).__name__ for step in steps] == ["Prune", "QuantizeWeights"]
    assert packed_weights(made)
