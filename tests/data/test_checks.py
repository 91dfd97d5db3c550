"""What must fail in seconds, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.data import Task, check_alike, check_task, checked_score, fashion_mnist, task_from
from tenfold.data.loaders import splits_from
from tenfold.errors import DataError, MetricError, NetworkError
from tenfold.models import create


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def data(number: int = 60, labels: Any = None) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(number, 4), torch.arange(number) % 3 if labels is None else labels


def make(model: nn.Module | None = None, train: Any = None, validation: Any = None, **options: Any) -> Task:
    return Task(model or net(), train or data(), validation or data(12), **options)


def test_a_good_task_passes_and_is_left_as_it_was() -> None:
    model = net().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_task(make(model))
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_sample_passes() -> None:
    check_task(task_from(create("resnet20", in_channels=1), fashion_mnist()))


def test_nan_in_a_weight_or_a_buffer() -> None:
    model = net()
    model[3].weight.data[1, 2] = math.nan
    with pytest.raises(NetworkError, match=r"the parameter 3\.weight holds NaN \(1 of 24 values\)"):
        check_task(make(model))
    model = net()
    model[1].running_var[0] = math.nan
    with pytest.raises(NetworkError, match=r"the buffer 1\.running_var holds NaN"):
        check_task(make(model))
    with pytest.raises(NetworkError, match=r"the parameter 0\.weight is on the meta device"):
        check_task(make(net().to("meta")))


@pytest.mark.parametrize(
    ("weights", "inputs", "advice"),
    [
        (torch.float16, torch.float32, "the network's weights are float16: convert it by .float()"),
        (torch.float32, torch.float16, "the network's weights are float32: convert the data by .float()"),
        (
            torch.float16,
            torch.float64,
            "the network's weights are float16: convert it and the data by .float()",
        ),
    ],
)
def test_a_network_and_data_of_two_types(weights: torch.dtype, inputs: torch.dtype, advice: str) -> None:
    x, y = data()
    with pytest.raises(NetworkError) as told:
        check_task(make(net().to(weights), (x.to(inputs), y)))
    assert "layer '0' raised RuntimeError: " in str(told.value)
    assert str(told.value).endswith(f"; {advice}")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_in_the_data(split: str, value: float) -> None:
    inputs, labels = data(5000)
    inputs[4321, 2] = value
    with pytest.raises(DataError, match=f"{split}: the example at index 4321 holds NaN or infinity"):
        check_task(make(**{split: (inputs, labels)}))


def test_an_index_is_that_of_the_data_as_given() -> None:
    inputs, labels = data()
    inputs[41, 2] = math.nan
    with pytest.raises(DataError, match=r"(train|validation): the example at index 41 holds NaN"):
        check_task(Task(net(), (inputs, labels)))
    inputs, labels = data()
    labels[41] = 7
    with pytest.raises(DataError, match="the label 7 at index 41 is out of range"):
        check_task(task_from(net(), splits_from((inputs, labels), "a factory")))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_splits_of_other_shapes_or_types_than_train(split: str) -> None:
    check_alike(make(test=data(3)))
    for other in (torch.zeros(12, 5), torch.zeros(12, 4, dtype=torch.float64), (torch.zeros(12, 4),) * 2):
        with pytest.raises(
            DataError, match=rf"{split} holds an example of \(1, .* and train .* \(1, 4\) float32"
        ):
            check_alike(make(**{split: (other, torch.arange(12) % 3)}))


@pytest.mark.parametrize("label", [3, 250, -1])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_labels_out_of_range(split: str, label: int) -> None:
    inputs, labels = data()
    labels[37] = label
    message = f"{split}: the label {label} at index 37 is out of range: the network has 3 classes, 0 to 2"
    with pytest.raises(DataError, match=message):
        check_task(make(**{split: (inputs, labels)}))


def test_float_labels() -> None:
    with pytest.raises(DataError, match="train: the labels are float32, but accuracy needs whole numbers"):
        check_task(make(train=data(labels=torch.rand(60))))
    labels = torch.rand(60)
    labels[7] = math.nan
    with pytest.raises(DataError, match="train: the target at index 7 is NaN"):
        check_task(make(train=data(labels=labels)))


def test_regression_with_its_own_metric() -> None:
    def closeness(outputs: Tensor, targets: Tensor) -> float:
        return -float((outputs[:, 0] - targets).square().mean())

    for targets in (torch.rand(60), torch.randint(0, 1000, (60,))):
        pair = data(labels=targets)
        check_task(make(nn.Linear(4, 1), pair, pair, metric=closeness))


def test_the_layer_that_fails_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(9, 3)))
    with pytest.raises(
        NetworkError, match=r"an example of \(1, 4\) float32: layer '1\.1' raised RuntimeError"
    ):
        check_task(make(model))

    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("gone")

    with pytest.raises(NetworkError, match="its own forward raised KeyError"):
        check_task(make(Fails()))
    with pytest.raises(NetworkError, match="layer '0'"):
        check_task(make(train=(torch.zeros(60, 4, dtype=torch.long), torch.arange(60) % 3)))


class Answers(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x.sum(), NetworkError, r"returned shape \(\) for one example"),
        (lambda x: x.new_zeros(2, 3), NetworkError, r"returned shape \(2, 3\) for one example"),
        (lambda x: x / 0, NetworkError, "output for the first training example holds NaN"),
        (lambda x: "text", NetworkError, "the network does not run.*holds no tensor"),
        (lambda x: x[:, 0], DataError, r"do not fit accuracy, which takes \(N, C\) and \(N,\)"),
        (lambda x: x[:, None], DataError, r"outputs of shape \(N, 1, 4\)"),
    ],
)
def test_outputs_that_do_not_fit(function: Callable[[Tensor], Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        check_task(make(Answers(function)))


def test_a_class_without_training_examples() -> None:
    inputs, labels = data()
    labels[labels == 1] = 0
    with pytest.raises(DataError, match=r"train has no example of class 1: add some"):
        check_task(make(train=(inputs, labels)))
    with pytest.raises(DataError, match="train has no example of class 'dog'"):
        check_task(make(train=(inputs, labels), classes=("cat", "dog", "emu")))


@pytest.mark.parametrize("classes", ["abcd", "ab"])
def test_other_classes_than_the_network_has(classes: str) -> None:
    inputs, labels = data()
    task = make(train=(inputs, labels.clamp(max=1)), classes=tuple(classes))
    with pytest.raises(DataError, match=f"names {len(classes)} classes .* network has 3 outputs"):
        check_task(task)


def test_a_small_draw_may_lack_classes() -> None:
    check_task(make(train=data(20, torch.zeros(20, dtype=torch.long))))
    check_task(make(train=data(2, torch.tensor([0, 1])), classes=("cat", "dog", "emu")))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda o, t: (o.argmax(1) == t).float().mean(), "returned a tensor of shape"),
        (lambda o, t: math.nan, "returned nan; it must be finite"),
        (lambda o, t: True, "returned bool"),
        (lambda o, t: None, "returned NoneType"),
        (lambda o, t: 1 / 0, "raised ZeroDivisionError.*given outputs"),
    ],
)
def test_bad_metrics(metric: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        check_task(make(metric=metric))


def test_the_metric_is_tried_on_several_classes() -> None:
    def needs_all(outputs: Tensor, targets: Tensor) -> float:
        return math.nan if len(targets.unique()) < 3 else 1.0

    ordered = (torch.randn(300, 4), torch.arange(300) // 100)
    check_task(make(validation=ordered, metric=needs_all))


def test_a_dataset_that_raises() -> None:
    class Broken(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            raise OSError("disk gone")

    with pytest.raises(DataError, match="train: reading an example raised OSError: disk gone"):
        check_task(make(train=Broken()))


def test_accuracy_against_a_count_by_hand() -> None:
    outputs = torch.tensor([[2.0, 1], [0, 3], [5, 4], [1, 2]])
    assert checked_score(make().metric, outputs, torch.tensor([0, 1, 1, 1])) == 0.75  # type: ignore[arg-type]
