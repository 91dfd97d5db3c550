"""The mobile family: counts, outputs and gradients against timm's and torchvision's definitions; options; bad input."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tenfold.errors import NetworkError
from tenfold.models import create, describe, load_weights, named_network
from tenfold.models.external import _library
from tenfold.models.mobile_networks import NETWORKS
from tenfold.models.mobile_plan import planned
from tenfold.models.mobile_tables import EFFICIENTNET, MOBILENET_V2, MOBILENET_V3_LARGE

# Our name: theirs. What is not named here is torchvision's, by the same name.
THEIRS = {
    "mobilenet_v1": "timm:mobilenetv1_100",
    "mobilenet_v2_140": "timm:mobilenetv2_140",
    "mnasnet_a1": "timm:mnasnet_a1",
    "mnasnet_b1": "torchvision:mnasnet1_0",
    "fbnet_c": "timm:fbnetc_100",
    **{f"efficientnet_lite{size}": f"timm:efficientnet_lite{size}" for size in range(5)},
}


def library(name: str) -> Any:
    """timm or torchvision, imported as Tenfold does it; the test is skipped where it is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return _library(name, "timm")


def peer(spec: str) -> nn.Module:
    """A network of timm or torchvision with random weights."""
    source, _, name = spec.partition(":")
    if source == "timm":
        return library("timm").create_model(name)
    return getattr(library("torchvision").models, name)()


def counted(model: nn.Module, side: int) -> tuple[int, int]:
    """Parameters and multiply-adds by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("name", list(NETWORKS))
def test_counts_are_the_published_ones(name: str) -> None:
    known = describe(name)
    with torch.device("meta"):
        assert counted(create(name), known.resolution) == (known.params, known.macs)


# Their figures of all others are in the table already, which the test above compares.
@pytest.mark.parametrize("name", ["mnasnet_a1", "mnasnet_b1", "efficientnet_b6", "efficientnet_lite4"])
def test_counts_are_those_of_the_other_definition(name: str) -> None:
    known = describe(name)
    with torch.device("meta"):
        theirs = peer(THEIRS.get(name, f"torchvision:{name}"))
        assert counted(theirs, known.resolution) == (known.params, known.macs)


def test_the_table_agrees_with_the_data_folder() -> None:
    folder = os.environ.get("TENFOLD_DATA")
    if not folder:
        pytest.skip("TENFOLD_DATA is not set")
    listed = {
        item["name"]: item for item in json.loads(Path(folder, "networks.json").read_text())["networks"]
    }
    compared = 0
    for name in NETWORKS:
        item = listed.get(THEIRS.get(name, name).rpartition(":")[2])
        if item is not None:
            known = describe(name)
            assert (known.params, known.macs, known.resolution) == (
                item["params"],
                item["macs"],
                item["resolution"],
            )
            compared += 1
    assert compared == 15


def randomise(model: nn.Module) -> None:
    """Norms and running statistics away from their start, so that an exchanged pair would show."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.dim() == 1 and value.is_floating_point():
            start = 1.0 if name.endswith("weight") else 0.0
            value.copy_(start + 0.1 * torch.randn(value.shape, generator=generator))
        elif value.dim() == 2:
            value.copy_(0.01 * torch.randn(value.shape, generator=generator))


EQUAL: list[tuple[str, str, dict[str, Any]]] = [
    ("mobilenet_v1", "timm:mobilenetv1_100", {}),
    ("mobilenet_v2", "timm:mobilenetv2_100", {}),
    ("mobilenet_v2", "torchvision:mobilenet_v2", {}),
    ("mobilenet_v3_small", "torchvision:mobilenet_v3_small", {}),
    ("mobilenet_v3_small", "timm:mobilenetv3_small_100", {"norm_eps": 1e-5}),
    ("mobilenet_v3_large", "timm:tf_mobilenetv3_large_100", {"same_padding": True}),
    ("mnasnet_a1", "timm:mnasnet_a1", {}),
    ("mnasnet_b1", "torchvision:mnasnet1_0", {}),
    ("efficientnet_b0", "torchvision:efficientnet_b0", {}),
    ("efficientnet_lite0", "timm:tf_efficientnet_lite0", {}),
    ("efficientnet_v2_s", "torchvision:efficientnet_v2_s", {}),
    ("fbnet_c", "timm:fbnetc_100", {}),
]


