"""The techniques that Tenfold ships, in recipes and in saved networks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.compress import (
    Recipe,
    Run,
    Technique,
    apply_recipe,
    load,
    parse_recipe,
    preflight_recipe,
    recipe_from,
    save,
    technique_from,
    technique_to_dict,
)
from tenfold.compress.distill import Distill
from tenfold.compress.factorize import Energy, Factorize
from tenfold.compress.prune import Criterion, Free, Prune, Saliency, Scope, Sparsify, TwoOfFour
from tenfold.compress.quantize import Quantize, QuantizeWeights
from tenfold.compress.quantize.allocation import Average
from tenfold.compress.registry import TECHNIQUES, technique_class
from tenfold.compress.share import Scalar, Share, Tie
from tenfold.compress.shorten import Shorten
from tenfold.data import Task
from tenfold.errors import OutOfTime, RecipeError
from tenfold.models import create

SHIPPED = (
    "prune",
    "shorten",
    "sparsify",
    "tie",
    "factorize",
    "share",
    "distill",
    "quantize",
    "quantize-weights",
)


@pytest.mark.parametrize("name", SHIPPED)
def test_as_plain_data_and_back(name: str) -> None:
    technique = technique_class(name)()
    assert isinstance(technique, Technique)
    assert technique_from(technique_to_dict(technique)) == technique
    assert parse_recipe(Recipe((technique,)).to_yaml()) == Recipe((technique,))


@pytest.mark.parametrize("name", SHIPPED)
def test_an_unknown_key_names_the_nearest(name: str) -> None:
    first = next(key for key in technique_to_dict(technique_class(name)()) if key != "technique")
    with pytest.raises(RecipeError, match=rf"{name} has no key '{first}x'; did you mean .*'{first}'"):
        technique_from({"technique": name, first + "x": 1})


def test_every_registered_technique_is_covered_here() -> None:
    homes = {name for name, entry in TECHNIQUES.items() if isinstance(entry.home, str)}
    assert homes == set(SHIPPED)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prune", "ratio: 1.5", r"ratio must be .* not 1\.5"),
        ("quantize", "weight_bits: 5", "weight_bits must be 8, 7 or None, not 5"),
        ("quantize", "examples: 0", "examples must be a whole number of at least 1, not 0"),
        ("quantize", "epochs: -1", "epochs must be a finite number"),
        (
            "quantize-weights",
            "rounding: gptq",
            r"rounding must be a mapping of Nearest or Gptq or Learned, not 'gptq': write \{type: Gptq\}",
        ),
        (
            "quantize-weights",
            "rounding: [1]",
            "rounding must be a mapping of Nearest or Gptq or Learned, not",
        ),
    ],
)
def test_a_value_out_of_range_names_technique_key_and_line(name: str, value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^recipe:3: {name}: {message}"):
        parse_recipe(f"steps:\n- technique: {name}\n  {value}\n")


SHARE, SPARSIFY, PRUNE = ({"technique": name} for name in ("share", "sparsify", "prune"))
TWO_OF_FOUR = SPARSIFY | {"pattern": {"type": "TwoOfFour"}}
UNIFORM = {"type": "Free", "scope": "uniform"}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((SHARE, SPARSIFY | {"epochs": 1.0}), "its epochs move shared values apart; put sparsify before"),
        ((SHARE, SPARSIFY | {"saliency": "obs", "pattern": UNIFORM}), "saliency obs moves the weights"),
        ((SHARE | {"codebook": {"type": "Product"}}, SPARSIFY), "zeros within shared vectors"),
        ((TWO_OF_FOUR, PRUNE), "not two of four any more; put prune before sparsify"),
        (
            (TWO_OF_FOUR, PRUNE | {"ratio": 0.0, "residual": 0.5}),
            "not two of four any more; put prune before sparsify",
        ),
        ((TWO_OF_FOUR, SPARSIFY, PRUNE | {"ratio": 0.0, "target_macs": 0.5}), "put prune before sparsify"),
    ],
)
def test_a_step_that_would_undo_an_earlier_one_is_refused(
    steps: tuple[dict[str, object], ...], message: str
) -> None:
    number, name, first = len(steps), steps[-1]["technique"], steps[0]["technique"]
    with pytest.raises(RecipeError, match=f"step {number}: {name} may not follow {first}: .*{message}"):
        recipe_from({"steps": list(steps)})


@pytest.mark.parametrize(
    "steps",
    [
        (SHARE, SPARSIFY),
        (SHARE, TWO_OF_FOUR),
        (SPARSIFY | {"epochs": 1.0}, SHARE),
        (SPARSIFY, PRUNE),
        (PRUNE, TWO_OF_FOUR),
        (TWO_OF_FOUR, PRUNE | {"ratio": 0.0, "blocks": 1}),
    ],
)
def test_steps_that_leave_the_earlier_ones_be_are_recipes(steps: tuple[dict[str, object], ...]) -> None:
    assert len(recipe_from({"steps": list(steps)}).steps) == len(steps)


@pytest.mark.parametrize("second", [SPARSIFY, TWO_OF_FOUR])
def test_zeros_put_into_shared_values_leave_them_few(second: dict[str, object]) -> None:
    work = task()
    model, steps = apply_recipe(recipe_from({"steps": [SHARE, second]}), work, Run())
    for name, entries in steps[0].resolved["entries"].items():
        assert len(torch.unique(model.get_submodule(name).weight)) <= entries + 1


@pytest.mark.parametrize("name", ["factorize", "distill"])
def test_nothing_follows_quantize(name: str) -> None:
    quantize, other = technique_class("quantize")(), technique_class(name)()
    with pytest.raises(
        RecipeError, match=rf"quantize must come last, and {name} follows it: it fixes the scales"
    ):
        Recipe((quantize, other))
    Recipe((other, quantize))


def task() -> Task:
    torch.manual_seed(0)
    model: nn.Module = create("resnet20", num_classes=4, in_channels=1).train()
    model(torch.randn(16, 1, 12, 12))  # running statistics that are not those of a new network
    pairs = (torch.randn(24, 1, 12, 12), torch.arange(24) % 4)
    return Task(model.eval(), pairs, pairs)


@pytest.mark.parametrize(
    "steps",
    [
        ("quantize",),
        ("quantize-weights",),
        ("factorize",),
        ("prune",),
        ("sparsify",),
        ("share",),
        ("prune", "sparsify", "share"),
        ("prune", "quantize"),
        ("prune", "quantize-weights"),
        ("prune", "factorize", "quantize"),
    ],
)
def test_what_they_make_is_saved_and_loaded_equal(steps: tuple[str, ...], tmp_path: Path) -> None:
    work = task()
    recipe = Recipe(tuple(technique_class(name)() for name in steps))
    model, made = apply_recipe(recipe, work, Run())
    save(tmp_path / "a", model, made, inputs=work.zeros())
    again = load(tmp_path / "a", base=lambda: create("resnet20", num_classes=4, in_channels=1))
    inputs, _ = work.validation.select(range(24))
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))


class Stack(nn.Module):
    """(N, 12) -> (N, 3): a stack of four residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Branch() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Branch(nn.Module):
    """(N, 8) -> (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


@pytest.fixture
def stack() -> Task:
    torch.manual_seed(0)
    pairs = torch.randn(24, 12), torch.arange(24) % 3
    return Task(Stack().eval(), pairs, pairs)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ((Shorten(0.25), Distill(epochs=20), Tie()), r"step 3 \(tie\): the network has no stack"),
        ((Shorten(), Share(layers=("blocks.3.*",))), r"step 2 \(share\): blocks.3.*"),
        (
            (Shorten(), Distill(hidden=(("blocks.3", "blocks.3"),))),
            r"step 2 \(distill\): blocks.3: the student",
        ),
        ((Tie(2), Shorten(0.25), Tie()), r"step 3 \(tie\): the network has no stack"),
        (
            (Prune(0.4), Sparsify(TwoOfFour(), layers=("blocks.0.down",))),
            r"step 2 \(sparsify\): blocks.0.down: its 10",
        ),
        ((Sparsify(Free(0.5)), Shorten(0.25), Shorten()), r"step 3 \(shorten\): no stack"),
    ],
)
def test_a_step_is_checked_at_once_against_the_network_that_it_will_meet(
    stack: Task, steps: tuple[Technique, ...], problem: str
) -> None:
    begun: list[str] = []
    with pytest.raises(RecipeError, match=problem):
        apply_recipe(Recipe(steps), stack, Run(progress=lambda _, text: begun.append(text)))
    assert not begun


@pytest.mark.parametrize(
    "first",
    [
        Factorize(Energy(0.5), layers=("blocks.1.up",), multiple=1),
        Prune(0.4, Criterion.MAGNITUDE, Scope.GLOBAL, blocks=3),
    ],
)
def test_a_step_that_data_decide_about_is_checked_as_soon_as_they_have(stack: Task, first: Technique) -> None:
    names = []
    recipe = Recipe((first, Distill(epochs=20), Tie(2)))
    assert preflight_recipe(recipe, stack, Run()) == []
    with pytest.raises(RecipeError, match=r"step 3 \(tie\): the network has no stack"):
        apply_recipe(recipe, stack, Run(progress=lambda _, text: names.append(text)))
    assert not any("loss" in name for name in names)


@pytest.mark.parametrize(
    "steps",
    [
        (Factorize(Energy(0.5), layers=("*.up",), multiple=1), Share(Scalar(2), layers=("*.up.*",))),
        (Prune(0.5), Shorten(), Tie(), Distill(epochs=1)),
        (Prune(0.3, blocks=("blocks.1",)), Sparsify()),
    ],
)
def test_no_step_is_refused_for_what_comes_of_those_before_it(
    stack: Task, steps: tuple[Technique, ...]
) -> None:
    assert preflight_recipe(Recipe(steps), stack, Run()) == []
    apply_recipe(Recipe(steps), stack, Run())


@pytest.mark.parametrize(
    "technique",
    [
        Factorize(),
        Factorize(activations=8),
        Share(Scalar(4)),
        Sparsify(Free(0.5, Scope.UNIFORM), Saliency.OBS, examples=8),
        Sparsify(epochs=1),
        Quantize(examples=8),
        QuantizeWeights(bits=3),
        QuantizeWeights(bits=Average(3.5)),
    ],
    ids=lambda technique: repr(technique)[:40],
)
def test_a_time_that_is_over_is_no_fault_of_the_network(technique: Technique) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    split = (torch.randn(32, 16), torch.arange(32) % 4)
    with pytest.raises(OutOfTime):
        technique.apply(network, Task(network, split, split), Run(deadline=time.monotonic() - 1))
