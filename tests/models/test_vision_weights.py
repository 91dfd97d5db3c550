"""State dicts of timm and torchvision in our vision networks: the same answers and the same gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError
from tenfold.models import create, load_weights
from tenfold.models.convnext import ConvNeXt
from tenfold.models.external import _library
from tenfold.models.mlp_mixer import MlpMixer
from tenfold.models.resnet import ResNet
from tenfold.models.swin import SwinTransformer
from tenfold.models.vgg import VGG
from tenfold.models.vision_transformer import VisionTransformer
from tenfold.nn import BasicBlock, BottleneckBlock

OUTPUTS, GRADIENTS = 1e-5, 1e-4


def library(name: str) -> Any:
    """The package, or a skip; not importorskip, since a torchvision that does not load must be mended first."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return _library(name, "timm")


def randomise(model: nn.Module) -> nn.Module:
    """Norms, scales and biases that no default hides, in a network whose answers stay of the order of one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            noise = torch.rand(tensor.shape, generator=generator)
            if "running_var" in name or (name.endswith("weight") and tensor.dim() == 1):
                tensor.copy_(0.8 + 0.4 * noise)
            elif "scale" in name or "gamma" in name:
                tensor.copy_(noise)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.copy_(noise - 0.5)
            elif tensor.is_floating_point() and "attn_mask" not in name:
                tensor.copy_((2 * noise - 1) * (3 / max(tensor[0].numel(), 1)) ** 0.5)
    return model.eval()


def agree(ours: nn.Module, theirs: nn.Module, side: int, source: str) -> None:
    """Loaded with the same weights, the two give the same answers, and the loss the same gradients."""
    randomise(theirs)
    assert load_weights(ours.eval(), theirs.state_dict()) == source
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    answers = []
    for model in (ours, theirs):
        answer = model(x)
        answer.softmax(-1)[:, 1].log().mean().backward()
        answers.append(answer)
    assert answers[1].std() > 0.1
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=OUTPUTS)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    mapped = same_names(ours, theirs, gradients)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        expected = mapped[name].reshape(parameter.shape)
        torch.testing.assert_close(parameter.grad, expected, rtol=GRADIENTS, atol=GRADIENTS, msg=name)


def same_names(ours: nn.Module, theirs: nn.Module, values: dict[str, Any]) -> dict[str, Tensor]:
    """`values` by their parameters' names, by ours: loaded through the same mapping into a third network."""
    state = {name: values.get(name, tensor) for name, tensor in theirs.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    load_weights(ours, state)
    mapped = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(before)
    return mapped


def vision_convnext() -> nn.Module:
    models = library("torchvision").models.convnext
    widths, depths = [16, 32, 48, 64], [1, 2, 1, 1]
    table = [
        models.CNBlockConfig(width, following, depth)
        for width, following, depth in zip(widths, [*widths[1:], None], depths, strict=True)
    ]
    return models.ConvNeXt(table, num_classes=7)


def vision_swin() -> nn.Module:
    return library("torchvision").models.swin_transformer.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=7
    )


def vision_vit() -> nn.Module:
    return library("torchvision").models.vision_transformer.VisionTransformer(
        32, 8, 2, 3, 48, 192, num_classes=7
    )


def vision_resnet(block: str, depths: list[int]) -> nn.Module:
    models = library("torchvision").models.resnet
    return models.ResNet(getattr(models, block), depths, num_classes=7)


def timm_resnet(depths: tuple[int, ...], widths: tuple[int, ...]) -> nn.Module:
    models = library("timm").models.resnet
    return models.ResNet(models.Bottleneck, depths, num_classes=7, channels=widths)


def timm_vgg() -> nn.Module:
    """timm's VGG-16 with 16 hidden units for its 4096, which nothing but memory needs here."""
    models = library("timm").models.vgg
    with torch.device("meta"):
        model = models.VGG(models.cfgs["vgg16"])
        model.pre_logits = models.ConvMlp(512, 16, 7)
        model.head = models.ClassifierHead(16, 7)
    return model.to_empty(device="cpu")


def timm_model(name: str, **options: Any) -> nn.Module:
    module, _, builder = name.rpartition(".")
    return getattr(getattr(library("timm").models, module), builder)(num_classes=7, **options)


