"""INT8 with a scale for each channel or tensor, and activations with a zero point of their own or in the middle."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from quantize_networks import Attention, Residual, images, seeded, task_of
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, parse_recipe
from tenfold.compress.quantize import Mode, Observer, PerChannel, PerGroup, PerTensor, Quantize, ZeroPoint
from tenfold.compress.quantize.affine import Affine, affine_of_range, weight_scales
from tenfold.compress.quantize.observe import BINS, SHRINKS, least_error_magnitude
from tenfold.compress.quantize.ops import quantized_at_run_time
from tenfold.cost import call
from tenfold.errors import RecipeError

TENSOR, MIDDLE = {"granularity": PerTensor()}, {"activations": ZeroPoint.SYMMETRIC}
FORMS = [
    Quantize(**TENSOR),
    Quantize(**MIDDLE),
    Quantize(**TENSOR, **MIDDLE, equalize=True, epochs=2),
    Quantize(Mode.DYNAMIC, **TENSOR),
    Quantize(Mode.DYNAMIC, **TENSOR, **MIDDLE, bias_correction=False),
]


def noise_db(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize(
    "technique", FORMS, ids=["tensor", "middle", "both, trained", "dynamic tensor", "dynamic both"]
)
def test_answers_stay_close_and_a_reload_is_equal(technique: Quantize) -> None:
    tokens = torch.randn(12, 6, 16, generator=torch.Generator().manual_seed(3))
    for build, inputs in ((Residual, images(24)), (Attention, {"tokens": tokens})):
        model = seeded(build)
        applied = technique.apply(model, task_of(model, inputs), Run())
        with torch.no_grad():
            wanted, found = call(model, inputs), call(applied.model, inputs)  # type: ignore[arg-type]
        assert noise_db(wanted, found) > 25
        state = applied.model.state_dict()
        scales = {v.dim() for k, v in state.items() if k.endswith("weight_scale")}
        assert scales == {0 if technique.granularity == PerTensor() else 1}
        if technique.activations is ZeroPoint.SYMMETRIC:
            assert {int(v) for k, v in state.items() if k.endswith("zero_point")} <= {128}

        # The step goes by what was resolved, whatever the technique at hand says.
        resolved = json.loads(json.dumps(applied.resolved, allow_nan=False))
        one = {k: v[:1] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:1]
        again = Quantize().rebuild(seeded(build), resolved, one)
        again.load_state_dict(state, strict=True)
        with torch.no_grad():
            assert torch.equal(call(again, inputs), found)  # type: ignore[arg-type]


def test_steps_resolved_without_a_form_are_of_the_first_one() -> None:
    model, x = seeded(Residual), images()
    applied = Quantize().apply(model, task_of(model, x), Run())
    new = ("granularity", "activations", "floats", "allocation")
    old = {key: value for key, value in applied.resolved.items() if key not in new}
    again = Quantize().rebuild(model, old, x[:1])
    again.load_state_dict(applied.model.state_dict(), strict=True)
    assert torch.equal(again(x), applied.model(x))
    for broken in ({"granularity": {"type": "PerGroup"}}, {"activations": "odd"}, {"floats": ["no.such"]}):
        with pytest.raises(RecipeError, match=r"quantize|granularity"):
            Quantize().rebuild(model, old | broken, x[:1])


def test_one_symmetric_layer_against_integer_arithmetic_in_numpy() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), images(8)
    made = Quantize(**TENSOR, **MIDDLE).apply(model, task_of(model, x), Run()).model
    s = {k.removeprefix("int8."): v.numpy() for k, v in made.state_dict().items()}
    q = np.clip(np.rint(x.numpy() / s["input.scale"]), -128, 127).astype(np.int64)
    sums = np.einsum("nihw,oi->nohw", q, s["0.conv2d.weight"][:, :, 0, 0].astype(np.int64))
    sums = sums + s["0.conv2d.bias"].astype(np.int64)[None, :, None, None]
    step = s["1.relu.scale"]
    expected = np.clip(np.rint(sums * (s["input.scale"] * s["0.conv2d.weight_scale"] / step)), 0, 127) * step
    difference = np.abs(made(x).numpy() - expected)
    assert difference.max() <= 1.001 * step  # float sums may round a tie the other way
    assert (difference > 1e-5).mean() < 0.001


def test_ranges_and_scales() -> None:
    assert affine_of_range(-2.0, 1.0, ZeroPoint.SYMMETRIC) == Affine(float(np.float32(2 / 127)), 128)
    assert affine_of_range(0.0, 0.0, ZeroPoint.SYMMETRIC) == Affine(1.0, 128)
    weight = torch.tensor([[0.5, -1.0], [4.0, 2.0]])
    assert torch.equal(weight_scales(weight, 0, 7), torch.tensor([1.0, 4.0]) / 63)
    assert torch.equal(weight_scales(weight, 0, 7, granularity=PerTensor()), torch.tensor(4.0) / 63)
    bias = torch.tensor([0.0, 2.0**32])
    needed = weight_scales(weight, 0, 7, bias, 2.0, PerTensor())
    assert float(needed) == 2.0  # 2³² / (2 · 2³⁰)
    x = torch.tensor([-1.0, 0.0, 0.3, 127.0])
    assert quantized_at_run_time(x, symmetric=True).tolist() == [-1.0, 0.0, 0.0, 127.0]
    assert not quantized_at_run_time(torch.zeros(3), symmetric=True).any()


def test_a_symmetric_range_has_the_least_error_of_all_tried() -> None:
    """Against the values themselves, rounded by each of the ranges."""
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:2] = torch.tensor([9.0, -7.0])
    counts = torch.histc(x, BINS, -9.0, 9.0)
    low, high = least_error_magnitude(counts, -9.0, 9.0)
    errors = {}
    for share in SHRINKS.double():
        scale = 9.0 * share / 127
        errors[9.0 * float(share)] = float(((x / scale).round().clamp(-128, 127) * scale - x).square().sum())
    assert low == -high
    assert high < 8.5
    assert errors[high] < 1.01 * min(errors.values())


@pytest.mark.parametrize("observer", list(Observer))
def test_every_observer_calibrates_symmetric_activations(observer: Observer) -> None:
    model, x = seeded(Residual), images(40)
    made = Quantize(observer=observer, **MIDDLE).apply(model, task_of(model, x), Run()).model
    with torch.no_grad():
        assert noise_db(model(x), made(x)) > 25


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"granularity": PerGroup(32)}, "groups of them have no scales"),
        ({"granularity": "tensor"}, r"PerChannel\(\) or PerTensor\(\), not 'tensor'"),
        ({"activations": ZeroPoint.REAL}, "no zero point that is no integer"),
        ({"floats": "fc"}, "tuple of patterns, not the string 'fc'"),
        ({"floats": None}, "tuple of patterns, not None"),
        ({"floats": (1,)}, r"tuple of patterns, not \(1,\)"),
        ({"target_latency": 1.0}, "target_latency must be between 0 and 1"),
    ],
)
def test_what_no_runtime_computes_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantize(**wrong)  # type: ignore[arg-type]


def test_recipes_say_all_of_it() -> None:
    technique = Quantize(**TENSOR, **MIDDLE, floats=("fc", "layer1.*"), target_latency=0.6)
    assert parse_recipe(Recipe((technique,)).to_yaml()) == Recipe((technique,))
    text = "steps:\n- technique: quantize\n  granularity: {type: PerTensor}\n  activations: symmetric\n"
    assert parse_recipe(text).steps == (Quantize(**TENSOR, **MIDDLE),)
    with pytest.raises(RecipeError, match="recipe:3: quantize: granularity has no type 'PerGroup'"):
        parse_recipe("steps:\n- technique: quantize\n  granularity: {type: PerGroup, size: 8}\n")
    assert Quantize().granularity == PerChannel()
