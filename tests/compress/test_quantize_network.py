"""`Quantize` on whole networks: integers, equality after a reload, corrections, and what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_networks import Attention, Residual, Standardised, images, seeded, task_of
from torch import Tensor, nn

from tenfold.compress import Run
from tenfold.compress.quantize import Mode, Observer, Quantize, is_quantized
from tenfold.compress.quantize.bias import channel_means
from tenfold.cost import Device, call, map_inputs, profile
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError

MODES = [Mode.STATIC, Mode.DYNAMIC]


def tokens(number: int = 12) -> dict[str, Tensor]:
    return {"tokens": torch.randn(number, 6, 16, generator=torch.Generator().manual_seed(3))}


def noise_db(model: nn.Module, quantised: nn.Module, inputs: object) -> float:
    with torch.no_grad():
        y, z = call(model, inputs), call(quantised, inputs)  # type: ignore[arg-type]
    return float(10 * torch.log10(y.square().sum() / (y - z).square().sum()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("build", "inputs"), [(Residual, images()), (Attention, tokens()), (Standardised, images())]
)
def test_outputs_stay_close_and_a_reload_is_equal(mode: Mode, build: type[nn.Module], inputs: object) -> None:
    model, technique = seeded(build), Quantize(mode)
    before = copy.deepcopy(model.state_dict())
    applied = technique.apply(model, task_of(model, inputs), Run())
    assert noise_db(model, applied.model, inputs) > 25
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    resolved = json.loads(json.dumps(applied.resolved, allow_nan=False))
    zeros = map_inputs(lambda t: torch.zeros_like(t[:1]), inputs)  # type: ignore[arg-type]
    again = technique.rebuild(seeded(build), resolved, zeros)
    again.load_state_dict(applied.model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(call(again, inputs), call(applied.model, inputs))  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "limit"), [(7, 63), (8, 127)])
@pytest.mark.parametrize("mode", MODES)
def test_the_state_holds_integers_of_the_right_width(mode: Mode, bits: int, limit: int) -> None:
    model = seeded(Residual)
    applied = Quantize(mode, weight_bits=bits).apply(model, task_of(model, images()), Run())
    state = applied.model.state_dict()
    weights = [v for k, v in state.items() if k.endswith(".weight")]
    assert len(weights) == 4
    assert all(v.dtype == torch.int8 and int(v.abs().max()) == limit for v in weights)
    assert applied.resolved["weight_bits"] == bits
    if mode is Mode.STATIC:
        assert all(v.dtype == torch.int32 for k, v in state.items() if k.endswith(".bias"))
        assert not any(v.is_floating_point() and v.dim() > 1 for v in state.values())


def test_one_layer_against_integer_arithmetic_in_numpy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    x = images(8)
    state = Quantize().apply(model, task_of(model, x), Run())
    s = {k.removeprefix("int8."): v.numpy() for k, v in state.model.state_dict().items()}
    name = "0.conv2d"
    q = np.rint(x.numpy() / s["input.scale"]) + s["input.zero_point"]
    q = np.clip(q, 0, 255).astype(np.int64) - int(s["input.zero_point"])
    sums = np.einsum("nihw,oi->nohw", q, s[f"{name}.weight"][:, :, 0, 0].astype(np.int64))
    sums = sums + s[f"{name}.bias"].astype(np.int64)[None, :, None, None]
    scale = s["input.scale"] * s[f"{name}.weight_scale"] / s["1.relu.scale"]
    expected = np.clip(np.rint(sums * scale[None, :, None, None]), 0, 255) * s["1.relu.scale"]
    difference = np.abs(state.model(x).numpy() - expected)
    assert difference.max() <= 1.001 * s["1.relu.scale"]  # float sums may round a tie the other way
    assert (difference > 1e-5).mean() < 0.001


def test_bias_correction_restores_the_means() -> None:
    model, x = seeded(Residual), images(64)
    task = task_of(model, x)

    def shift(correct: bool) -> tuple[float, float]:
        quantised = Quantize(weight_bits=7, bias_correction=correct).apply(model, task, Run()).model
        step = float(quantised.state_dict()["int8.fc.linear.bias_scale"].max())
        with torch.no_grad():
            return float((channel_means(quantised(x), 1) - channel_means(model(x), 1)).abs().max()), step

    corrected, step = shift(True)
    assert corrected <= step  # what is left is the rounding of the bias itself
    assert shift(False)[0] > 10 * step


@pytest.mark.parametrize("observer", list(Observer))
def test_every_observer_calibrates(observer: Observer) -> None:
    model, x = seeded(Residual), images(40)
    quantised = Quantize(observer=observer).apply(model, task_of(model, x), Run()).model
    assert noise_db(model, quantised, x) > 25


class Dead(nn.Module):
    """A channel without weights, an activation that is always zero, and one that is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.a.weight[1] = 0
            self.b.weight.zero_()
            self.b.bias.fill_(-1.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        zeros = self.b(y).relu()
        return self.c(zeros) + self.c(torch.ones_like(y) * 3)


@pytest.mark.parametrize("mode", MODES)
def test_dead_channels_and_constant_activations(mode: Mode) -> None:
    model = seeded(Dead)
    quantised = Quantize(mode).apply(model, task_of(model, images()), Run()).model
    y, z = model(images()), quantised(images())
    assert torch.isfinite(z).all()
    assert torch.allclose(y, z, atol=0.05)


@given(
    channels=st.sampled_from([1, 2, 3, 6]), per_group=st.integers(1, 3), depthwise=st.booleans(),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), padding=st.sampled_from([0, 1, "same"]),
    dilation=st.integers(1, 2), bias=st.booleans(), mode=st.sampled_from(MODES),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_convolutions_of_every_shape(
    channels: int, per_group: int, depthwise: bool, kernel: int, stride: int, padding: int | str,
    dilation: int, bias: bool, mode: Mode,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    groups, stride = channels if depthwise else 1, 1 if padding == "same" else stride
    model = nn.Sequential(
        nn.Conv2d(channels, per_group * groups, kernel, stride, padding, dilation, groups, bias), nn.ReLU6()
    ).eval()
    x = torch.randn(6, channels, 9, 8, generator=torch.Generator().manual_seed(1))
    try:
        quantised = Quantize(mode).apply(model, task_of(model, x), Run()).model
    except NetworkError:  # padding "same" of an even total is left to the float kernel when dynamic
        assert mode is Mode.DYNAMIC
        assert padding == "same"
        assert dilation * (kernel - 1) % 2
        return
    assert noise_db(model, quantised, x) > 20


def test_only_training_examples_are_read() -> None:
    model = seeded(Residual)
    task = task_of(model, images())
    task.validation = task.test = None
    assert is_quantized(Quantize().apply(model, task, Run()).model)


def test_nan_in_weights_names_the_layer() -> None:
    model = seeded(Residual)
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = torch.nan  # type: ignore[union-attr, operator]
    task = task_of(model, images())
    with pytest.raises(NetworkError, match=r"conv1\.weight"):
        Quantize().apply(model, task, Run())
    assert [p.layer for p in Quantize().preflight(model, task, Device())] == ["conv1.weight"]


def test_nan_in_activations_names_the_layer() -> None:
    model = seeded(Residual)
    x = images()
    x[3, 0, 0, 0] = torch.inf
    with pytest.raises(NetworkError, match="x: it computes NaN or infinity"):
        Quantize(bias_correction=False).apply(model, task_of(model, x), Run())


def test_a_network_without_layers_and_a_quantised_one_are_refused() -> None:
    bare = nn.Sequential(nn.ReLU())
    with pytest.raises(NetworkError, match="no convolution and no linear layer"):
        Quantize().apply(bare, task_of(bare, images()), Run())
    model = seeded(Residual)
    task = task_of(model, images())
    quantised = Quantize().apply(model, task, Run()).model
    with pytest.raises(NetworkError, match="already quantised"):
        Quantize().apply(quantised, task, Run())
    assert "already quantised" in str(Quantize().preflight(quantised, task, Device())[0])


def test_rebuild_refuses_another_network_and_malformed_steps() -> None:
    model = seeded(Residual)
    resolved = Quantize().apply(model, task_of(model, images()), Run()).resolved
    with pytest.raises(RecipeError, match="another network"):
        Quantize().rebuild(seeded(Standardised), resolved, images(1))
    for broken in (
        {},
        resolved | {"mode": "other"},
        resolved | {"tensors": {"x": 1}},
        resolved | {"weight_bits": 9},
    ):
        with pytest.raises(RecipeError, match="quantize"):
            Quantize().rebuild(model, broken, images(1))


@pytest.mark.parametrize(
    "wrong", [{"mode": "static"}, {"weight_bits": 4}, {"examples": 0}, {"observer": "mse"}]
)
def test_parameters_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Quantize"):
        Quantize(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", Mode)
def test_the_counter_knows_a_quantised_network(mode: Mode) -> None:
    """Its multiply-adds are those of the float network, and none of its operators is unknown."""
    for build, inputs in ((Residual, images(4)), (Attention, {"tokens": torch.randn(4, 6, 16)})):
        torch.manual_seed(0)
        model = build().eval()
        split = (inputs, torch.arange(4))
        applied = Quantize(mode=mode).apply(model, Task(model, train=split, validation=split), Run())
        found, plain = profile(applied.model, inputs), profile(model, inputs)
        assert not found.unknown
        assert found.macs == plain.macs
        assert found.weight_bytes < 0.5 * plain.weight_bytes
