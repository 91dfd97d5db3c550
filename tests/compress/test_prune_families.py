"""Networks of timm and transformers, on random weights and statistics: half of every family goes.

Each must lose at least half of its multiply-accumulates with at least 80% of its layers narrowed, and answer as
two other networks do: the traced original with everything removed held at zero, and, where no norm runs over
channels that go, the original module itself with the weights zeroed that read what was removed.
"""

import copy
import importlib.util
import json
import math
from typing import Any

import pytest
import torch
from prune_networks import randomised
from torch import Tensor, nn

from tenfold.compress.prune import ChannelGraph, Criterion, Prune, residual_blocks
from tenfold.compress.technique import Run
from tenfold.cost import Inputs, as_args, call
from tenfold.data import Task
from tenfold.models import external

IMAGE = {
    "resnet18": 64,
    "resnet50": 64,
    "mobilenetv2_100": 64,
    "mobilenetv3_small_100": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "convnext_tiny": 64,
    "vit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
}
NORM_OVER_CHANNELS = ("convnext", "vit", "swin", "bert", "llama")


def library(name: str) -> Any:
    """An optional library, imported as Tenfold does it; the test is skipped where it is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return external._library(name, name)


def network(name: str) -> tuple[nn.Module, Inputs]:
    """A fresh network of this name, always the same, and random inputs."""
    generator = torch.Generator().manual_seed(1)
    if name in IMAGE:
        library("timm")
        model = external.timm_network(name, weights=False)
        return randomised(model), torch.randn(2, 3, IMAGE[name], IMAGE[name], generator=generator)
    transformers = library("transformers")
    common = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 50,
        "max_position_embeddings": 32,
    }
    tokens = torch.randint(1, 50, (2, 12), generator=generator)
    if name == "bert":
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**common))
        return randomised(model), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, num_key_value_heads=2))
    return randomised(model), {"input_ids": tokens}


def layers(model: nn.Module) -> dict[str, Tensor]:
    """The weights of layers: matrices and kernels."""
    return {n: p for n, p in model.named_parameters() if p.dim() >= 2 and n.endswith("weight")}


def close(answer: Tensor, wanted: Tensor) -> None:
    """Equal within 1e-5 of the largest value."""
    assert wanted.abs().max() > 0
    torch.testing.assert_close(answer, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


@torch.no_grad()
def unread(model: nn.Module, removed: dict[str, dict[int, list[int]]]) -> nn.Module:
    """A copy of full size in which no layer reads the removed inputs: their weights are zero."""
    silent = copy.deepcopy(model)
    for name, weight in layers(silent).items():
        gone = removed.get(name, {}).get(1, [])
        weight[:, gone] = 0
    return silent


@pytest.mark.parametrize("name", [*IMAGE, "bert", "llama"])
def test_half_of_everything_goes(name: str) -> None:
    model, inputs = network(name)
    graph = ChannelGraph.of(model, inputs)
    assert graph.frozen == {}
    assert graph.unknown == {}
    generator = torch.Generator().manual_seed(5)
    half = {
        f.name: torch.randperm(f.size, generator=generator)[: math.ceil(f.size / 2)].sort().values.tolist()
        for f in graph.families
    }
    inner = {f.name: half[f.name] for f in graph.families if not f.residual}
    before = layers(model)
    for kept in (half, inner):
        plan = graph.plan(model, kept)
        narrowed = plan.apply(model)
        with torch.no_grad():
            answer = call(narrowed, inputs)
        close(answer, graph.reference(kept, model, inputs)[0])
        if kept is inner or not name.startswith(NORM_OVER_CHANNELS):
            removed = {
                tensor: {
                    dim: sorted(set(range(before[tensor].shape[dim])) - set(places))
                    for dim, places in dims.items()
                }
                for tensor, dims in plan.indices.items()
                if tensor in before
            }
            with torch.no_grad():
                close(answer, call(unread(model, removed), inputs))
    after = layers(graph.narrow(model, half))
    assert sum(after[n].shape != before[n].shape for n in before) >= 0.8 * len(before)
    assert graph.macs(half) <= 0.5 * graph.macs()


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "bert", "llama"]
)
def test_a_pruned_network_is_rebuilt_from_its_structure_and_weights(name: str) -> None:
    model, inputs = network(name)
    targets = torch.zeros(
        len(next(iter((*as_args(inputs)[0], *as_args(inputs)[1].values())))), dtype=torch.long
    )
    task = Task(model, train=(inputs, targets), validation=(inputs, targets))
    prune = Prune(ratio=0.5, residual=0.5, criterion=Criterion.MAGNITUDE)
    applied = prune.apply(model, task, Run())
    fresh, _ = network(name)
    rebuilt = prune.rebuild(fresh, json.loads(json.dumps(applied.resolved)), inputs)
    rebuilt.load_state_dict(applied.model.state_dict())
    with torch.no_grad():
        assert torch.equal(call(rebuilt, inputs), call(applied.model, inputs))


@pytest.mark.parametrize(
    ("name", "number", "one"),
    [
        ("resnet18", 5, "layer1.0"),
        ("mobilenetv2_100", 10, "blocks.1.1"),
        ("densenet121", 0, ""),
        ("vit_tiny_patch16_224", 12, "blocks.11"),
        ("convnext_tiny", 18, "stages.2.blocks.4"),
        ("bert", 2, "bert.encoder.layer.1"),
        ("llama", 2, "model.layers.0"),
    ],
)
def test_residual_blocks_are_those_of_the_architecture(name: str, number: int, one: str) -> None:
    model, inputs = network(name)
    blocks = residual_blocks(model, inputs)
    assert len(blocks) == number
    assert not one or one in blocks
