"""Half of ten families of networks goes: what is left answers as the original with the rest taken out of it.

    python -m benchmarks.pruning_families.families

Each network has random weights and statistics (defaults of 0 and 1 would hide mistakes). The reference is written
here, from the saved indices alone, and shares no code with the pruning: the full-size original in which no layer
reads what was removed, and every norm over features runs over those that stay. How far the answers lie from the
untouched original is printed as well: it shows that the comparison could fail.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import fresh_answer, print_table, write_result
from torch import Tensor, nn

from tenfold.compress import Run, Step, load_network, save
from tenfold.compress.prune import ChannelGraph, Criterion, Prune
from tenfold.cost import Inputs, batch_size, call, map_inputs, profile
from tenfold.data import Task
from tenfold.models import RandomWeights

HERE = Path(__file__).resolve().parent
TECHNIQUE = Prune(ratio=0.5, residual=0.5, criterion=Criterion.MAGNITUDE)
TOLERANCE = 1e-5  # of the largest output
TIMM = {
    "ResNet": "resnet50",
    "MobileNetV2": "mobilenetv2_100",
    "MobileNetV3": "mobilenetv3_large_100",
    "EfficientNet": "efficientnet_b0",
    "DenseNet": "densenet121",
    "ConvNeXt": "convnext_tiny",
    "ViT": "vit_small_patch16_224",
    "Swin": "swin_tiny_patch4_window7_224",
}
FAMILIES = (*TIMM, "BERT", "Llama")
TOKENS, VOCABULARY = 32, 1000  # as in the configurations beside this file


def network(family: str) -> nn.Module:
    """The network of this family, the same at every call, in eval mode."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore", RandomWeights)
    spec = f"timm:{TIMM[family]}" if family in TIMM else f"hf:{HERE / family.lower()}?random"
    model, _ = load_network(spec)
    return randomised(model).eval()


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """Random norms, biases, layer scales and running statistics; matrices and kernels by their fan-in."""
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.normal_(mean=float(name.endswith(("weight", "gamma"))), std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


def inputs_of(family: str) -> Inputs:
    """Two random images or sentences."""
    generator = torch.Generator().manual_seed(1)
    if family in TIMM:
        return torch.randn(2, 3, 224, 224, generator=generator)
    tokens = torch.randint(1, VOCABULARY, (2, TOKENS), generator=generator)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def kept_indices(resolved: dict[str, Any]) -> dict[str, dict[int, list[int]]]:
    """What stays of each tensor's dimensions, out of the plain JSON that is saved."""
    return {
        name: {int(dim): resolved["kept"][entry] for dim, entry in dims.items()}
        for name, dims in resolved["tensors"].items()
    }


class NormOverKept(nn.Module):
    """A layer norm or root-mean-square norm over the kept features alone; the others become zero."""

    def __init__(self, norm: nn.Module, kept: list[int]) -> None:
        super().__init__()
        self.kept = kept
        self.centred = isinstance(norm, nn.LayerNorm)
        self.channels_first = type(norm).__name__ == "LayerNorm2d"
        self.epsilon = float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)  # type: ignore[arg-type]
        self.weight, self.bias = norm.weight, getattr(norm, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_first:
            return self.over_last(x.movedim(1, -1)).movedim(-1, 1)
        return self.over_last(x)

    def over_last(self, x: Tensor) -> Tensor:
        values = x[..., self.kept]
        if self.centred:
            values = values - values.mean(-1, keepdim=True)
        values = (
            values / (values.square().mean(-1, keepdim=True) + self.epsilon).sqrt() * self.weight[self.kept]
        )
        out = torch.zeros_like(x)
        out[..., self.kept] = values if self.bias is None else values + self.bias[self.kept]
        return out


@torch.no_grad()
def masked(original: nn.Module, kept: dict[str, dict[int, list[int]]]) -> nn.Module:
    """The full-size original in which nothing reads what was removed."""
    model = copy.deepcopy(original)
    for path, module in list(model.named_modules()):
        norm = isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__
        if norm and f"{path}.weight" in kept:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, NormOverKept(module, kept[f"{path}.weight"][0]))
    for name, parameter in model.named_parameters():
        stays = kept.get(name, {}).get(1)
        if parameter.dim() >= 2 and stays is not None and name.endswith("weight"):
            silent = torch.ones(parameter.shape[1], dtype=torch.bool)
            silent[stays] = False
            parameter[:, silent] = 0
    return model


