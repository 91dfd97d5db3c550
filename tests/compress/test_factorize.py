"""Factorised networks: equal to the mathematics, of the structure that was priced, rebuilt from ranks alone."""

import copy
import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tenfold.compress.factorize import Cost, Energy, Factorize, Kernels, Share
from tenfold.compress.factorize.structure import factorised, price
from tenfold.compress.recipe import Recipe, parse_recipe
from tenfold.compress.technique import Run, Technique
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.models import CifarResNet


def task_for(model: nn.Module, *shape: int) -> Task:
    inputs = torch.randn(10, *shape, generator=torch.Generator().manual_seed(0))
    return Task(model, (inputs, torch.zeros(10, dtype=torch.long)))


@pytest.fixture
def resnet() -> CifarResNet:
    torch.manual_seed(0)
    model = CifarResNet(8, 10, 1).eval()
    # Low rank beneath noise, as trained kernels are, so that there is something to find.
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.in_channels > 1:
                o, i, h, w = layer.weight.shape
                low = torch.randn(o, o // 4) @ torch.randn(o // 4, i // 4 * h * w)
                mixed = torch.einsum("osk,si->oik", low.reshape(o, i // 4, h * w), torch.randn(i // 4, i))
                layer.weight.copy_(
                    (mixed / mixed.std() + 0.05 * torch.randn(o, i, h * w)).reshape(o, i, h, w) / 12
                )
    return model


def test_it_is_a_technique() -> None:
    assert isinstance(Factorize(), Technique)


def hand_price(layer: nn.Conv2d, ranks: tuple[int, int], size_in: int, size_out: int) -> tuple[int, int]:
    """The formulas of Kim et al., equations 5 and 6, written out."""
    (kh, kw), (s, r) = layer.kernel_size, ranks
    parts = [
        (layer.in_channels * s, size_in**2),
        (s * r * kh * kw, size_out**2),
        (r * layer.out_channels, size_out**2),
    ]
    return sum(p for p, _ in parts), sum(p * places for p, places in parts)


@pytest.mark.parametrize("stride", [1, 2])
def test_price_and_real_parameters_by_hand(stride: int) -> None:
    layer = nn.Conv2d(16, 32, 3, stride, padding=1)
    row = factorised(layer, (4, 6))
    size_out = 16 // stride
    weights = sum(p.numel() for p in row.parameters()) - 32  # the bias
    expected = hand_price(layer, (4, 6), 16, size_out)
    assert (weights, expected) == (16 * 4 + 4 * 6 * 9 + 6 * 32, (weights, expected[1]))
    got = price(layer, 256, size_out**2, (4, 6))
    assert (got.parameters, got.macs) == expected
    # MACs counted independently: every output element of every convolution costs one product per input it reads.
    counted, x = 0, torch.randn(1, 16, 16, 16)
    for part in row:
        x = part(x)
        counted += x[0].numel() * part.weight[0].numel()
    assert counted == got.macs


@given(
    st.sampled_from([nn.Conv1d, nn.Conv2d, nn.Conv3d]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 2),
    st.sampled_from([0, 1, "same"]),
    st.integers(1, 2),
    st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    st.booleans(),
    st.data(),
)
@settings(max_examples=120, deadline=None)
def test_the_row_computes_the_convolution_of_the_approximated_kernel(
    kind, into, out, kernel, stride, padding, dilation, mode, bias, data
) -> None:
    """Whatever the geometry: run the row, and the plain convolution with the kernel that the row's weights multiply to."""
    if padding == "same":
        stride = 1
    torch.manual_seed(into * 7 + out)
    layer = kind(into, out, kernel, stride, padding, dilation, bias=bias, padding_mode=mode)
    if kernel == 1:
        ranks = (data.draw(st.integers(1, min(into, out))),)
    else:
        ranks = (data.draw(st.integers(1, into)), data.draw(st.integers(1, out)))
    row = factorised(layer, ranks)
    weights = {name: part.weight.detach() for name, part in row.named_children()}
    merged = copy.deepcopy(layer)
    if kernel == 1:
        product = weights["expand"].flatten(1) @ weights["reduce"].flatten(1)
    else:
        product = weights["core"].flatten(2)
        if "reduce" in weights:
            product = torch.einsum("osk,si->oik", product, weights["reduce"].flatten(1))
        if "expand" in weights:
            product = torch.einsum("rik,or->oik", product, weights["expand"].flatten(1))
    with torch.no_grad():
        merged.weight.copy_(product.reshape(layer.weight.shape))
    x = torch.randn(2, into, *[7] * (len(layer.kernel_size)))
    torch.testing.assert_close(row(x), merged(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [nn.Linear(6, 9), nn.Conv2d(6, 9, 1, stride=2), nn.Conv2d(6, 9, 3)])
def test_full_ranks_change_nothing(layer: nn.Module) -> None:
    x = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 6, 8, 8)
    ranks = (6, 9) if layer.weight[0].numel() > 6 else (6,)
    torch.testing.assert_close(factorised(layer, ranks)(x), layer(x), atol=1e-5, rtol=1e-5)


def test_apply_reports_what_it_did_and_leaves_the_original_alone(resnet: CifarResNet) -> None:
    before = copy.deepcopy(resnet.state_dict())
    task = task_for(resnet, 1, 28, 28)
    technique = Factorize(Energy(0.9), multiple=1)
    assert technique.preflight(resnet, task, Device()) == []
    applied = technique.apply(resnet, task, Run())
    json.dumps(applied.resolved, allow_nan=False)
    assert all(torch.equal(before[k], v) for k, v in resnet.state_dict().items())
    assert not applied.model.training
    ours = sum(p.numel() for p in resnet.parameters())
    theirs = sum(p.numel() for p in applied.model.parameters())
    was, now = applied.resolved["parameters"]
    assert ours - theirs == was - now > 0
    # Rank 1 of one input channel saves nothing in the stem, and the reason is told.
    assert set(applied.resolved["layers"]) | set(applied.resolved["skipped"]) == {
        name for name, m in resnet.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    # The planted rank is a quarter of the channels: no more than that is kept in a layer of 64.
    assert all(4 <= rank <= 16 for rank in applied.resolved["layers"]["layer3.0.conv2"])


def test_rebuild_and_load_gives_equal_outputs(resnet: CifarResNet) -> None:
    task = task_for(resnet, 1, 28, 28)
    applied = Factorize(Share(0.4)).apply(resnet, task, Run())
    resolved = json.loads(json.dumps(applied.resolved))
    rebuilt = Factorize(Share(0.4)).rebuild(CifarResNet(8, 10, 1), resolved, task.zeros())
    rebuilt.load_state_dict(applied.model.state_dict())
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(rebuilt(x), applied.model(x))


@pytest.mark.parametrize("of", list(Cost))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_share_is_kept_and_used(resnet: CifarResNet, share: float, of: Cost) -> None:
    resolved = (
        Factorize(Share(share, of), multiple=1).apply(resnet, task_for(resnet, 1, 28, 28), Run()).resolved
    )
    before, after = resolved[of.value]
    assert after <= share * before
    assert after >= 0.5 * share * before


@pytest.mark.parametrize("kernels", list(Kernels))
@pytest.mark.parametrize("of", list(Cost))
def test_a_share_out_of_reach_is_told_with_the_least_that_can_be_had(
    resnet: CifarResNet, of: Cost, kernels: Kernels
) -> None:
    task = task_for(resnet, 1, 28, 28)
    unmet = Factorize(Share(0.01, of), kernels=kernels)
    (problem,) = unmet.preflight(resnet, task, Device())
    assert f"cannot keep 1.00% of the {of.value}" in str(problem)
    with pytest.raises(NetworkError, match=r"cannot keep 1\.00%"):
        unmet.apply(resnet, task, Run())
    told = re.search(r"still keep ([\d.]+)%", str(problem))
    assert told is not None
    least = float(told[1]) / 100
    met = Factorize(Share(least, of), kernels=kernels)
    assert met.preflight(resnet, task, Device()) == []
    before, after = met.apply(resnet, task, Run()).resolved[of.value]
    assert least - 2e-4 < after / before <= least


def test_more_energy_is_nearer(resnet: CifarResNet) -> None:
    task, x = task_for(resnet, 1, 28, 28), torch.randn(4, 1, 28, 28)
    errors = [
        (Factorize(Energy(e), multiple=1).apply(resnet, task, Run()).model(x) - resnet(x)).norm().item()
        for e in (0.5, 0.9, 0.99)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_layers_choose_by_pattern(resnet: CifarResNet) -> None:
    task = task_for(resnet, 1, 28, 28)
    layers = (
        Factorize(Energy(0.8), layers=("layer3.*", "layer2.0.conv1"))
        .apply(resnet, task, Run())
        .resolved["layers"]
    )
    assert layers
    assert all(name.startswith("layer3.") or name == "layer2.0.conv1" for name in layers)


def test_stride_that_makes_the_first_factor_dear_is_not_called_cheaper() -> None:
    """With stride 4 the 1×1 layer before the core runs on sixteen times as many positions as the core."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 32, 3, stride=4, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    resolved = Factorize(Energy(0.8), multiple=1).apply(model, task_for(model, 32, 32, 32), Run()).resolved
    assert resolved["layers"] == {}
    assert "smaller and cheaper" in resolved["skipped"]["0"]


class Tied(nn.Module):
    """Embedding tied to the output layer; a layer whose weight is read directly; one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.body = nn.Linear(32, 32)
        self.peek = nn.Linear(32, 32)
        self.idle = nn.Linear(32, 32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.body(self.embed(tokens))
        x = self.peek(x.to(self.peek.weight.dtype))
        return self.head(x).mean(dim=1)


def test_layers_that_other_code_needs_whole_are_left_with_the_reason() -> None:
    torch.manual_seed(0)
    model = Tied()
    task = Task(model, (torch.randint(0, 40, (10, 5)), torch.zeros(10, dtype=torch.long)))
    resolved = Factorize(Energy(0.3), multiple=1).apply(model, task, Run()).resolved
    assert set(resolved["layers"]) == {"body"}
    assert "shared with embed.weight" in resolved["skipped"]["head"]
    assert "reads its weight" in resolved["skipped"]["peek"]
    assert "never called" in resolved["skipped"]["idle"]
    assert any(p.layer == "head" for p in Factorize(layers=("head",)).preflight(model, task, Device()))


def test_attention_keeps_its_output_projection_and_runs() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    applied = Factorize(Energy(0.3), multiple=1).apply(model, task_for(model, 5, 32), Run())
    assert "self_attn.out_proj" in applied.resolved["skipped"]
    assert applied.model(torch.randn(2, 5, 32)).shape == (2, 5, 32)


def test_grouped_and_subclassed_layers_stay() -> None:
    class Own(nn.Conv2d):
        pass

    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), Own(8, 8, 3), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    skipped = (
        Factorize(Energy(0.1), multiple=1).apply(model, task_for(model, 8, 9, 9), Run()).resolved["skipped"]
    )
    assert "grouped" in skipped["0"]
    assert "Own" in skipped["1"]
    assert "2" not in skipped


def test_preflight_names_a_pattern_without_layers_and_weights_that_are_not_finite(
    resnet: CifarResNet,
) -> None:
    task = task_for(resnet, 1, 28, 28)
    (problem,) = Factorize(layers=("nowhere.*",)).preflight(resnet, task, Device())
    assert problem.layer == "nowhere.*"
    with torch.no_grad():
        resnet.layer3[0].conv1.weight[0, 0, 0, 0] = float("nan")
    assert [p.layer for p in Factorize().preflight(resnet, task, Device())] == ["layer3.0.conv1"]
    with pytest.raises(NetworkError, match=r"layer3\.0\.conv1.*NaN"):
        Factorize().apply(resnet, task, Run())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"gone": [2]}, "gone"),
        ({"fc": [2, 3]}, "fc"),
        ({"fc": [0]}, "fc"),
        ({"fc": [11]}, "fc"),
        ({"fc": [True]}, "fc"),
        ({"fc": "3"}, "fc"),
        ({"layer1.0.conv1": [4, 10**12]}, "layer1"),
        ({"bn1": [2]}, "bn1"),
        (None, "layers"),
    ],
)
def test_rebuild_refuses_ranks_that_do_not_fit(resnet: CifarResNet, layers, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Factorize().rebuild(resnet, {"layers": layers}, torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize("keep", [Energy(0.7), Share(0.4, Cost.MACS)])
def test_it_is_written_in_a_recipe_and_read_again(keep: Energy | Share) -> None:
    recipe = Recipe((Factorize(keep, layers=("layer3.*",), multiple=4),))
    assert parse_recipe(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    "make",
    [
        lambda: Energy(0.0),
        lambda: Energy(1.5),
        lambda: Share(-1),
        lambda: Factorize(keep="half"),
        lambda: Factorize(layers="conv1"),
        lambda: Factorize(multiple=0),
    ],
)
def test_parameters_out_of_range_are_refused(make) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()


def test_gradients_reach_every_factor(resnet: CifarResNet) -> None:
    model = Factorize(Share(0.4)).apply(resnet, task_for(resnet, 1, 28, 28), Run()).model.train()
    model(torch.randn(4, 1, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
