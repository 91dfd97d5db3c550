"""INT8 networks whose weights are stored in fewer bits: what they answer, what is kept of them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from quantize_networks import Attention, Residual, images, seeded, task_of
from torch import Tensor, nn

from tenfold.compress import Run, Step, load, save
from tenfold.compress.quantize import (
    Average,
    Learned,
    Mode,
    Nearest,
    PerTensor,
    Quantize,
    stored_weights,
    unpacked,
)
from tenfold.cost import call
from tenfold.errors import RecipeError

WIDTH = 24


def noise_db(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


def answers(model: nn.Module, inputs: object) -> Tensor:
    with torch.no_grad():
        return call(model, inputs)  # type: ignore[arg-type, return-value]


def quantized(technique: Quantize) -> tuple[Tensor, Tensor]:
    """What a network answers, and what it answers so quantised."""
    model = seeded(Residual, WIDTH)
    applied = technique.apply(model, task_of(model, images(48)), Run())
    return answers(model, images(8, seed=5)), answers(applied.model, images(8, seed=5))


def test_more_bits_lose_less_and_learning_too() -> None:
    by_bits = [noise_db(*quantized(Quantize(stored_bits=bits))) for bits in (3, 4, 6)]
    assert by_bits == sorted(by_bits)
    plain = noise_db(*quantized(Quantize()))
    assert (
        by_bits[-1] > plain - 6
    )  # six bits are a fraction of a bit from eight, by GPTQ and finer steps for groups
    nearest = noise_db(*quantized(Quantize(stored_bits=3, rounding=Nearest())))
    assert noise_db(*quantized(Quantize(stored_bits=3, rounding=Learned(steps=60)))) > nearest


def test_the_integers_are_those_of_the_codes_and_memory_shrinks() -> None:
    model = seeded(Residual, WIDTH)
    applied = Quantize(stored_bits=4, weight_bits=8).apply(model, task_of(model, images(24)), Run())
    found = stored_weights(applied.model)
    assert [set(entry) for entry in applied.resolved["stored"].values()] == [{"bits", "group"}] * 4
    assert len(found) == 4
    for _, weight in found:
        assert int(weight.values().abs().max()) <= 127
        assert int(weight.codes.max()) < 16
    same = unpacked(applied.model)
    x = images(8, seed=5)
    assert torch.equal(answers(same, x), answers(applied.model, x))

    def held(network: nn.Module) -> int:
        return sum(
            b.numel()
            for name, b in network.named_buffers()
            if name.endswith(("weight", "codes", "multiples"))
        )

    assert held(applied.model) < 0.6 * held(same)


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
@pytest.mark.parametrize("bits", [4, Average(4.5, (3, 4, 6, 8))])
def test_a_reload_is_equal(mode: Mode, bits: int | Average, tmp_path: Path) -> None:
    tokens = torch.randn(12, 6, 16, generator=torch.Generator().manual_seed(3))
    for build, inputs in ((Residual, images(24)), (Attention, {"tokens": tokens})):
        model, technique = seeded(build), Quantize(mode, stored_bits=bits)
        task = task_of(model, inputs)
        applied = technique.apply(model, task, Run())
        resolved = json.loads(json.dumps(applied.resolved, allow_nan=False))
        again = Quantize().rebuild(seeded(build), resolved, task.example(1))
        again.load_state_dict(applied.model.state_dict(), strict=True)
        assert torch.equal(answers(again, inputs), answers(applied.model, inputs))
        folder = tmp_path / build.__name__
        save(folder, applied.model, (Step(technique, applied.resolved),), inputs=task.example(2))
        assert torch.equal(answers(load(folder, seeded(build)), inputs), answers(applied.model, inputs))


def test_bits_are_given_to_layers_by_what_they_cost() -> None:
    model = seeded(Residual, WIDTH)
    applied = Quantize(stored_bits=Average(4.5, (3, 4, 6, 8))).apply(model, task_of(model, images(24)), Run())
    gain = applied.resolved["stored_allocation"]
    assert gain["bits"] <= 4.5
    assert gain["expected_loss"] < gain["uniform_expected_loss"]
    widths = {name: entry["bits"] for name, entry in applied.resolved["stored"].items()}
    assert len(set(widths.values())) > 1


def test_layers_that_stay_float_are_left_as_they_are() -> None:
    model = seeded(Residual)
    applied = Quantize(stored_bits=4, floats=("stem",)).apply(model, task_of(model, images(24)), Run())
    assert not any(name.startswith("stem") for name in applied.resolved["stored"])
    state = applied.model.state_dict()
    assert [name for name, value in state.items() if value.dim() == 4] == ["folded.stem.conv2d.weight"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"stored_bits": 8}, "stored_bits must be 2 to 7"),
        ({"stored_bits": True}, "stored_bits must be 2 to 7"),
        ({"stored_bits": 4, "group": 1}, "group must be"),
        ({"stored_bits": 4, "epochs": 1.0}, "cannot be trained"),
        ({"stored_bits": 4, "target_latency": 0.8}, "change no latency"),
        ({"stored_bits": 4, "granularity": PerTensor()}, "need granularity"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Quantize(**given)  # type: ignore[arg-type]


def test_a_resolved_step_that_does_not_fit_is_refused() -> None:
    model = seeded(Residual)
    applied = Quantize(stored_bits=4).apply(model, task_of(model, images(24)), Run())
    name = next(iter(applied.resolved["stored"]))
    for entry, reason in (
        ({"bits": 9, "group": 7}, "9 bits"),
        ({"bits": 4, "group": 5}, "groups of 5"),
        ({}, "malformed"),
    ):
        resolved = {**applied.resolved, "stored": {name: entry}}
        with pytest.raises(RecipeError, match=reason):
            Quantize().rebuild(seeded(Residual), resolved, images(1))
    with pytest.raises(RecipeError, match="no layer other"):
        resolved = {**applied.resolved, "stored": {"other": {"bits": 4, "group": 7}}}
        Quantize().rebuild(seeded(Residual), resolved, images(1))