@torch.inference_mode()
def error_between(narrow: nn.Module, reference: nn.Module, inputs: Inputs) -> float:
    """The largest difference of the answers, as a share of the largest answer."""
    actual, expected = call(narrow, inputs), call(reference, inputs)
    return float((actual - expected).abs().max() / expected.abs().max())


def as_double(inputs: Inputs) -> Inputs:
    return map_inputs(lambda t: t.double() if t.is_floating_point() else t, inputs)


def pruned(family: str, folder: Path) -> dict[str, Any]:
    """Prune half of everything in one network; every figure about it."""
    model, inputs = network(family), inputs_of(family)
    labels = torch.zeros(batch_size(inputs), dtype=torch.long)
    task = Task(model, train=(inputs, labels), validation=(inputs, labels))
    applied = TECHNIQUE.apply(model, task, Run())
    kept = kept_indices(json.loads(json.dumps(applied.resolved)))
    reference = masked(model, kept)

    graph = ChannelGraph.of(model, inputs)
    weights = {n: p for n, p in model.named_parameters() if p.dim() >= 2 and n.endswith("weight")}
    prunable = {m.tensor for f in graph.families for m in f.members if m.tensor in weights}
    shapes = {n: p.shape for n, p in applied.model.named_parameters()}
    narrowed = {name for name in weights if shapes[name] != weights[name].shape}
    before, after = profile(model, inputs), profile(applied.model, inputs)

    saved = save(
        folder / family, applied.model, [Step(TECHNIQUE, applied.resolved)], inputs=inputs, overwrite=True
    )
    answer = fresh_answer(saved, "benchmarks.pruning_families.families:network", family, inputs)
    with torch.inference_mode():
        equal = torch.equal(answer, call(applied.model, inputs))
    figures = {
        "network": TIMM.get(family) or type(model).__name__,
        "layers": len(weights),
        "prunable": len(prunable),
        "narrowed": len(narrowed),
        "not_prunable": graph.frozen,
        "macs": [before.macs // 2, after.macs // 2],
        "params": [before.params, after.params],
        "macs_left": after.macs / before.macs,
        "error_fp32": error_between(applied.model, reference, inputs),
        "moved": error_between(applied.model, model, inputs),
        "reloads_equal": equal,
    }
    figures["error_fp64"] = error_between(applied.model.double(), reference.double(), as_double(inputs))
    figures["reached"] = (
        figures["macs_left"] <= 0.5
        and len(narrowed) >= 0.8 * len(prunable)
        and figures["error_fp32"] <= TOLERANCE
        and equal
    )
    return figures


def show(families: dict[str, Any]) -> None:
    rows = [
        [
            f"{family} ({row['network']})",
            f"{row['macs'][0] / 1e6:,.0f} → {row['macs'][1] / 1e6:,.0f}",
            f"{1 - row['macs_left']:.1%}",
            f"{row['narrowed']} of {row['prunable']} (of {row['layers']})",
            f"{row['error_fp32']:.1e}",
            f"{row['error_fp64']:.1e}",
            f"{row['moved']:.2f}",
            "equal" if row["reloads_equal"] else "DIFFERS",
            "yes" if row["reached"] else "NO",
        ]
        for family, row in families.items()
    ]
    columns = [
        "family",
        "M MACs",
        "fewer",
        "layers narrowed",
        "error, fp32",
        "error, fp64",
        "from original",
        "reloaded",
        "reached",
    ]
    print_table("Half of the channels, heads, hidden units and of the residual streams' width", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/pruning_families"), help="for the networks")
    parser.add_argument("--only", choices=FAMILIES, nargs="*", default=FAMILIES)
    parser.add_argument("--result", type=Path, default=HERE / "families.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    families = {}
    for family in options.only:
        print(f"pruning: {family}", flush=True)
        families[family] = pruned(family, options.folder)
    show(families)
    write_result(options.result, {"families": families}, packages=("timm", "transformers"))


if __name__ == "__main__":
    main()
