"""Each network beside timm's or torchvision's definition of it, with the same random weights.

    python -m benchmarks.networks.agreement [--only NAME …]

Writes `agreement.json`: for every pair the largest absolute difference of the answers (float32, eval mode), the
standard deviation of the answers, and for five networks the largest absolute difference of a gradient. Weights are
uniform with the variance that keeps the signal's size; statistics, scales and biases differ from channel to channel.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import write_result
from torch import Tensor, nn

from tenfold.models import create, external, load_weights

HERE = Path(__file__).parent
GRADIENTS = ("resnet18", "squeezenet1_1", "convnext_tiny", "vit_ti_16", "swin_t", "mixer_s_32")
SIDE = 64  # of the images, where a network takes any
FIXED = 224  # where timm's definition is tied to a size

TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "squeezenet1_1", "vgg16",
    "convnext_tiny", "convnext_small", "convnext_base", "swin_t", "swin_s", "swin_b", "vit_b_16", "vit_b_32",
)  # fmt: skip
TIMM = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vgg16": "vgg16",
    "convnext_tiny": "convnext_tiny",
    "convnext_small": "convnext_small",
    "convnext_base": "convnext_base",
    "vit_ti_16": "vit_tiny_patch16_224",
    "vit_s_16": "vit_small_patch16_224",
    "vit_s_32": "vit_small_patch32_224",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "deit_ti_16": "deit_tiny_patch16_224",
    "deit_s_16": "deit_small_patch16_224",
    "deit_b_16": "deit_base_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "mixer_s_32": "mixer_s32_224",
}


@contextmanager
def uninitialised() -> Iterator[None]:
    """Inside, networks are built without drawing the weights that are overwritten anyway."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Weights that keep the signal's size; norms, scales and biases that no default hides."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point() or "attn_mask" in name:
            continue
        if "running_var" in name or (name.endswith("weight") and tensor.dim() == 1):
            tensor.uniform_(0.8, 1.2)
        elif "scale" in name or "gamma" in name:
            tensor.uniform_(0.0, 1.0)
        elif tensor.dim() == 1:
            tensor.uniform_(-0.5, 0.5)
        else:
            bound = (3 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound)
    return model.eval()


def compare(name: str, ours: nn.Module, theirs: nn.Module, side: int) -> dict[str, Any]:
    """Load the reference's weights into ours, and both answer the same images."""
    torch.manual_seed(0)
    source = load_weights(ours.eval(), randomise(theirs).state_dict())
    x = torch.randn(2, 3, side, side)
    with_gradients = name in GRADIENTS
    with torch.set_grad_enabled(with_gradients):
        answers = [model(x) for model in (ours, theirs)]
    row: dict[str, Any] = {
        "read_as": source,
        "side": side,
        "spread": float(answers[1].detach().std()),
        "difference": float((answers[0] - answers[1]).detach().abs().max()),
    }
    if with_gradients:
        for answer in answers:
            answer.log_softmax(-1)[:, 1].mean().neg().backward()
        row["gradient_difference"] = gradient_difference(ours, theirs)
    return row


def gradient_difference(ours: nn.Module, theirs: nn.Module) -> float:
    """The largest difference of any parameter's gradient; theirs come through the mapping of the weights."""
    own = {name: parameter.grad for name, parameter in ours.named_parameters()}
    gradients: dict[str, Tensor] = dict(theirs.state_dict())
    gradients.update({name: parameter.grad for name, parameter in theirs.named_parameters()})
    load_weights(ours, gradients)
    mapped = dict(ours.named_parameters())
    return max(float((grad - mapped[name]).abs().max()) for name, grad in own.items())


def pairs() -> Iterator[tuple[str, str, nn.Module, nn.Module, int]]:
    """Our name, the library, ours, theirs, and the side of the images."""
    vision = external._library("torchvision", "timm").models
    timm = external._library("timm", "timm")
    for name in TORCHVISION:
        options = {"resolution": SIDE, "small_stem": False} if name.startswith(("vit", "swin")) else {}
        given = {"image_size": SIDE} if name.startswith("vit") else {}
        yield (
            name,
            "torchvision",
            create(name, **options),
            vision.get_model(name, weights=None, **given),
            SIDE,
        )
    for name, theirs in TIMM.items():
        fixed = name.startswith(("swin", "mixer"))
        options, given = {}, {}
        if name.startswith(("vit", "deit")):
            options, given = {"resolution": SIDE, "small_stem": False}, {"img_size": SIDE}
        yield (
            name,
            "timm",
            create(name, **options),
            timm.create_model(theirs, **given),
            FIXED if fixed else SIDE,
        )


def main() -> None:
    """Compare all pairs, or those asked for, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of networks; the result is printed and not written")
    only = parser.parse_args().only
    rows: dict[str, Any] = {}
    with uninitialised():
        for name, library, ours, theirs, side in pairs():
            if only and name not in only:
                continue
            rows[f"{name} ({library})"] = row = compare(name, ours, theirs, side)
            print(name, library, row, flush=True)
    if not only:
        write_result(HERE / "agreement.json", {"networks": rows}, ("timm", "torchvision"))


if __name__ == "__main__":
    main()
