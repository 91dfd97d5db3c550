"""What other libraries call the modules of a mobile network, written out from its plan.

Each function returns our module names and theirs for one library. Libraries number the parts of a block in the
order in which they run, so the numbers depend on which parts a block has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tenfold.models.mobile_plan import BlockPlan, Plan
from tenfold.models.mobile_tables import Block


def module_names(plan: Plan) -> dict[str, Mapping[str, str]]:
    """For each source that has this network: our module names and theirs."""
    torchvision = {
        "MobileNetV2": _torchvision_v2,
        "MobileNetV3": _torchvision_v3,
        "MnasNet": _torchvision_mnasnet,
        "EfficientNet": _torchvision_efficientnet,
        "EfficientNetV2": _torchvision_efficientnet,
    }
    namings: dict[str, Mapping[str, str]] = {"timm": _timm(plan)}
    if plan.table.family in torchvision:
        namings["torchvision"] = torchvision[plan.table.family](plan)
    if plan.table.family in ("EfficientNet", "EfficientNet-Lite"):
        namings["efficientnet_pytorch"] = _efficientnet_pytorch(plan)
    return namings


def _blocks(plan: Plan) -> Iterator[tuple[int, int, int, BlockPlan]]:
    """Every block with its number in the network, its stage, and its number there."""
    number = 0
    for stage, blocks in enumerate(plan.stages):
        for index, block in enumerate(blocks):
            yield number, stage, index, block
            number += 1


def _parts(block: BlockPlan) -> tuple[str, ...]:
    """Our names of the convolutions of a block, in order; `squeeze` stands where the squeeze is."""
    if block.block is Block.FUSED:
        return ("expand", "project") if block.hidden != block.in_channels else ("expand",)
    squeeze = ("squeeze",) if block.squeeze else ()
    if block.block is Block.INVERTED:
        return ("expand", "depthwise", *squeeze, "project")
    return ("depthwise", *squeeze, "pointwise")


def _pair(ours: str, conv: str, norm: str) -> dict[str, str]:
    return {f"{ours}.conv": conv, f"{ours}.norm": norm}


def _timm(plan: Plan) -> Mapping[str, str]:
    names = _pair("stem", "conv_stem", "bn1") | _pair("head", "conv_head", "bn2")
    names["hidden.0"] = (
        "conv_head"  # MobileNetV3: the linear layer is timm's conv_head, and the head a last stage
    )
    if plan.hidden:
        names |= _pair("head", f"blocks.{len(plan.stages)}.0.conv", f"blocks.{len(plan.stages)}.0.bn1")
    inverted = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    separable = {"depthwise": ("conv_dw", "bn1"), "pointwise": ("conv_pw", "bn2")}
    fused = {"expand": ("conv_exp", "bn1"), "project": ("conv_pwl", "bn2")}
    plain = {"expand": ("conv", "bn1")}
    for _, stage, index, block in _blocks(plan):
        ours, theirs = f"stages.{stage}.{index}", f"blocks.{stage}.{index}"
        if block.block is Block.FUSED:
            known = fused if block.hidden != block.in_channels else plain
        else:
            known = inverted if block.block is Block.INVERTED else separable
        for part, (conv, norm) in known.items():
            names |= _pair(f"{ours}.{part}", f"{theirs}.{conv}", f"{theirs}.{norm}")
        names[f"{ours}.squeeze.reduce"] = f"{theirs}.se.conv_reduce"
        names[f"{ours}.squeeze.expand"] = f"{theirs}.se.conv_expand"
    return names


def _torchvision_v2(plan: Plan) -> Mapping[str, str]:
    """`conv` holds pairs of convolution and norm, but the last, linear pair lies open in it."""
    names = _pair("stem", "features.0.0", "features.0.1")
    for number, stage, index, block in _blocks(plan):
        parts = _parts(block)
        ours, theirs = f"stages.{stage}.{index}", f"features.{number + 1}.conv"
        for place, part in enumerate(parts[:-1]):
            names |= _pair(f"{ours}.{part}", f"{theirs}.{place}.0", f"{theirs}.{place}.1")
        last = len(parts) - 1
        names |= _pair(f"{ours}.{parts[-1]}", f"{theirs}.{last}", f"{theirs}.{last + 1}")
    last = len(plan.blocks) + 1
    return names | _pair("head", f"features.{last}.0", f"features.{last}.1") | {"classifier": "classifier.1"}


def _torchvision_v3(plan: Plan) -> Mapping[str, str]:
    names = _pair("stem", "features.0.0", "features.0.1")
    for number, stage, index, block in _blocks(plan):
        names |= _torchvision_block(f"stages.{stage}.{index}", f"features.{number + 1}.block", block)
    last = len(plan.blocks) + 1
    names |= _pair("head", f"features.{last}.0", f"features.{last}.1")
    return names | {"hidden.0": "classifier.0", "classifier": "classifier.3"}


def _torchvision_efficientnet(plan: Plan) -> Mapping[str, str]:
    names = _pair("stem", "features.0.0", "features.0.1")
    for _, stage, index, block in _blocks(plan):
        names |= _torchvision_block(f"stages.{stage}.{index}", f"features.{stage + 1}.{index}.block", block)
    last = len(plan.stages) + 1
    return names | _pair("head", f"features.{last}.0", f"features.{last}.1") | {"classifier": "classifier.1"}


def _torchvision_block(ours: str, theirs: str, block: BlockPlan) -> dict[str, str]:
    names: dict[str, str] = {}
    for place, part in enumerate(_parts(block)):
        if part == "squeeze":
            names[f"{ours}.squeeze.reduce"] = f"{theirs}.{place}.fc1"
            names[f"{ours}.squeeze.expand"] = f"{theirs}.{place}.fc2"
        else:
            names |= _pair(f"{ours}.{part}", f"{theirs}.{place}.0", f"{theirs}.{place}.1")
    return names


def _torchvision_mnasnet(plan: Plan) -> Mapping[str, str]:
    """One sequence of layers, activations counted; the stages after the first are nested in it."""
    names = _pair("stem", "layers.0", "layers.1")
    for _, stage, index, block in _blocks(plan):
        for place, part in enumerate(_parts(block)):
            ours = f"stages.{stage}.{index}.{part}"
            theirs, first = (f"layers.{7 + stage}.{index}.layers", 0) if stage else ("layers", 3)
            names |= _pair(ours, f"{theirs}.{first + 3 * place}", f"{theirs}.{first + 3 * place + 1}")
    last = 7 + len(plan.stages)
    return names | _pair("head", f"layers.{last}", f"layers.{last + 1}") | {"classifier": "classifier.1"}


def _efficientnet_pytorch(plan: Plan) -> Mapping[str, str]:
    """The naming of the packages efficientnet-pytorch and efficientnet-lite-pytorch: norms count from the first."""
    theirs = {
        "expand": "_expand_conv",
        "depthwise": "_depthwise_conv",
        "project": "_project_conv",
        "pointwise": "_project_conv",
    }
    names = _pair("stem", "_conv_stem", "_bn0") | _pair("head", "_conv_head", "_bn1") | {"classifier": "_fc"}
    for number, stage, index, block in _blocks(plan):
        ours, prefix = f"stages.{stage}.{index}", f"_blocks.{number}"
        norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2", "pointwise": "_bn2"}
        for part in _parts(block):
            if part != "squeeze":
                names |= _pair(f"{ours}.{part}", f"{prefix}.{theirs[part]}", f"{prefix}.{norms[part]}")
        names[f"{ours}.squeeze.reduce"] = f"{prefix}._se_reduce"
        names[f"{ours}.squeeze.expand"] = f"{prefix}._se_expand"
    return names
