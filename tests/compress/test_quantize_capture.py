"""The captured graph: equal outputs, folded batch norm, no writes in place, stable names, the plan."""

from __future__ import annotations

import copy

import pytest
import torch
from quantize_networks import Attention, Residual, Standardised, images, seeded
from torch import Tensor, nn

from tenfold.compress.quantize import capture, capture_folded
from tenfold.compress.quantize.capture import operator
from tenfold.compress.quantize.naming import stable_names
from tenfold.compress.quantize.plan import make_plan
from tenfold.errors import ExportError


def operators(module: torch.fx.GraphModule) -> list[str]:
    return [operator(node) for node in module.graph.nodes if operator(node)]


def test_capture_is_exact_for_any_batch_and_edits_nothing() -> None:
    model = seeded(Residual)
    before = copy.deepcopy(model.state_dict())
    captured = capture(model, images(1))
    for batch in (1, 3):
        assert torch.equal(captured(images(batch)), model(images(batch)))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(node.target._schema.name.endswith("_") for node in captured.graph.nodes if operator(node))


class WritesInPlace(nn.Module):
    """Reads a tensor after it was written, and writes through a view."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        z = y.relu_()
        y[:, :1].add_(3)
        return y + z.mul_(0.5)


def test_writes_in_place_keep_their_order() -> None:
    model = WritesInPlace()
    assert torch.equal(capture(model, images(2))(images(5)), model(images(5)))


@pytest.mark.parametrize("groups", [1, 7])
def test_batch_norm_folds_exactly(groups: int) -> None:
    model = seeded(Residual, 7, groups)
    folded = capture_folded(model, images(2))
    assert "batch_norm" not in operators(folded)
    exact = copy.deepcopy(model).double()(images(4).double())
    assert torch.allclose(folded(images(4)).double(), exact, atol=1e-5, rtol=1e-5)


def test_batch_norm_after_a_linear_layer_folds_and_a_lone_one_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4))
    for module in model:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
    x = torch.randn(3, 6)
    folded = capture_folded(model.eval(), x)
    assert operators(folded).count("batch_norm") == 2
    assert torch.allclose(folded(x), model(x), atol=1e-6)


def test_a_computed_weight_becomes_a_constant_and_a_layer() -> None:
    model = seeded(Standardised)
    folded = capture_folded(model, images(2))
    assert len(make_plan(folded.graph).layers) == 1
    assert torch.allclose(folded(images(3)), model(images(3)), atol=1e-6)


def test_names_follow_the_modules() -> None:
    names = set(stable_names(capture(seeded(Residual), images(1)).graph).values())
    assert {"x", "stem.conv2d", "relu.relu", "relu.relu_1", "add", "fc.linear"} <= names


def test_a_residual_network_runs_in_integers_from_end_to_end() -> None:
    module = capture_folded(seeded(Residual), images(1))
    names, plan = stable_names(module.graph), make_plan(module.graph)
    quantised = {names[node]: names[keeper] for node, keeper in plan.tensors.items()}
    assert [names[layer.node] for layer in plan.layers] == [
        "stem.conv2d", "conv1.conv2d", "conv2.conv2d", "fc.linear",
    ]  # fmt: skip
    assert {names[node] for node in plan.integer} == {"add", "average.adaptive_avg_pool2d"}
    assert quantised["pool.max_pool2d"] == "relu.relu"  # what moves values keeps their quantiser
    assert quantised["flatten"] == "average.adaptive_avg_pool2d"
    assert "stem.conv2d" not in quantised  # the ReLU after it stands for it
    assert "add" not in quantised
    assert "fc.linear" not in quantised  # the logits stay float


def test_the_residual_stream_of_a_transformer_stays_float() -> None:
    tokens = torch.randn(2, 6, 16)
    module = capture_folded(seeded(Attention), {"tokens": tokens})
    names, plan = stable_names(module.graph), make_plan(module.graph)
    assert len(plan.layers) == 5
    assert not plan.integer
    assert not any("add" in names[node] for node in plan.tensors)


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "words"),
    [(FixedBatch(), "every batch size"), (Branches(), r"Branches\.forward.*depends on the values")],
)
def test_what_cannot_be_traced_is_named(model: nn.Module, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        capture(model, images(2))
