"""The channel graph on small networks: families, and narrowed networks against ones written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_networks import (
    Attentive,
    Blocks,
    Concatenated,
    HardCoded,
    Padded,
    Residual,
    Squeezed,
    Unknown,
    randomised,
)
from torch import Tensor, nn

from tenfold.compress.prune import ChannelGraph, Narrowing
from tenfold.errors import NetworkError, RecipeError

IMAGES = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(2))


def summary(graph: ChannelGraph) -> dict[str, tuple[int, int, bool]]:
    return {family.name: (family.size, family.width, family.residual) for family in graph.families}


@torch.no_grad()
def conv(x: Tensor, layer: nn.Conv2d, out: list[int], into: list[int] | None) -> Tensor:
    """The layer with only these outputs and inputs."""
    weight = layer.weight[out] if into is None else layer.weight[out][:, into]
    bias = None if layer.bias is None else layer.bias[out]
    return F.conv2d(x, weight, bias, padding=layer.padding)  # type: ignore[arg-type]


@torch.no_grad()
def norm(x: Tensor, layer: nn.BatchNorm2d, kept: list[int]) -> Tensor:
    mean, var, weight, bias = layer.running_mean, layer.running_var, layer.weight, layer.bias
    assert mean is not None
    assert var is not None
    scaled = (x - mean[kept, None, None]) / (var[kept, None, None] + layer.eps).sqrt()
    return scaled * weight[kept, None, None] + bias[kept, None, None]


def test_residual_network_equals_the_one_written_by_hand() -> None:
    model = randomised(Residual())
    graph = ChannelGraph.of(model, IMAGES)
    assert summary(graph) == {"stem": (8, 1, True), "conv1": (6, 1, False)}
    stream, inner = [0, 3, 4, 7], [1, 2, 5]
    narrowed = graph.narrow(model, {"stem": stream, "conv1": inner})
    with torch.no_grad():
        x = conv(IMAGES, model.stem, stream, None)
        y = F.relu(norm(conv(x, model.conv1, inner, stream), model.bn1, inner))
        x = F.relu(x + norm(conv(y, model.conv2, stream, inner), model.bn2, stream))
        expected = F.linear(x.mean((2, 3)), model.head.weight[:, stream], model.head.bias)
        torch.testing.assert_close(narrowed(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert narrowed.conv1.weight.shape == (3, 4, 3, 3)
    assert (narrowed.conv1.in_channels, narrowed.conv1.out_channels, narrowed.bn1.num_features) == (4, 3, 3)


def test_squeeze_excite_and_flatten_equal_the_ones_written_by_hand() -> None:
    model = randomised(Squeezed())
    graph = ChannelGraph.of(model, IMAGES)
    assert summary(graph) == {
        "expand": (8, 1, False),
        "reduce": (4, 1, False),
        "project": (6, 1, False),
    }
    wide, slim, last = [0, 2, 3, 6, 7], [1, 3], [0, 4, 5]
    narrowed = graph.narrow(model, {"expand": wide, "reduce": slim, "project": last})
    with torch.no_grad():
        x = conv(IMAGES, model.expand, wide, None)
        depthwise = model.depthwise
        x = F.conv2d(x, depthwise.weight[wide], depthwise.bias[wide], padding=1, groups=len(wide))
        x = F.silu(norm(x, model.norm, wide))
        gate = conv(
            F.relu(conv(x.mean((2, 3), keepdim=True), model.reduce, slim, wide)), model.excite, wide, slim
        )
        x = conv(x * gate.sigmoid(), model.project, last, wide)
        columns = torch.arange(96).reshape(6, 16)[last].flatten()
        expected = F.linear(x.flatten(1), model.head.weight[:, columns], model.head.bias)
        torch.testing.assert_close(narrowed(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert narrowed.depthwise.groups == narrowed.depthwise.in_channels == 5


def test_attention_with_residual_width_equals_the_one_written_by_hand() -> None:
    model = randomised(Attentive())
    graph = ChannelGraph.of(model, TOKENS)
    assert summary(graph) == {
        "embed": (16, 1, True),
        "qkv": (4, 12, False),
        "up": (12, 2, False),
    }
    stream, heads, hidden = [0, 1, 4, 5, 9, 10, 11, 15], [1, 3], [0, 2, 3, 8, 11]
    narrowed = graph.narrow(model, {"embed": stream, "qkv": heads, "up": hidden})
    with torch.no_grad():
        width = len(stream)
        x = F.linear(TOKENS, model.embed.weight[stream], model.embed.bias[stream])
        x = torch.cat([model.token[..., stream].expand(3, -1, -1), x], 1) + model.positions[..., stream]
        y = F.layer_norm(x, (width,), model.norm1.weight[stream], model.norm1.bias[stream])
        attended = []
        for head in heads:
            q, k, v = (
                F.linear(y, model.qkv.weight[rows][:, stream], model.qkv.bias[rows])
                for rows in (range(16 * part + 4 * head, 16 * part + 4 * head + 4) for part in range(3))
            )
            attended.append((q @ k.transpose(1, 2) / 2).softmax(-1) @ v)
        columns = [4 * head + i for head in heads for i in range(4)]
        x = x + F.linear(
            torch.cat(attended, -1), model.out.weight[stream][:, columns], model.out.bias[stream]
        )
        y = F.layer_norm(x, (width,), model.norm2.weight[stream], model.norm2.bias[stream])
        values = [12 + i for i in hidden]
        gate = F.linear(y, model.up.weight[hidden][:, stream], model.up.bias[hidden])
        value = F.linear(y, model.up.weight[values][:, stream], model.up.bias[values])
        x = x + F.linear(F.silu(gate) * value, model.down.weight[stream][:, hidden], model.down.bias[stream])
        expected = F.linear(x[:, 0], model.head.weight[:, stream], model.head.bias)
        torch.testing.assert_close(narrowed(TOKENS), expected, rtol=1e-5, atol=1e-5)
    assert narrowed.num_heads == 2
    assert narrowed.head_dim == 4
    assert narrowed.norm1.normalized_shape == (8,)


def test_concatenation_and_grouped_convolution() -> None:
    model = randomised(Concatenated())
    graph = ChannelGraph.of(model, IMAGES)
    # Two groups of four inputs: the same slot goes from both. Eight groups of two in the norm: whole groups.
    assert summary(graph) == {
        "left": (4, 1, False),
        "right": (8, 1, False),
        "mix": (4, 2, False),
        "grouped": (4, 4, False),
    }
    narrowed = graph.narrow(model, {"left": [1], "right": [0, 2, 7], "mix": [0, 2], "grouped": [1, 3]})
    assert narrowed.mix.weight.shape == (4, 4, 1, 1)
    assert narrowed.grouped.weight.shape == (8, 2, 3, 3)
    assert (narrowed.grouped.groups, narrowed.norm.num_groups, narrowed.norm.num_channels) == (2, 4, 8)
    both = [1, 4, 6, 11]  # of the concatenation: left 1, right 0, 2, 7 after the four of left
    mixed = [0, 2, 4, 6]
    with torch.no_grad():
        x = torch.cat([F.relu(model.left(IMAGES)), torch.tanh(model.right(IMAGES))], 1)[:, both]
        x = F.conv2d(x, model.mix.weight[mixed][:, both], model.mix.bias[mixed])
        out = [2, 3, 6, 7, 10, 11, 14, 15]
        x = F.conv2d(x, model.grouped.weight[out][:, [0, 2]], model.grouped.bias[out], padding=1, groups=2)
        x = F.group_norm(x, 4, model.norm.weight[out], model.norm.bias[out], model.norm.eps)
        expected = F.linear(F.max_pool2d(x, 4).flatten(1), model.head.weight[:, out], model.head.bias)
        torch.testing.assert_close(narrowed(IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_zero_padded_channels_hold_what_they_meet() -> None:
    graph = ChannelGraph.of(randomised(Padded()), IMAGES)
    # Channels 0, 1, 6 and 7 of the wide layer meet zeros whose number is written in the code.
    assert summary(graph) == {"stem": (4, 1, True)}
    members = {(m.tensor, m.dim): m.slots.tolist() for m in graph.family("stem").members}
    assert members["wide.weight", 0] == [-1, -1, 0, 1, 2, 3, -1, -1]
    assert members["stem.weight", 0] == [0, 1, 2, 3]


def test_sizes_in_the_code_freeze_their_family_and_say_why() -> None:
    graph = ChannelGraph.of(randomised(HardCoded()), TOKENS)
    assert set(summary(graph)) == {"up"}
    assert "its code" in graph.frozen["qkv"]


def test_an_unknown_operator_freezes_its_channels_and_is_named() -> None:
    graph = ChannelGraph.of(randomised(Unknown()), IMAGES)
    assert set(summary(graph)) == {"after"}
    assert any("fft" in operator for operator in graph.unknown)


def test_a_network_that_cannot_be_traced_is_refused_by_name() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(NetworkError, match=r"torch\.export cannot trace Branching"):
        ChannelGraph.of(Branching(), IMAGES)


def test_tied_embedding_and_output_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.up = nn.Linear(8, 8)
            self.out = nn.Linear(8, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.up(self.embed(x))))

    model = randomised(Tied())
    tokens = torch.arange(10).reshape(2, 5)
    graph = ChannelGraph.of(model, tokens)
    assert summary(graph) == {"up": (8, 1, False)}  # one: what the layer reads and writes is the shared width
    kept = {family.name: range(0, family.size, 2) for family in graph.families}
    narrowed = graph.narrow(model, kept)
    assert narrowed.out.weight is narrowed.embed.weight
    assert narrowed.embed.embedding_dim == narrowed.out.in_features == 4
    torch.testing.assert_close(narrowed(tokens), graph.reference(kept, model, tokens)[0])


NETWORKS = {
    "residual": (Residual, IMAGES),
    "squeezed": (Squeezed, IMAGES),
    "concatenated": (Concatenated, IMAGES),
    "attentive": (Attentive, TOKENS),
    "padded": (Padded, IMAGES),
    "blocks": (Blocks, TOKENS),
}
GRAPHS = {name: (randomised(make(), seed=3), inputs) for name, (make, inputs) in NETWORKS.items()}
BUILT = {name: ChannelGraph.of(model, inputs) for name, (model, inputs) in GRAPHS.items()}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.data())
def test_any_choice_of_channels_equals_the_masked_original(name: str, data: st.DataObject) -> None:
    graph, (model, inputs) = BUILT[name], GRAPHS[name]
    kept = {
        family.name: sorted(
            data.draw(st.sets(st.integers(0, family.size - 1), min_size=1), label=family.name)
        )
        for family in graph.families
    }
    before = copy.deepcopy(model.state_dict())
    narrowed = graph.narrow(model, kept)
    with torch.no_grad():
        answer = narrowed(inputs)
    torch.testing.assert_close(answer, graph.reference(kept, model, inputs)[0], rtol=1e-4, atol=1e-5)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
    plan = graph.plan(model, kept)
    again = Narrowing.from_json(plan.to_json()).apply(model)
    assert torch.equal(again(inputs), answer)


def test_multiply_accumulates_are_those_of_the_narrowed_layers() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for name, graph in BUILT.items():
        model, inputs = GRAPHS[name]
        kept = {family.name: range(0, family.size, 2) for family in graph.families}
        for network, counted in ((model, graph.macs()), (graph.narrow(model, kept), graph.macs(kept))):
            counter = FlopCounterMode(display=False)
            with counter:
                network(inputs)
            assert counter.get_total_flops() == 2 * len(inputs) * counted, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {"nothing.weight": {"0": 0}}}, "no parameter or buffer 'nothing.weight'"),
        ({"tensors": {"conv1.weight": {"7": 0}}}, "none numbered 7"),
        ({"kept": [[99]], "tensors": {"conv1.weight": {"0": 0}}}, "do not fit its dimension 0 of 6"),
        ({"kept": [[]], "tensors": {"conv1.weight": {"0": 0}}}, "do not fit"),
        ({"attributes": {"conv1": {"padding_mode": 3}}}, "not a whole number"),
        ({"attributes": {"nowhere": {"groups": 3}}}, "no module 'nowhere'"),
        ({"tensors": {"conv1.weight": {"0": 5}}}, "malformed"),
        ({"kept": "no"}, "malformed"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    plan = {"kept": [[0]], "tensors": {}, "attributes": {}, **change}
    with pytest.raises(RecipeError, match=message):
        Narrowing.from_json(plan).apply(Residual())
