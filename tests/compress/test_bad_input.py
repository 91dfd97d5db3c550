"""What users hand over by mistake: dead channels, data that is constant, not finite or of the wrong shape."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, Technique, apply_recipe
from tenfold.compress.distill import Distill
from tenfold.compress.factorize import Factorize
from tenfold.compress.factorize import Share as Part
from tenfold.compress.prune import Criterion, Free, Prune, Saliency, Scope, Sparsify, TwoOfFour
from tenfold.compress.prune.graph import ChannelGraph
from tenfold.compress.quantize import (
    Average,
    Learned,
    Mode,
    Nearest,
    PerChannel,
    Quantize,
    QuantizeWeights,
    export_program,
)
from tenfold.compress.quantize.gptq import inverse_factor
from tenfold.compress.registry import TECHNIQUES, technique_name
from tenfold.compress.share import Scalar, Share, Tie
from tenfold.compress.shorten import Shorten
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import DataError, ExportError, NetworkError, RecipeError, TenfoldError


class Net(nn.Module):
    """(N, 3, 6, 6) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.conv2(x).relu().mean((2, 3)))


def task_of(images: Tensor) -> Task:
    torch.manual_seed(0)
    model = Net().eval()
    labels = torch.arange(len(images)) % 4
    return Task(model, (images, labels), (images, labels))


def drawn(number: int = 24) -> Tensor:
    return torch.randn(number, 3, 6, 6, generator=torch.Generator().manual_seed(1))


OBS = Sparsify(Free(0.5, Scope.UNIFORM), Saliency.OBS, examples=16)
FROM_DATA: dict[str, Technique] = {
    "taylor": Prune(0.5, Criterion.TAYLOR, examples=16),
    "fisher": Prune(0.5, Criterion.FISHER, examples=16),
    "obd": Sparsify(Free(0.5), Saliency.FISHER, examples=16),
    "hutchinson": Sparsify(Free(0.5), Saliency.HUTCHINSON, examples=16),
    "obs": OBS,
    "obs, 2:4": Sparsify(TwoOfFour(), Saliency.OBS, examples=16),
    "low rank": Factorize(Part(0.6), multiple=1, activations=16),
    "distil": Distill(epochs=0.5, precision="fp32", teacher_precision="fp32"),
}


@pytest.mark.parametrize("name", FROM_DATA)
def test_constant_data_make_singular_curvature_and_no_trouble(name: str) -> None:
    task = task_of(torch.full((24, 3, 6, 6), 0.7))
    made = FROM_DATA[name].apply(task.model, task, Run(teacher=task.model)).model
    with torch.no_grad():
        assert bool(made(drawn(4)).isfinite().all())


@pytest.mark.parametrize("name", FROM_DATA)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_told(name: str, value: float) -> None:
    images = drawn()
    images[:, 1] = value
    task = task_of(images)
    with pytest.raises((DataError, NetworkError), match=r"finite|NaN or inf"):
        FROM_DATA[name].apply(task.model, task, Run(teacher=task.model))


CALIBRATED: list[Technique] = [
    Quantize(),
    Quantize(Mode.DYNAMIC),
    Quantize(Mode.DYNAMIC, equalize=True, bias_correction=False),
    QuantizeWeights(),
    QuantizeWeights(Average(4.0), rounding=Nearest(), bias_correction=False),
    QuantizeWeights(4, rounding=Learned(steps=2)),
]


@pytest.mark.parametrize("technique", CALIBRATED, ids=str)
def test_examples_that_are_not_finite_are_told_by_the_layer_that_meets_them(technique: Technique) -> None:
    images = drawn()
    images[20, 1, 2, 3] = torch.nan  # which the first examples do not hold
    task = task_of(images)
    with pytest.raises(NetworkError) as told:
        technique.apply(task.model, task, Run())
    static = isinstance(technique, Quantize) and technique.mode is Mode.STATIC
    first = "x" if static else "conv1.conv2d"  # a static one quantizes its input too
    assert str(told.value).startswith(f"{first}: it computes NaN or infinity on the calibration examples, so")
    assert str(told.value).endswith("hold such values")


@pytest.mark.parametrize("technique", [Quantize(), Quantize(Mode.DYNAMIC), QuantizeWeights()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_type_than_float32_are_told_by_it(
    technique: Technique, dtype: torch.dtype
) -> None:
    task = task_of(drawn().to(dtype))
    task.model.to(dtype)
    told = f"conv1: its weight is {str(dtype)[6:]}, and only float32 is quantised"
    assert [str(p)[: len(told)] for p in technique.preflight(task.model, task, Device())] == [told]
    with pytest.raises(NetworkError, match=told):
        technique.apply(task.model, task, Run())


def test_what_is_quantised_already_is_told_so_by_every_technique_and_once_by_a_recipe() -> None:
    task = task_of(drawn())
    model = QuantizeWeights(4, PerChannel(), rounding=Nearest()).apply(task.model, task, Run()).model
    told = "the network is already quantised; give the float network that it was made of"
    techniques = [
        Prune(0.5),
        OBS,
        Share(Scalar(4)),
        Shorten(),
        Tie(),
        FROM_DATA["low rank"],
        Distill(epochs=1),
    ]
    techniques += [Quantize(), QuantizeWeights()]
    ours = {name for name, entry in TECHNIQUES.items() if isinstance(entry.home, str)}
    assert {technique_name(technique) for technique in techniques} == ours
    for technique in techniques:
        assert [str(problem) for problem in technique.preflight(model, task, Device())] == [told]
    task.model = model
    with pytest.raises(RecipeError, match=f"^the recipe cannot be applied: {told}$"):
        apply_recipe(Recipe((Prune(0.5), Distill(epochs=1))), task, Run())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_what_pytorch_has_quantised_is_told_so_where_it_is_traced() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4)).eval()
    packed = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    told = (
        r"^the network is already quantised by torch\.ao\.quantization \(layer 0\); give the float network that it was "
        "made of$"
    )
    with pytest.raises(ExportError, match=told):
        export_program(packed, torch.zeros(2, 6))
    with pytest.raises(NetworkError, match=told):
        ChannelGraph.of(packed, torch.zeros(2, 6))
    x, y = torch.zeros(8, 6), torch.arange(8) % 4
    task = Task(packed, (x, y), (x, y))
    assert re.match(told, str(QuantizeWeights().preflight(packed, task, Device())[0]))
    assert Distill(epochs=1).preflight(packed, task, Device()) == []  # its norm may be trained
    packed[1] = nn.Identity()
    assert re.match(told, str(Distill(epochs=1).preflight(packed, task, Device())[0]))


