"""INT8 networks whose weights are stored in fewer bits: what they answer, what is kept of them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
from tenfold.compress.quantize.stored import insert_stored
from tenfold.cost import Device, call
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
    # Six bits are a fraction of a bit from eight, by GPTQ and finer steps for groups.
    assert by_bits[-1] > plain - 6
    nearest = noise_db(*quantized(Quantize(stored_bits=3, rounding=Nearest())))
    assert noise_db(*quantized(Quantize(stored_bits=3, rounding=Learned(steps=60)))) > nearest


def test_the_integers_are_those_of_the_codes_and_memory_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(Residual, WIDTH)
    computed: dict[str, Tensor] = {}
    monkeypatch.setattr(
        "tenfold.compress.quantize.quantizer.insert_stored",
        lambda module, stored: computed.update(module.state_dict()) or insert_stored(module, stored),
    )
    applied = Quantize(stored_bits=4, weight_bits=8).apply(model, task_of(model, images(24)), Run())
    found = stored_weights(applied.model)
    for node, weight in found:  # what the scales and biases were fitted to
        path = str(node.args[0].target).removesuffix("codes")  # type: ignore[union-attr]
        assert torch.equal(computed[f"{path}weight"], weight.values())
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


def test_eight_bits_of_a_file_count_as_what_the_kernel_has_of_them() -> None:
    """Integers of seven bits step twice as far as those of eight: their errors are about four times as large, squared."""
    lost = {}
    for computed in (7, 8):
        technique = Quantize(weight_bits=computed, stored_bits=Average(8.0, (4, 8)), rounding=Nearest())
        applied = technique.apply(
            seeded(Residual, WIDTH), task_of(seeded(Residual, WIDTH), images(24)), Run()
        )
        assert not applied.resolved["stored"]
        lost[computed] = applied.resolved["stored_allocation"]["expected_loss"]
    assert 3.0 < lost[7] / lost[8] < 5.0


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
        ({"stored_bits": 4, "group": 7}, "group must be a whole number of at least 8"),
        ({"stored_bits": 4, "epochs": 1.0}, "cannot be trained"),
        ({"stored_bits": 4, "target_latency": 0.8}, "name them in floats"),
        ({"stored_bits": 4, "granularity": PerTensor()}, "leave granularity out"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Quantize(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"group": 64}, {"rounding": Nearest()}])
def test_what_without_stored_bits_has_no_effect_is_refused_before_work_and_loads_where_it_was_saved(
    given: dict[str, Any], tmp_path: Path
) -> None:
    technique, model = Quantize(**given), seeded(Residual)
    task = task_of(model, images(24))
    (problem,) = technique.preflight(model, task, Device())
    assert "group and rounding are those of stored_bits" in str(problem)
    applied = technique.apply(model, task, Run())  # as a network of before was made
    save(tmp_path / "a", applied.model, [Step(technique, applied.resolved)], inputs=images(2))
    x = images(4)
    assert torch.equal(
        answers(load(tmp_path / "a", base=lambda: seeded(Residual)), x), answers(applied.model, x)
    )
    assert not Quantize(stored_bits=4, **given).preflight(model, task, Device())


def test_a_resolved_step_that_does_not_fit_is_refused() -> None:
    model = seeded(Residual)
    applied = Quantize(stored_bits=4).apply(model, task_of(model, images(24)), Run())
    name = next(iter(applied.resolved["stored"]))
    for entry, reason in (
        ({"bits": 9, "group": 7}, "9 bits"),
        ({"bits": 4, "group": 5}, "groups of 5"),
        ({"bits": 4.0, "group": 7}, "in 4.0 bits"),
        ({"bits": 4, "group": "7"}, "groups of '7'"),
        ({"bits": 4, "group": True}, "groups of True"),
        ({}, "malformed"),
    ):
        resolved = {**applied.resolved, "stored": {name: entry}}
        with pytest.raises(RecipeError, match=reason):
            Quantize().rebuild(seeded(Residual), resolved, images(1))
    with pytest.raises(RecipeError, match="no layer other"):
        resolved = {**applied.resolved, "stored": {"other": {"bits": 4, "group": 7}}}
        Quantize().rebuild(seeded(Residual), resolved, images(1))
    resolved = {**applied.resolved, "weight_bits": float("inf")}
    with pytest.raises(RecipeError, match="malformed"):
        Quantize().rebuild(seeded(Residual), resolved, images(1))


class Tied(nn.Module):
    """(N, 16) -> (N, 16) by one weight, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_a_weight_that_layers_share_is_stored_under_the_first_one() -> None:
    x = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    applied = Quantize(stored_bits=4).apply(seeded(Tied), task_of(seeded(Tied), x), Run())
    ((name, entry),) = applied.resolved["stored"].items()
    other = next(layer for layer in applied.resolved["layers"] if layer != name)
    with pytest.raises(RecipeError, match=f"{other} reads the weight of a layer before it"):
        Quantize().rebuild(seeded(Tied), {**applied.resolved, "stored": {other: entry}}, x)


@pytest.mark.parametrize("bits", [7, Average(6.0, (5, 7, 8))])
def test_codes_that_do_not_fit_the_kernels_integers_are_refused(bits: int | Average) -> None:
    model, technique = seeded(Residual), Quantize(stored_bits=bits, weight_bits=7)
    task = task_of(model, images(8))
    (problem,) = technique.preflight(model, task, Device())
    assert "codes of 7 bits do not fit integers of 7, as weight_bits says" in str(problem)
    with pytest.raises(RecipeError, match="leave 7 out of stored_bits"):
        technique.apply(model, task, Run())


def test_bits_that_no_weight_can_have_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    task = task_of(model, images(8))
    for bits in (4, Average(4.0)):
        technique = Quantize(Mode.DYNAMIC, stored_bits=bits)
        (problem,) = technique.preflight(model, task, Device())
        assert "0% of the weights can be stored" in str(problem)
        with pytest.raises(RecipeError, match="0% of the weights can be stored"):
            technique.apply(model, task, Run())
    # An average of eight is plain INT8.
    applied = Quantize(stored_bits=Average(8.0, (4, 8)), weight_bits=8).apply(model, task, Run())
    assert applied.resolved["stored"] == {}