ConvNeXtSmall = partial(ConvNeXt, (1, 2, 1, 1), (16, 32, 48, 64), num_classes=7)
SwinSmall = partial(SwinTransformer, 24, (2, 2), (2, 4), num_classes=7, window=4, small_stem=False)
VitSmall = partial(VisionTransformer, 48, 2, 3, resolution=32, small_stem=False, patch_size=8, num_classes=7)

# name: ours, theirs, side of the images, source
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], int, str]] = {
    "resnet with basic blocks, torchvision": (
        lambda: ResNet(BasicBlock, (1, 1, 1, 1), num_classes=7),
        lambda: vision_resnet("BasicBlock", [1, 1, 1, 1]),
        64,
        "torchvision or timm",
    ),
    "resnet with bottlenecks, timm": (
        lambda: ResNet(BottleneckBlock, (1, 2, 1, 1), widths=(64, 32, 48, 64), num_classes=7),
        lambda: timm_resnet((1, 2, 1, 1), (64, 32, 48, 64)),
        64,
        "torchvision or timm",
    ),
    "squeezenet, torchvision": (
        lambda: create("squeezenet1_1", num_classes=7),
        lambda: library("torchvision").models.squeezenet1_1(num_classes=7),
        64,
        "tenfold",
    ),
    "vgg, timm": (
        lambda: VGG(hidden=16, num_classes=7),
        timm_vgg,
        32,
        "timm",
    ),
    "convnext, torchvision": (ConvNeXtSmall, vision_convnext, 64, "torchvision"),
    "convnext, timm": (
        ConvNeXtSmall,
        lambda: timm_model("convnext.ConvNeXt", depths=(1, 2, 1, 1), dims=(16, 32, 48, 64)),
        64,
        "timm",
    ),
    "vit, torchvision": (VitSmall, vision_vit, 32, "torchvision"),
    "vit, timm": (
        VitSmall,
        lambda: timm_model(
            "vision_transformer.VisionTransformer",
            img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3,
        ),
        32,
        "timm",
    ),
    "swin, torchvision": (partial(SwinSmall, resolution=32), vision_swin, 32, "torchvision"),
    "swin with padding, torchvision": (partial(SwinSmall, resolution=72), vision_swin, 72, "torchvision"),
    "swin, timm": (
        partial(SwinSmall, resolution=64),
        lambda: timm_model(
            "swin_transformer.SwinTransformer",
            img_size=64, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4,
        ),
        64,
        "timm",
    ),
    "mixer, timm": (
        lambda: MlpMixer(32, 2, 16, 128, resolution=64, small_stem=False, patch_size=16, num_classes=7),
        lambda: timm_model("mlp_mixer.MlpMixer", img_size=64, patch_size=16, num_blocks=2, embed_dim=32),
        64,
        "timm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_equal(case: str) -> None:
    ours, theirs, side, source = CASES[case]
    torch.manual_seed(0)
    agree(ours(), theirs(), side, source)


@pytest.mark.parametrize("name", ["resnet34", "vgg16", "convnext_small", "vit_b_32", "swin_t"])
def test_every_name_of_torchvision_finds_its_place(name: str) -> None:
    models = library("torchvision").models
    with torch.device("meta"):
        load_weights(create(name), models.get_model(name, weights=None).state_dict())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("resnet101", "resnet101"),
        ("convnext_base", "convnext_base"),
        ("vit_s_32", "vit_small_patch32_224"),
        ("deit_ti_16", "deit_tiny_patch16_224"),
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("mixer_s_32", "mixer_s32_224"),
    ],
)
def test_every_name_of_timm_finds_its_place(ours: str, theirs: str) -> None:
    timm = library("timm")
    with torch.device("meta"):
        load_weights(create(ours), timm.create_model(theirs).state_dict())


def test_weights_of_another_network_are_refused_whole() -> None:
    model = create("vit_ti_16", num_classes=7, resolution=32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        NetworkError, match=r"VisionTransformer cannot take these weights.*missing.*unexpected"
    ):
        load_weights(model, create("mixer_s_32", resolution=32).state_dict())
    other = create("vit_ti_16", num_classes=5, resolution=32)
    with pytest.raises(NetworkError, match=r"2 of another shape \(head.weight is 7×192, given 5×192"):
        load_weights(model, other.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