def test_obs_leaves_a_layer_that_is_never_called_and_says_so() -> None:
    task = task_of(drawn())
    task.model.unused = nn.Linear(8, 8)
    assert OBS.preflight(task.model, task, Device()) == []
    applied = OBS.apply(task.model, task, Run())
    assert torch.equal(applied.model.unused.weight, task.model.unused.weight)
    assert "no example reaches it" in applied.resolved["skipped"]["unused"]
    assert list(applied.resolved["zeros"]) == ["conv1", "conv2", "fc"]
    assert applied.resolved["sparsity"] == pytest.approx(0.5, abs=0.03)


def test_gptq_ends_where_no_damping_would_do() -> None:
    with pytest.raises(NetworkError, match="NaN or infinity"):
        inverse_factor(torch.full((1, 3, 3), torch.nan), 0.01)


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_data_of_the_wrong_shape_are_told_before_any_work(name: str) -> None:
    task = task_of(torch.randn(24, 5, 6, 6))
    problems = FROM_DATA[name].preflight(task.model, task, Device())
    assert len(problems) == 1
    assert "3" in str(problems[0])
    assert "5" in str(problems[0])


SHAPE_READ_LATE: list[Technique] = [
    Sparsify(),
    OBS,
    Share(),
    Distill(),
    Factorize(),
    Factorize(activations=4),
]


@pytest.mark.parametrize("technique", SHAPE_READ_LATE, ids=str)
def test_the_shape_that_does_not_fit_is_told_with_the_layer(technique: Technique) -> None:
    task = task_of(torch.randn(24, 5, 6, 6))
    told = "the network does not run on an example of (1, 5, 6, 6) float32: layer 'conv1'"
    (problem,) = technique.preflight(task.model, task, Device())
    assert str(problem).startswith(told)
    with pytest.raises(RecipeError, match=re.escape(f"the recipe cannot be applied: {told}")):
        apply_recipe(Recipe((technique,)), task, Run())


@pytest.mark.parametrize("criterion", [c for c in Criterion if c is not Criterion.RANDOM])
def test_dead_channels_go_first(criterion: Criterion) -> None:
    task = task_of(drawn())
    dead = [2, 5, 11]
    with torch.no_grad():
        for tensor in (
            task.model.conv1.weight,
            task.model.conv1.bias,
            task.model.bn1.weight,
            task.model.bn1.bias,
        ):
            tensor[dead] = 0.0
        task.model.conv2.weight[:, dead] = 0.0
    made = Prune(3 / 16, criterion, examples=16).apply(task.model, task, Run())
    assert made.model.conv1.out_channels == 13
    with torch.no_grad():
        if (
            criterion is not Criterion.GEOMETRIC_MEDIAN
        ):  # what is dead need not lie in the middle of the others
            kept = [i for i in range(16) if i not in dead]
            assert torch.equal(made.model.conv1.weight, task.model.conv1.weight[kept])
        assert bool(made.model(drawn(4)).isfinite().all())


def test_the_answers_width_is_never_pruned() -> None:
    task = task_of(drawn())
    problems = Prune(0.0, widths={"fc": 0.5}).preflight(task.model, task, Device())
    assert [problem.layer for problem in problems] == ["fc"]
    assert Prune(0.9, Criterion.MAGNITUDE).apply(task.model, task, Run()).model.fc.out_features == 4


def test_few_values_and_all_zero_weights_are_no_trouble() -> None:
    task = task_of(drawn())
    nn.init.zeros_(task.model.conv2.weight)
    for technique in (Share(Scalar(2)), Sparsify(Free(0.5)), OBS, Factorize(Part(0.6), multiple=1)):
        made = technique.apply(task.model, task, Run(teacher=task.model)).model
        with torch.no_grad():
            assert bool(made(drawn(4)).isfinite().all())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Free(1.0),
        lambda: Scalar(9),
        lambda: Part(0.0),
        lambda: Prune(1.0),
        lambda: Prune(round_to=0),
        lambda: Factorize(multiple=0),
        lambda: Distill(alpha=1.5),
    ],
)
def test_numbers_out_of_range_are_refused_when_they_are_given(make: Any) -> None:
    with pytest.raises((ValueError, TenfoldError), match=r"must be"):
        make()
