"""Cross-layer equalisation: the same answers, equal ranges, and what it must leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from quantize_networks import Residual, images, seeded, task_of
from torch import Tensor, nn

from tenfold.compress import Run
from tenfold.compress.quantize import Nearest, Observer, PerChannel, PerTensor, Quantize, QuantizeWeights
from tenfold.compress.quantize.capture import attribute
from tenfold.compress.quantize.equalize import equalize, find_pairs, scales
from tenfold.compress.quantize.simplify import capture_folded
from tenfold.compress.quantize.weight_only import quantizable


def uneven(build: Callable[[], nn.Module], spread: float = 5.0) -> nn.Module:
    """A network whose channels differ in range by up to 2^(2 · spread)."""
    model = seeded(build)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                factor = torch.exp2(spread * (2 * torch.rand(len(module.weight), generator=generator) - 1))
                module.weight.mul_(factor.reshape(-1, *[1] * (module.weight.dim() - 1)))
                module.bias.mul_(factor)
    return model


def inverted(activation: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Expand, depthwise, project: with a pool on the way."""
    return lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), activation(), nn.Conv2d(8, 8, 3, padding=1, groups=8), activation(), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6 * 36, 4),
    )  # fmt: skip


def equalised(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, list[str]]:
    module = capture_folded(model, inputs)
    return module, [f"{a} {b}" for a, b in equalize(module, quantizable(module), inputs).items()]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Identity], ids=lambda a: a.__name__)
def test_the_answers_stay_and_the_ranges_become_equal(activation: Callable[[], nn.Module]) -> None:
    model, x = uneven(inverted(activation)), images(8)
    module, pairs = equalised(model, x)
    assert pairs == ["0.conv2d 2.conv2d", "2.conv2d 5.conv2d"]  # not across the flattening
    with torch.no_grad():
        expected, other = model(x), model(images(8, seed=5))
        assert torch.allclose(module(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert torch.allclose(
            module(images(8, seed=5)), other, rtol=1e-5, atol=1e-5 * float(other.abs().max())
        )
    for pair in find_pairs(module, quantizable(module)):
        assert torch.allclose(scales(module, pair), torch.ones(8), atol=2e-3)  # r₁ = r₂ for every channel
        before = model.get_submodule(
            pair.first.node.meta["nn_module_stack"].copy().popitem()[1][0].split("@")[0]
        )
        r1 = attribute(module, str(pair.first.weight.target)).flatten(1).abs().amax(1)
        assert r1.max() / r1.min() < before.weight.flatten(1).abs().amax(1).aminmax().max / 1e-9  # type: ignore[union-attr, operator]


def test_the_scales_are_those_of_the_paper() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[8.0, -1.0], [0.5, 0.25]]))
        model[2].weight.copy_(torch.tensor([[2.0, 0.1], [-1.0, 32.0], [0.0, 1.0]]))
    module = capture_folded(model, torch.zeros(2, 2))
    (pair,) = find_pairs(module, quantizable(module))
    # √(r₁ r₂) / r₂ with r₁ = 8, 0.5 and r₂ = 2, 32.
    assert torch.allclose(scales(module, pair), torch.tensor([(8 * 2) ** 0.5 / 2, (0.5 * 32) ** 0.5 / 32]))


def test_what_six_cuts_off_is_left_alone() -> None:
    model, x = uneven(inverted(nn.ReLU6), spread=2.0), images(64)
    with torch.no_grad():
        model[0].bias[:4] += 4.0
        peak = model[0](x).amax((0, 2, 3))
        assert 1 < int((peak > 6).sum()) < 8  # some channels reach the bound, some do not
        assert not torch.allclose(model[0](x).relu(), model[:2](x))
    module, pairs = equalised(model, x)
    assert len(pairs) == 2
    free = peak * 1.25 < 6
    changed = ~torch.isclose(
        attribute(module, "0.weight").flatten(1).abs().amax(1), model[0].weight.flatten(1).abs().amax(1)
    )
    assert not bool(changed[~free].any())
    assert bool(changed[free].any())
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(module(x), expected, atol=1e-5 * float(expected.abs().max()))


def test_a_sum_a_shared_weight_and_dead_channels() -> None:
    """Nothing crosses a residual sum; a channel of zeros on either side stays as it is."""
    module, pairs = equalised(seeded(Residual), images())
    assert pairs == ["conv1.conv2d conv2.conv2d"]
    model = uneven(inverted(nn.ReLU))
    with torch.no_grad():
        model[0].weight[3] = 0.0
        model[2].weight[5] = 0.0
    module, _ = equalised(model, images(8))
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
    with torch.no_grad():
        expected = model(images(8))
        assert torch.allclose(module(images(8)), expected, atol=1e-5 * float(expected.abs().max()))
        assert not attribute(module, "0.weight")[3].any()


def test_one_scale_for_all_channels_suffers_less() -> None:
    """What the paper shows: with a single scale a tensor, 8 bits of an uneven network are worth little without it."""
    model, x = uneven(inverted(nn.ReLU), spread=4.0), images(32)
    before = copy.deepcopy(model.state_dict())
    noise = {}
    for on in (False, True):
        technique = QuantizeWeights(8, PerTensor(), observer=Observer.MINMAX, rounding=Nearest(), equalize=on)
        applied = technique.apply(model, task_of(model, x), Run())
        with torch.no_grad():
            y, z = model(x), applied.model(x)
        noise[on] = float(10 * torch.log10(y.square().sum() / (y - z).square().sum()))
        assert len(applied.resolved.get("equalized", [])) == 2 * on
    assert noise[True] > noise[False] + 3
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    static = Quantize(equalize=True).apply(model, task_of(model, x), Run())
    with torch.no_grad():
        y, z = model(x), static.model(x)
    assert 10 * torch.log10(y.square().sum() / (y - z).square().sum()) > 20


def test_integers_of_one_scale_need_equal_ranges() -> None:
    """Where channels of small weights matter as much as others, one scale a weight loses most of the signal."""
    model, x = seeded(inverted(nn.ReLU)), images(32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():  # what a layer loses the next one gains, so that the answers stay
        for first, second, shape in ((0, 2, (-1, 1, 1, 1)), (2, 5, (1, -1, 1, 1))):
            factor = torch.exp2(8 * torch.rand(8, generator=generator))
            model[first].weight.div_(factor.reshape(-1, 1, 1, 1))
            model[first].bias.div_(factor)
            model[second].weight.mul_(factor.reshape(shape))
    decibels = {}
    for granularity, on in ((PerChannel(), False), (PerTensor(), False), (PerTensor(), True)):
        technique = Quantize(granularity=granularity, equalize=on, weight_bits=8)
        made = technique.apply(model, task_of(model, x), Run()).model
        with torch.no_grad():
            y, z = model(x), made(x)
        decibels[granularity, on] = float(10 * torch.log10(y.square().sum() / (y - z).square().sum()))
    assert decibels[PerTensor(), False] < decibels[PerChannel(), False] - 5  # 21 dB and 28
    assert decibels[PerTensor(), True] > decibels[PerTensor(), False] + 20  # 43
