"""Whole networks against published figures and hand formulas."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from tenfold.cost import profile

PUBLISHED = {
    # name: (parameters, MACs, input size): the papers' networks as timm defines them
    "mobilenetv2_100": (3_504_872, 300_774_272, 224),
    "resnet50": (25_557_032, 4_089_184_256, 224),
    "vit_base_patch16_224": (86_567_656, 17_563_828_224, 224),
    "efficientnet_lite0": (4_652_008, 385_187_552, 224),
    "swin_tiny_patch4_window7_224": (28_288_354, 4_490_566_656, 224),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_counted_exactly(timm, name):
    params, macs, size = PUBLISHED[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    counted = profile(model, torch.empty(1, 3, size, size, device="meta"))
    assert (counted.params, counted.macs, counted.unknown) == (params, macs, ())
    assert counted.flops == 2 * macs


def test_the_whole_list_of_published_networks_is_exact(published_networks, timm, torchvision):
    wrong = {}
    for entry in published_networks:
        with torch.device("meta"):
            if entry["source"] == "timm":
                model = timm.create_model(entry["name"])
            else:
                model = getattr(torchvision.models, entry["name"])()
        size = entry["resolution"]
        counted = profile(model, torch.empty(1, 3, size, size, device="meta"))
        if (counted.params, counted.macs) != (entry["params"], entry["macs"]) or counted.unknown:
            wrong[entry["name"]] = (counted.params, counted.macs, counted.unknown)
    assert not wrong


def test_an_encoder_layer_counts_its_attention_products():
    """512 wide, 8 heads, 1,024 tokens: 4·n·d² + 2·n²·d + 2·n·d·2048 = 4.295 GMACs."""
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    counted = profile(layer, torch.rand(1, 1024, 512))
    n, d, hidden = 1024, 512, 2048
    assert counted.macs == 4 * n * d * d + 2 * n * n * d + 2 * n * d * hidden == 4_294_967_296


def test_language_models_by_hand(torchvision):
    """Counted on the meta device: 70 thousand million parameters included."""
    transformers = pytest.importorskip("transformers")
    n = 128
    tokens = {"input_ids": torch.zeros(1, n, dtype=torch.long)}

    def count(kind: str, **sizes: int):
        config = getattr(transformers, f"{kind}Config")(**sizes)
        name = {"Bert": "BertModel", "GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}[kind]
        with torch.device("meta"):
            return profile(getattr(transformers, name)(config), tokens)

    d, layers = 768, 12
    encoder = layers * (12 * d * d * n + 2 * n * n * d)
    gpt2 = count("GPT2")
    assert (gpt2.params, gpt2.macs) == (124_439_808, encoder + n * d * 50257)
    bert = count("Bert")
    assert (bert.params, bert.macs) == (109_482_240, encoder + d * d)
    d, kv, hidden, layers, words = 8192, 1024, 28672, 80, 128256
    llama = count(
        "Llama", hidden_size=d, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=64, num_key_value_heads=8, vocab_size=words,
    )  # fmt: skip
    block = 2 * d * d + 2 * d * kv + 3 * d * hidden
    assert llama.params == layers * (block + 2 * d) + d + 2 * d * words == 70_553_706_496
    assert llama.macs == layers * (n * block + 2 * n * n * d) + n * d * words
    assert llama.unknown == ()


def test_a_billion_parameters_in_seconds_and_without_memory():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(8192, 8192, bias=False) for _ in range(15)))
        tokens = torch.empty(1, 8192)
    begun = time.perf_counter()
    counted = profile(model, tokens)
    assert counted.params == counted.macs == 15 * 8192**2 > 1e9
    assert time.perf_counter() - begun < 10


def _meta(kind: str, **sizes):
    """A transformers network of this configuration, on the meta device."""
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**sizes))


@pytest.mark.parametrize(
    ("kind", "sizes", "params", "active"),
    [
        # Jiang et al. 2024: 46.7 and 12.9 G. 8 experts of 3·4096·14336 in 32 layers, 2 of them chosen.
        ("Mixtral", {"vocab_size": 32000}, 46_702_792_704, 46_702_792_704 - 32 * 6 * 3 * 4096 * 14336),
        (
            "Qwen3Moe",
            {
                "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
                "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
                "vocab_size": 151936,
            },
            30_532_122_624,
            30_532_122_624 - 48 * 120 * 3 * 2048 * 768,
        ),
    ],
)  # fmt: skip
def test_mixtures_of_experts_count_what_acts_on_a_token(torchvision, kind, sizes, params, active):
    """30.5 G and 3.3 G for Qwen3-30B-A3B; the products of 64 tokens are those of the active weights."""
    model = _meta(kind, **sizes)
    counted = profile(model, {"input_ids": torch.zeros(1, 64, dtype=torch.long)})
    assert (counted.params, counted.active_params, counted.unknown) == (params, active, ())
    config = model.config
    d, layers = config.hidden_size, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or d // config.num_attention_heads
    attention = layers * 2 * 64**2 * config.num_attention_heads * head_dim
    # Every active weight multiplies once a token, but for the embedding and the norms.
    norms = layers * (2 * d + (2 * head_dim if kind == "Qwen3Moe" else 0)) + d
    assert counted.macs == 64 * (active - config.vocab_size * d - norms) + attention


def test_causal_networks_report_their_useful_half(torchvision):
    n, layers, d = 64, 2, 256
    model = _meta("Llama", hidden_size=d, intermediate_size=512, num_hidden_layers=layers,
                  num_attention_heads=8, num_key_value_heads=2, vocab_size=1000)  # fmt: skip
    counted = profile(model, {"input_ids": torch.zeros(1, n, dtype=torch.long)})
    assert counted.masked_macs == layers * n * (n - 1) * d
    assert counted.causal_macs + counted.masked_macs == counted.macs


def test_a_mamba_by_hand(torchvision):
    from tenfold.cost.formulas import language

    n, d, layers, words = 32, 256, 3, 1000
    model = _meta("Mamba", hidden_size=d, num_hidden_layers=layers, vocab_size=words, state_size=16)
    counted = profile(model, {"input_ids": torch.zeros(1, n, dtype=torch.long)})
    assert counted.params == layers * (language.mamba_layer_params(d) + d) + d + words * d
    # transformers' own form of the scan multiplies the state with C as a matrix product, and its convolution runs
    # over three padded positions that are cut off again.
    scan = n * 2 * d * 16
    padding = 3 * 2 * d * 4
    assert counted.macs == layers * (language.mamba_layer_macs(n, d) + scan + padding) + n * d * words
    assert counted.unknown == ()


@pytest.mark.parametrize(
    "name",
    ["ghostnet_050", "levit_128", "mobilevit_s", "efficientvit_m0", "edgenext_xx_small", "xcit_nano_12_p16_224",
     "poolformer_s12", "regnety_002", "test_vit_relpos", "botnet26t_256"],
)  # fmt: skip
def test_families_of_networks_against_torchs_own_counter(timm, name):
    """It is right on the meta device, where nothing is fused away from it."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = timm.create_model(name).eval()
    x = torch.empty(1, *model.default_cfg["input_size"], device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    counted = profile(model, x)
    assert counted.flops == counter.get_total_flops()
    assert counted.params == sum(parameter.numel() for parameter in model.parameters())
    assert counted.unknown == ()
