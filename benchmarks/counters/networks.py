"""The networks of these benchmarks, by name: how each is built, its inputs, and its multiply-adds by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tenfold.cost.formulas import attention, convolution, language

TOKENS = 128


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and its MACs from formulas or published tables."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    macs: int


class Attend(nn.Module):
    """Scaled-dot-product attention alone: 8 heads, 2 of them for keys and values."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class Einsum(nn.Module):
    """A product that is written as einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(64, 96))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("btd,df->btf", x, self.weight)


def image() -> torch.Tensor:
    return torch.zeros(1, 3, 224, 224)


def tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.zeros(1, TOKENS, dtype=torch.long)}


def timm_network(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name)

    return build


def transformer(kind: str, **sizes: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        network = {"Bert": "BertModel", "GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
        return getattr(transformers, network)(getattr(transformers, f"{kind}Config")(**sizes))

    return build


LLAMA = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
         "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 8000}  # fmt: skip

CASES = (
    Case("MobileNetV2", timm_network("mobilenetv2_100"), image, 300_774_272),
    Case("ResNet-50", timm_network("resnet50"), image, 4_089_184_256),
    Case("ConvNeXt-T", timm_network("convnext_tiny"), image, 4_455_531_264),
    Case("ViT-B/16", timm_network("vit_base_patch16_224"), image, 17_563_828_224),
    Case("Swin-T", timm_network("swin_tiny_patch4_window7_224"), image, 4_490_566_656),
    Case("BERT-Base, 128 tokens", transformer("Bert"), tokens, language.bert_macs(TOKENS, 12, 768)),
    Case("GPT-2, 128 tokens", transformer("GPT2"), tokens, language.gpt2_macs(TOKENS, 12, 768)),
    Case(
        "Llama, 6 layers of 512, 8 heads on 2", transformer("Llama", **LLAMA), tokens,
        language.llama_macs(TOKENS, 6, 512, 1536, 8, 2, 8000),
    ),
    Case(
        "nn.TransformerEncoderLayer 512, 1,024 tokens",
        lambda: nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True), lambda: torch.zeros(1, 1024, 512),
        attention.encoder_layer_macs(1024, 512, 2048),
    ),
    Case(
        "attention, 8 heads on 2", Attend,
        lambda: (torch.zeros(1, 8, 256, 64), torch.zeros(1, 2, 256, 64), torch.zeros(1, 2, 256, 64)),
        attention.attention_macs(256, 512),
    ),
    Case("einsum", Einsum, lambda: torch.zeros(1, 32, 64), 32 * 64 * 96),
    Case("LSTM, 2 layers of 128", lambda: nn.LSTM(64, 128, 2, batch_first=True), lambda: torch.zeros(1, 50, 64),
         50 * 4 * 128 * (64 + 128 + 128 + 128)),
    Case("transposed convolution", lambda: nn.ConvTranspose2d(16, 8, 3, 2), lambda: torch.zeros(1, 16, 20, 20),
         convolution.transposed_convolution_macs(3, 16, 8, 20, 20)),
    Case(
        "dynamic INT8 linear",
        lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(256, 512)), {nn.Linear}),
        lambda: torch.zeros(4, 256), 4 * 256 * 512,
    ),
)  # fmt: skip