@pytest.mark.parametrize(("name", "other", "options"), EQUAL, ids=[other for _, other, _ in EQUAL])
def test_outputs_and_gradients_equal_given_the_same_weights(
    name: str, other: str, options: dict[str, Any]
) -> None:
    theirs = peer(other).eval()
    randomise(theirs)
    ours = create(name, **options).eval()
    assert load_weights(ours, theirs.state_dict()) == other.partition(":")[0]
    images = torch.randn(1, 3, 49, 65, generator=torch.Generator().manual_seed(2))
    answers = [model(images) for model in (ours, theirs)]
    size = max(1.0, float(answers[1].detach().abs().max()))
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-5 * size)
    for gradient, wanted in zip(*map(gradients, (ours, theirs), answers), strict=True):
        assert gradient == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def gradients(model: nn.Module, answer: Tensor) -> list[float]:
    """The norms of the gradients of all parameters, in rising order: names differ between the libraries."""
    found = torch.autograd.grad(answer.logsumexp(1).sum(), list(model.parameters()))
    return sorted(float(gradient.norm()) for gradient in found)


def test_other_widths_are_torchvisions() -> None:
    """Every layer's width, by exact counts; MobileNetV3 where torchvision's own head, 6 · last stage, is as wide."""
    models = library("torchvision").models
    with torch.device("meta"):
        assert counted(create("mobilenet_v2", width=1.3), 224) == counted(
            models.mobilenet_v2(width_mult=1.3), 224
        )
        v3 = models.mobilenetv3
        setting, last = v3._mobilenet_v3_conf("mobilenet_v3_small", width_mult=0.75)
        theirs = v3.MobileNetV3(setting, last)
        assert counted(create("mobilenet_v3_small", width=0.75), 224) == counted(theirs, 224)


def test_depth_is_rounded_up_by_stage() -> None:
    b7 = planned(EFFICIENTNET, 2.0, 3.1)
    assert [len(stage) for stage in b7.stages] == [4, 7, 7, 10, 10, 13, 4]
    b1, b2 = planned(EFFICIENTNET, 1.0, 1.1), planned(EFFICIENTNET, 1.1, 1.2)
    assert [len(s) for s in b1.stages] == [len(s) for s in b2.stages] == [2, 3, 3, 4, 4, 5, 2]
    halved = planned(MOBILENET_V3_LARGE, 1.0, 0.5)
    assert [len(stage) for stage in halved.stages] == [1, 1, 2, 2, 1, 2]
    assert halved.stages[3][1].hidden == 200  # the first rows of a stage are those that stay


def test_the_head_of_mobilenet_v2_grows_but_never_shrinks() -> None:
    assert [planned(MOBILENET_V2, width).head for width in (0.5, 1.0, 1.4)] == [1280, 1280, 1792]


@pytest.mark.parametrize(
    "name", ["mobilenet_v1", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s"]
)
def test_small_images_keep_their_resolution(name: str) -> None:
    for side in (32, 28):
        with torch.device("meta"):
            model = create(name, num_classes=10, in_channels=1, resolution=side).eval()
            images = torch.empty(1, 1, side, side)
            assert model.stages(model.stem(images)).shape[-2:] == (4, 4)
            assert model(images).shape == (1, 10)
    with torch.device("meta"):
        assert create(name).plan.stride == 32
        assert create(name, resolution=32, small_stem=False).plan.stride == 32


def test_training_options() -> None:
    model = create("mobilenet_v2", dropout=0.5, drop_path=0.2, num_classes=10, resolution=32)
    assert model.dropout.p == 0.5
    rates = [m.rate for m in model.modules() if type(m).__name__ == "StochasticDepth"]
    assert rates == sorted(rates)
    assert 0 < rates[0] < rates[-1] < 0.2
    assert len(rates) == 10  # one for each shortcut
    loss = model(torch.randn(4, 3, 32, 32)).logsumexp(1).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.05}, "width 0.05 rounds to nothing: MobileNetV2's narrowest stage has 16 channels"),
        ({"depth": 0.1}, "depth 0.1 rounds to nothing: MobileNetV2's longest stage has 4 blocks"),
        ({"width": -1.0}, "width must be a positive number"),
        ({"depth": 1470.0}, "depth 1470 makes stages of more than 1000 blocks: take at most 250"),
        ({"depth": float("nan")}, "depth must be a finite number, not nan"),
        ({"resolution": 7}, r"resolution 7 is too small: .* by 8; take at least 8 pixels"),
        ({"resolution": 31, "small_stem": False}, r"take at least 32 pixels, or a small stem"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1"),
        ({"widht": 1.0}, "has no option 'widht'; did you mean 'width'"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        create("mobilenet_v2", **options)


def test_a_name_with_options_is_a_network() -> None:
    model = named_network("mobilenet_v2?width=0.5&num_classes=7&resolution=32", weights=False)
    again = named_network("mobilenet_v2?width=0.5&num_classes=7&resolution=32", weights=False)
    assert model.classifier.out_features == 7
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.warns(UserWarning, match="mobilenet_v2 has random weights"):
        named_network("mobilenet_v2?width=0.5")
