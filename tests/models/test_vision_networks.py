"""The vision networks: published counts, small images, export, pruning, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.compress.prune import ChannelGraph, residual_blocks
from tenfold.cost import profile
from tenfold.deploy import deploy_onnx, verify
from tenfold.errors import NetworkError
from tenfold.models import create, describe
from tenfold.models.convnext import ConvNeXt
from tenfold.models.mlp_mixer import MlpMixer
from tenfold.models.swin import SwinTransformer
from tenfold.models.vision_transformer import VisionTransformer

# Parameters and multiply-adds as torch's FlopCounterMode gives them on the meta device for the definitions of
# torchvision 0.28 and timm 1.0.31.
PUBLISHED = {
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "squeezenet1_1": (1_235_496, 349_151_936),
    "vgg16": (138_357_544, 15_470_264_320),
    "convnext_tiny": (28_589_128, 4_455_531_264),
    "convnext_small": (50_223_688, 8_683_712_256),
    "convnext_base": (88_591_464, 15_354_729_472),
    "swin_t": (28_288_354, 4_490_566_656),
    "swin_s": (49_606_258, 8_740_875_264),
    "swin_b": (87_768_224, 15_430_946_816),
    "vit_ti_16": (5_717_416, 1_253_683_200),
    "vit_s_16": (22_050_664, 4_598_882_304),
    "vit_s_32": (22_878_952, 1_142_909_952),
    "vit_b_16": (86_567_656, 17_563_828_224),
    "vit_b_32": (88_224_232, 4_409_186_304),
    "deit_ti_16": (5_717_416, 1_253_683_200),
    "deit_s_16": (22_050_664, 4_598_882_304),
    "deit_b_16": (86_567_656, 17_563_828_224),
    "mixer_s_32": (19_104_624, 1_002_426_368),
}
FAMILIES = (
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "vgg16",
    "convnext_tiny",
    "vit_ti_16",
    "swin_t",
    "mixer_s_32",
)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.startswith("deit")])
def test_counts_are_the_published_ones(name: str) -> None:
    side = describe(name).resolution
    with torch.device("meta"):
        counted = profile(create(name), torch.zeros(1, 3, side, side))
    assert (counted.params, counted.macs) == PUBLISHED[name]
    assert counted.unknown == ()


def test_the_catalogue_states_them() -> None:
    for name, counts in PUBLISHED.items():
        assert (describe(name).params, describe(name).macs) == counts
        vit = name.replace("deit", "vit")  # the same network, trained otherwise
        assert PUBLISHED[vit] == counts


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (28, 1)])
def test_small_images_keep_their_resolution_longer(name: str, side: int, channels: int) -> None:
    options = {"num_classes": 10, "in_channels": channels, "resolution": side}
    with torch.device("meta"):
        x = torch.zeros(2, channels, side, side)
        small = create(name, **options)
        assert small(x).shape == (2, 10)
        assert small.eval()(x[:1]).shape == (1, 10)
        if side == 32 and name in ("resnet18", "squeezenet1_1", "convnext_tiny"):
            plain = create(name, small_stem=False, **options)
            assert profile(small, x[:1]).macs > 3 * profile(plain, x[:1]).macs


# A few blocks of each family: builder, families that must be prunable, blocks that can be dropped.
SIDE = 28
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], int]] = {
    "convnext": (
        partial(ConvNeXt, (1, 1), (8, 12), num_classes=5, resolution=SIDE),
        ("stem.0", "stages.0.blocks.0.mlp.fc1", "stages.1.downsample.1"),
        2,
    ),
    "vit": (
        partial(VisionTransformer, 24, 2, 4, num_classes=5, resolution=SIDE),
        ("embed.proj", "blocks.1.attn.qkv", "blocks.1.mlp.fc1"),
        2,
    ),
    "vit with token merging": (
        partial(VisionTransformer, 24, 1, 4, num_classes=5, resolution=SIDE, token_merging=5),
        ("blocks.0.attn.qkv", "blocks.0.mlp.fc1"),
        0,
    ),
    "swin": (
        partial(SwinTransformer, 16, (2,), (4,), num_classes=5, resolution=SIDE),
        ("embed.proj", "stages.0.blocks.1.attn.qkv", "stages.0.blocks.0.mlp.fc1"),
        2,
    ),
    "mixer": (
        partial(MlpMixer, 24, 1, 16, 48, num_classes=5, resolution=SIDE),
        ("embed.proj", "blocks.0.mlp_channels.fc1"),
        1,
    ),
}


class Together(nn.Module):
    """The sum of what networks answer: one export for all of them."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(x) for network in self.networks]).sum(0)


