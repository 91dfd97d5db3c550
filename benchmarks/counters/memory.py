"""The counted peak of activation memory against what the allocator of a real run reports, and the cost of counting.

    python -m benchmarks.counters.memory

Two references, both on real tensors on the CPU, inputs included and weights left out: the allocator's own records
(torch's profiler), which hold the workspaces of libraries too, and the same records read only when an operator has
just returned, which leaves those out. Where one operator runs a whole layer (the fast path of attention), what it takes
and gives back is the layer's and no workspace: there the first reference is the one to meet.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, write_result
from benchmarks.counters.networks import LLAMA, image, timm_network, transformer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tenfold.cost import profile
from tenfold.cost.calling import as_args
from tenfold.cost.memory import own_peak_rss

RESULT = Path(__file__).with_name("memory.json")
MARK = "operator returned"
SMALL = {"num_hidden_layers": 4}
FAST_PATH = "TransformerEncoder, 2 layers of 256, fast path"


def long_tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.ones(2, 256, dtype=torch.long)}


NETWORKS = {
    "MobileNetV2": (timm_network("mobilenetv2_100"), image),
    "ResNet-50": (timm_network("resnet50"), image),
    "EfficientNet-B0": (timm_network("efficientnet_b0"), image),
    "DenseNet-121": (timm_network("densenet121"), image),
    "ConvNeXt-T": (timm_network("convnext_tiny"), image),
    "ViT-S/16": (timm_network("vit_small_patch16_224"), image),
    "Swin-T": (timm_network("swin_tiny_patch4_window7_224"), image),
    "MobileViT-S": (timm_network("mobilevit_s"), image),
    "BERT, 4 layers": (transformer("Bert", **SMALL), long_tokens),
    "GPT-2, 4 layers": (transformer("GPT2", n_layer=4), long_tokens),
    "Llama, 6 layers": (transformer("Llama", **LLAMA), long_tokens),
    "Mamba, 4 layers of 256": (transformer("Mamba", hidden_size=256, vocab_size=8000, **SMALL), long_tokens),
    FAST_PATH: (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(256, 8, 512, batch_first=True), 2),
        lambda: torch.zeros(2, 512, 256),
    ),
    "LSTM, 2 layers of 256": (
        lambda: nn.LSTM(128, 256, 2, batch_first=True),
        lambda: torch.zeros(4, 100, 128),
    ),
}


class Marks(TorchDispatchMode):
    """Leaves a mark in the profiler's records whenever an operator has returned."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        with torch.profiler.record_function(MARK):
            pass
        return result


def allocated(model: nn.Module, inputs: Any) -> tuple[int, int]:
    """Peak bytes of the allocator at any time, and when operators had just returned."""
    args, kwargs = as_args(inputs)
    given = sum(tensor.nbytes for tensor in (*args, *kwargs.values()))
    with torch.no_grad():
        model(*args, **kwargs)
        whole = _records(model, args, kwargs)
        with Marks():
            marked = _records(model, args, kwargs)
    return given + _peak(whole), given + _peak(marked, at_marks=True)


def _records(model: nn.Module, args: Any, kwargs: Any) -> list[tuple[int, int | None]]:
    """(time, bytes taken or given back) of the allocator, and (time, None) for each mark."""
    with torch.profiler.profile(profile_memory=True) as recorded:
        output = model(*args, **kwargs)
    del output
    found: list[tuple[int, int | None]] = []
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            found.append((event.start_ns(), event.nbytes()))
        elif event.name() == MARK:
            found.append((event.start_ns(), None))
    return sorted(found, key=lambda item: item[0])


def _peak(records: list[tuple[int, int | None]], *, at_marks: bool = False) -> int:
    current = peak = 0
    for _, size in records:
        current += size or 0
        if not at_marks or size is None:
            peak = max(peak, current)
    return peak


def cost_of_counting() -> dict[str, Any]:
    """What it takes to count ResNet-50, networks of growing depth, and a 70B network on meta, in seconds of one core.

    Processor time and not wall-clock: it does not change with what else the machine does.
    """
    model, x = timm_network("resnet50")(), image()
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        profile(model, x)
        seconds.append(time.process_time() - begun)
    depths = {}
    for depth in (500, 1000, 2000, 4000):
        chain = nn.Sequential(*(nn.Linear(8, 8) for _ in range(depth)))
        profile(chain, torch.zeros(1, 8))
        begun = time.process_time()
        counted = profile(chain, torch.zeros(1, 8))
        depths[str(depth)] = (time.process_time() - begun) / len(counted.operators) * 1e6
    begun = time.process_time()
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
             "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip
    with torch.device("meta"):
        large = transformer("Llama", **sizes)()
    counted = profile(large, {"input_ids": torch.zeros(1, 2048, dtype=torch.long)})
    return {
        "resnet50_core_seconds": sorted(seconds)[2],
        "core_microseconds_an_operator_by_depth": depths,
        "llama_70b": {
            "params": counted.params,
            "macs": counted.macs,
            "core_seconds_with_building": time.process_time() - begun,
            "peak_rss_bytes_of_the_process": own_peak_rss(),
        },
    }


def main() -> None:
    """Every network counted and run; then what counting costs."""
    torch.set_num_threads(1)
    counting = cost_of_counting()  # first, so that its peak resident size is its own
    print(counting, flush=True)
    torch.manual_seed(0)
    networks = []
    for name, (build, inputs) in NETWORKS.items():
        model, given = build().eval(), inputs()
        counted = profile(model, given)
        anywhere, returned = allocated(model, given)
        if name == FAST_PATH:
            returned = anywhere
        networks.append({
            "network": name, "counted": counted.peak_activation_bytes, "fused": counted.fused_peak_activation_bytes,
            "allocator": anywhere, "allocator_without_workspaces": returned,
            "error": counted.peak_activation_bytes / returned - 1,
            "error_with_workspaces": counted.peak_activation_bytes / anywhere - 1,
        })  # fmt: skip
        print(networks[-1], flush=True)
    write_result(RESULT, {"networks": networks, "counting": counting}, ("timm", "transformers"))
    print_table(
        "Peak activation memory, bytes",
        ["network", "counted", "allocator", "error", "with workspaces", "error"],
        [
            [n["network"], f"{n['counted']:,}", f"{n['allocator_without_workspaces']:,}", f"{n['error']:+.2%}",
             f"{n['allocator']:,}", f"{n['error_with_workspaces']:+.2%}"]
            for n in networks
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