@torch.no_grad()
def randomised(build: Callable[[], nn.Module]) -> nn.Module:
    """A network whose norms and scales differ from channel to channel."""
    torch.manual_seed(0)
    model = build()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.copy_(0.5 + torch.rand_like(parameter))
    return model.eval()


@pytest.mark.parametrize("network", SMALL)
def test_every_family_can_be_pruned(network: str) -> None:
    build, families, blocks = SMALL[network]
    model = randomised(build)
    x = torch.randn(2, 3, SIDE, SIDE)
    graph = ChannelGraph.of(model, x)
    assert graph.frozen == {}
    assert set(families) <= {family.name for family in graph.families}
    half = {family.name: range(math.ceil(family.size / 2)) for family in graph.families}
    narrowed = graph.narrow(model, half)
    assert profile(narrowed, x[:1]).macs < 0.6 * profile(model, x[:1]).macs
    with torch.no_grad():
        answer, expected = narrowed(x), graph.reference(half, model, x)[0]
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert len(residual_blocks(model, x)) == blocks


def test_the_families_are_exported(tmp_path: Path) -> None:
    model = Together([randomised(SMALL[name][0]) for name in SMALL if name != "vit"])
    x = torch.randn(3, 3, SIDE, SIDE)
    artifact = deploy_onnx(model, x[:1], tmp_path / "model.onnx")
    assert verify(model, artifact.session(), x).ok


@torch.no_grad()
def test_token_merging_zero_is_the_plain_network_and_more_is_cheaper() -> None:
    torch.manual_seed(0)
    build = partial(VisionTransformer, 24, 3, 4, num_classes=5, resolution=32)
    plain, zero, merging = build().eval(), build(token_merging=0).eval(), build(token_merging=9).eval()
    zero.load_state_dict(plain.state_dict())
    merging.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(zero(x), plain(x))
    assert torch.isfinite(merging(x)).all()
    assert profile(merging, x[:1]).macs < 0.85 * profile(plain, x[:1]).macs
    one = torch.cat([merging(example[None]) for example in x])
    torch.testing.assert_close(merging(x), one, rtol=0, atol=1e-5)


def test_more_merging_than_tokens_ends_with_one_patch() -> None:
    model = VisionTransformer(24, 6, 4, num_classes=5, resolution=16, token_merging=100).eval()
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"resolution": 16, "small_stem": False}, "16 is too small for ResNet: take at least 32"),
        ("resnet50", {"num_classes": 0}, "num_classes must be a whole number of at least 1, not 0"),
        ("squeezenet1_1", {"resolution": 4}, "4 is too small for SqueezeNet: take at least 8"),
        ("vgg16", {"resolution": 8}, "8 is too small for VGG: take at least 16"),
        ("convnext_tiny", {"resolution": 8}, "8 is too small for ConvNeXt: take at least 16"),
        ("convnext_tiny", {"in_channels": 0}, "in_channels must be a whole number of at least 1, not 0"),
        ("resnet20", {"in_channels": 0}, "in_channels must be a whole number of at least 1, not 0"),
        ("resnet20", {"num_classes": True}, "num_classes must be a whole number of at least 1, not True"),
        ("vgg16", {"hidden": 0}, "hidden must be a whole number of at least 1, not 0"),
        ("vgg16", {"resolution": 32.5}, "resolution must be a whole number of at least 1, not 32.5"),
        ("vit_b_16", {"resolution": 230}, "resolution 230 must be a multiple of patch_size 16"),
        ("vit_b_16", {"token_merging": -1}, "token_merging is the tokens merged in each block"),
        ("swin_t", {"resolution": 31}, "resolution 31 must be a multiple of patch_size 2"),
        ("swin_t", {"image_size": 224}, "swin_t has no option 'image_size'"),
        ("mixer_s_32", {"drop_path": 1.0}, "the rate of stochastic depth must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, options: dict[str, float], message: str) -> None:
    with torch.device("meta"), pytest.raises(NetworkError, match=message):
        create(name, **options)


def test_images_of_another_size_are_refused_by_name() -> None:
    with torch.device("meta"):
        model = create("vit_ti_16")
        with pytest.raises(NetworkError, match="built for images of 224×224, not 256×256: resize them"):
            model(torch.zeros(1, 3, 256, 256))
