"""Every formula against the counter where it can be counted, and against its published figures elsewhere."""

from __future__ import annotations

import math
import random

import pytest
import torch
from count_networks import Function
from torch import nn
from torch.nn import functional as F

from tenfold.cost import profile
from tenfold.cost.formulas import attention, convolution, hardware, information, language, training

# ---- convolution ----------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, kernel: int, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution(groups):
    counted = profile(conv(8, 12, 3, groups=groups), torch.empty(1, 8, 10, 9))
    assert counted.macs == convolution.convolution_macs(3, 8, 12, 10, 9, groups=groups)
    assert counted.params == convolution.convolution_params(3, 8, 12, groups=groups)
    assert convolution.convolution_params(3, 8, 12, bias=True) == 3 * 3 * 8 * 12 + 12


def test_transposed_convolution():
    counted = profile(nn.ConvTranspose2d(6, 5, 3, stride=2), torch.empty(1, 6, 7, 7))
    assert counted.macs == convolution.transposed_convolution_macs(3, 6, 5, 7, 7)


def test_separable_convolution():
    """589,824 weights become 67,840: 8.69 times fewer at K = 3 and 256 channels, and never K²."""
    block = nn.Sequential(conv(256, 256, 3, groups=256), conv(256, 256, 1))
    counted = profile(block, torch.empty(1, 256, 7, 7))
    assert counted.params == convolution.separable_params(3, 256, 256) == 67_840
    assert counted.macs == convolution.separable_macs(3, 256, 256, 7, 7)
    ratio = convolution.separable_ratio(3, 256)
    assert ratio == pytest.approx(589_824 / 67_840) == pytest.approx(8.69, abs=0.005)
    assert convolution.separable_ratio(3, 10**9) == pytest.approx(9)
    assert convolution.convolution_macs(3, 256, 256, 56, 56) == 1_849_688_064


@pytest.mark.parametrize(("expansion", "stride"), [(6, 1), (6, 2), (1, 1)])
def test_inverted_residual(expansion, stride):
    hidden = 8 * expansion
    expand = [conv(8, hidden, 1)] if expansion > 1 else []
    block = nn.Sequential(*expand, conv(hidden, hidden, 3, groups=hidden, stride=stride), conv(hidden, 16, 1))
    counted = profile(block, torch.empty(1, 8, 15, 15))
    assert counted.macs == convolution.inverted_residual_macs(8, expansion, 15, 15, outputs=16, stride=stride)


def test_inverted_residual_against_a_convolution_at_its_width():
    """24 channels, t = 6: a 144→144 3×3 convolution takes 23 times as much."""
    assert convolution.inverted_residual_ratio(24, 6) == pytest.approx(22.7, abs=0.05)
    whole = convolution.convolution_macs(3, 144, 144, 56, 56)
    assert whole / convolution.inverted_residual_macs(24, 6, 56, 56) == pytest.approx(22.7, abs=0.05)


def test_squeeze_and_excitation():
    block = nn.Sequential(nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1))
    assert profile(block, torch.empty(1, 16, 1, 1)).params == convolution.squeeze_excitation_params(16, 4)


def test_rounded_widths():
    """EfficientNet-B3's stem: 16·1.2 = 19.2 would round to 16, more than 10% below, so it becomes 24."""
    assert [convolution.rounded_width(width) for width in (19.2, 16, 3, 32 * 1.4)] == [24, 16, 8, 48]


def test_compound_scaling():
    rule = convolution.CompoundScaling()
    assert rule.flops_factor == pytest.approx(1.92, abs=0.005)
    # Depth 18, width 32 and 224 pixels at φ = 3.
    assert rule.scaled(3, 18, 32, 224) == (31, 43, 341)
    assert len(convolution.EFFICIENTNETS) == 8
    assert convolution.EFFICIENTNETS[7] == (2.0, 3.1, 600)


# ---- attention ------------------------------------------------------------------------------------------------


def sdpa(q, k, v, **options):
    return profile(Function(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v, **options)), (q, k, v))


def test_attention_and_its_causal_half():
    q = torch.empty(1, 4, 20, 8)
    assert sdpa(q, q, q).macs == attention.attention_macs(20, 32)
    assert sdpa(q, q, q, is_causal=True).causal_macs == attention.causal_macs(20, 32)
    k = torch.empty(1, 4, 12, 8)
    assert sdpa(q, k, k).macs == attention.attention_macs(20, 32, keys=12)


def test_projections_of_grouped_queries():
    """8 heads with keys and values of their own: 24 projections; shared by all, 10."""
    assert (attention.projections(8, 8), attention.projections(8, 1)) == (24, 10)
    q, kv, out = nn.Linear(64, 64), nn.Linear(64, 2 * 16), nn.Linear(64, 64)
    net = Function(lambda _, x: out(q(x)) + kv(x).sum())
    assert profile(net, torch.empty(1, 10, 64)).macs == attention.projection_macs(10, 64, heads=8, kv_heads=2)


def test_encoder_layer():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    assert profile(layer, torch.empty(1, 9, 32)).macs == attention.encoder_layer_macs(9, 32, 64)
    assert attention.encoder_layer_macs(1024, 512, 2048) == 4_294_967_296


def test_linear_attention():
    n, h, d = 20, 4, 8

    def mix(_, q, k, v):
        return q @ (k.mT @ v)

    q = torch.empty(1, h, n, d)
    assert profile(Function(mix), (q, q, q)).macs == attention.linear_attention_macs(n, h * d, h)
    features = torch.empty(d, 16)
    counted = profile(Function(lambda _, q, k, v: (q @ features) @ ((k @ features).mT @ v)), (q, q, q))
    assert counted.macs == attention.performer_macs(n, h * d, h, 16)


def test_linformer():
    n, k, h, d = 20, 5, 4, 8
    x, projection = torch.empty(1, h, n, d), torch.empty(k, n)

    def mix(_, q, keys, values):
        return torch.softmax(q @ (projection @ keys).mT, -1) @ (projection @ values)

    assert profile(Function(mix), (x, x, x)).macs == attention.linformer_macs(n, h * d, k)


def test_nystroem():
    n, m, h, d = 24, 6, 2, 8

    def inverse(a):
        z = a.mT
        for _ in range(6):
            az = a @ z
            z = 0.25 * z @ (13 * az - az @ (15 * az - az @ (7 * az)))
        return z

    def mix(_, q, k, v):
        ql, kl = q.reshape(1, h, m, n // m, d).mean(3), k.reshape(1, h, m, n // m, d).mean(3)
        left, middle, right = q @ kl.mT, ql @ kl.mT, ql @ k.mT
        return (left @ inverse(middle)) @ (right @ v)

    q = torch.empty(1, h, n, d)
    assert profile(Function(mix), (q, q, q)).macs == attention.nystrom_macs(n, h * d, h, m)


def test_sparse_patterns_by_counting_pairs():
    """Against the masks written out."""
    n, d, stride = 50, 8, 7
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    window = ((i - j <= 5) & (j - i <= 2)).sum().item()
    assert attention.window_macs(n, d, 5, 2) == 2 * window * d
    strided = ((j <= i) & ((i - j < stride) | ((i - j) % stride == 0))).sum().item()
    assert attention.strided_macs(n, d, stride) == 2 * strided * d
    # Linear in the number of tokens once there are more blocks than one row sees.
    few, many = attention.bigbird_macs(64 * 40, d), attention.bigbird_macs(64 * 80, d)
    assert many / few == pytest.approx(2, rel=0.03)


def test_memory_of_attention():
    assert attention.scores_bytes(4096) == 32 * 2**20
    assert [attention.scores_bytes(n, element=4) / 2**20 for n in (512, 2048, 8192, 32768)] == [
        1,
        16,
        256,
        4096,
    ]
    assert attention.flash_working_bytes(128, 128, 64) <= 256 * 2**10
    # Dao et al. 2022, figure 2: an order of magnitude less traffic on an A100 with 192 KB of SRAM, d = 64, n = 1024.
    ratio = attention.standard_traffic(1024, 64) / attention.flash_traffic(1024, 64, 192 * 1024)
    assert 5 < ratio < 20


def test_key_value_cache():
    """Llama-2 7B at 4,096 tokens in 16 bits: 2 GiB; one key-value head of 8 takes an eighth."""
    assert attention.kv_cache_bytes(32, 32, 128, 4096) == 2 * 2**30
    assert attention.kv_cache_bytes(1, 8, 64, 10) == 8 * attention.kv_cache_bytes(1, 1, 64, 10)
    assert attention.paging_waste([16, 32], 16) == 0
    assert attention.paging_waste([17], 16) == pytest.approx(1 - 17 / 32)


# ---- language models ------------------------------------------------------------------------------------------


def test_language_models_against_the_counter(torchvision):
    transformers = pytest.importorskip("transformers")
    n, tokens = 16, {"input_ids": torch.zeros(1, 16, dtype=torch.long)}

    def count(network: str, config):
        with torch.device("meta"):
            return profile(getattr(transformers, network)(config), tokens)

    gpt2 = count("GPT2LMHeadModel", transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4))
    assert gpt2.params == language.gpt2_params(2, 64)
    assert gpt2.macs == language.gpt2_macs(n, 2, 64)
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    bert = count("BertModel", transformers.BertConfig(**shape, intermediate_size=256))
    assert bert.params == language.bert_params(2, 64)
    assert bert.macs == language.bert_macs(n, 2, 64)
    albert = count(
        "AlbertModel", transformers.AlbertConfig(**shape, intermediate_size=256, num_hidden_groups=1)
    )
    assert albert.params == language.albert_params(64)
    llama = count(
        "LlamaForCausalLM",
        transformers.LlamaConfig(**shape, intermediate_size=96, num_key_value_heads=2, vocab_size=500),
    )
    assert llama.params == language.llama_params(2, 64, 96, 4, 2, 500)
    assert llama.macs == language.llama_macs(n, 2, 64, 96, 4, 2, 500)


def test_published_sizes_of_language_models():
    assert language.gpt2_params(12, 768) == 124_439_808
    assert language.bert_params(12, 768) == 109_482_240
    assert language.llama_params(80, 8192, 28672, 64, 8, 128256) == 70_553_706_496
    # ALBERT-large: 18 times fewer than BERT-Large (Lan et al. 2020, table 1: 18M and 334M).
    assert language.bert_params(24, 1024) / language.albert_params(1024) == pytest.approx(18.9, abs=0.1)


def test_mixture_of_experts():
    d, hidden, layers = 4096, 14336, 32
    shared = layers * (2 * d * d + 2 * d * 1024 + 8 * d + 2 * d) + d + 2 * 32000 * d
    whole, active = language.experts_params(shared, layers * 3 * d * hidden, 8, 2)
    assert (whole, active) == (46_702_792_704, 12_879_925_248)


def test_low_rank_adapters():
    """d = 4096 at rank 16: 128 times fewer; a merged adapter is the product itself."""
    assert language.lora_ratio(4096, 4096, 16) == 128
    adapter = nn.Sequential(nn.Linear(12, 4, bias=False), nn.Linear(4, 20, bias=False))
    assert profile(adapter, torch.empty(1, 12)).params == language.lora_params(20, 12, 4)


def test_rules_of_scaling_and_scanning():
    assert language.training_flops(10, 7) == 3 * 7 * language.forward_flops_per_token(10)
    assert language.mamba_scan_flops(2048, 768) == 2 * language.mamba_scan_flops(1024, 768)


def test_speculation_against_a_simulation():
    """Drafts are accepted one after another with probability α; the large model adds one token."""
    alpha, drafted, generator = 0.7, 4, random.Random(0)

    def tokens() -> int:
        accepted = 0
        while accepted < drafted and generator.random() < alpha:
            accepted += 1
        return accepted + 1

    mean = sum(tokens() for _ in range(20_000)) / 20_000
    assert language.speculative_tokens(alpha, drafted) == pytest.approx(mean, rel=0.02)
    assert language.speculative_tokens(1, drafted) == 5
    assert language.speculative_speedup(0.8, 5, 0.05) == pytest.approx(3.69 / 1.25, rel=0.01)


# ---- training -------------------------------------------------------------------------------------------------


def test_zero():
    """Rajbhandari et al. 2020, figure 1: 7.5 G parameters on 64 devices take 120, 31.4, 16.6 and 1.9 GB."""
    found = [training.zero_bytes(7_500_000_000, 64, stage) / 1e9 for stage in range(4)]
    assert found == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)
    assert training.zero_bytes(100, 8, 0) == training.training_state_bytes(100)
    assert training.zero_communication(10, 3) == 1.5 * training.zero_communication(10, 2)
    with pytest.raises(ValueError, match="stages 0 to 3"):
        training.zero_bytes(1, 1, 4)


def test_checkpointing():
    assert training.checkpointed_layers(100) == 20
    assert all(training.checkpointed_layers(n) <= 2 * math.sqrt(n) + 2 for n in range(1, 500))
    assert training.checkpointing_work() == pytest.approx(1.33, abs=0.01)


# ---- information ----------------------------------------------------------------------------------------------


def test_entropy():
    assert information.entropy([1, 1, 1, 1]) == 2
    assert information.entropy([5, 0]) == 0
    assert information.entropy([]) == 0
    assert information.pruned_entropy(0.5, 4) == 1 + 2


def test_entropy_of_rounded_normal_weights():
    """By the sample, and for small steps the differential entropy less the logarithm of the step."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(400_000, generator=generator) * 0.02
    for step in (0.02, 0.005):
        counts = torch.unique(torch.round(sample / step), return_counts=True)[1]
        exact = information.gaussian_entropy(0.02, step)
        assert exact == pytest.approx(information.entropy(counts.tolist()), abs=0.003)
    fine = information.gaussian_entropy(0.02, 0.0005)
    assert fine == pytest.approx(
        information.gaussian_differential_entropy(0.02) - math.log2(0.0005), abs=1e-4
    )


def test_rate_and_distortion():
    assert information.gaussian_rate(1, 0.25) == 1
    assert information.gaussian_rate(1, 2) == 0
    assert information.gaussian_distortion(1, 1) == 0.25
    # A fine uniform quantiser with an ideal code lies a quarter of a bit above the bound.
    step = 0.01
    above = information.gaussian_entropy(1, step) - information.gaussian_rate(
        1, information.rounding_error(step)
    )
    assert above == pytest.approx(information.ENTROPY_CODED_GAP, abs=1e-3) == pytest.approx(0.2546, abs=1e-3)


def test_rounding_error_of_a_sample():
    sample = torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for step in (0.1, 0.4):
        error = (torch.round(sample / step) * step - sample).square().mean().item()
        assert error == pytest.approx(information.rounding_error(step), rel=0.02)
    gain = information.quantized_snr_db(9, peak_over_deviation=4) - information.quantized_snr_db(
        8, peak_over_deviation=4
    )
    assert gain == pytest.approx(6.02, abs=0.01)


def test_sizes_of_codes():
    """Han et al. 2016, section 3.1: 16 weights of 32 bits on 4 shared values take 3.2 times less."""
    assert information.compression_ratio(16, 4) == 3.2
    assert information.sparse_bits(0.1, 8, 4) == pytest.approx(1.2)
    assert information.quantized_bytes(1000, 8) == 1000
    assert information.quantized_bytes(1024, 4, group=128) == 512 + 16
    low, high = information.huffman_bound(2.5)
    assert (low, high) == (2.5, 3.5)


# ---- hardware -------------------------------------------------------------------------------------------------


def test_formats():
    assert [hardware.FORMATS[name].smaller for name in ("fp32", "fp16", "int8", "int4")] == [1, 2, 4, 8]
    assert [hardware.FORMATS[name].compute for name in ("fp16", "int8", "int4")] == [2, 4, 8]
    for name, dtype in (
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("int8", torch.int8),
    ):
        assert hardware.FORMATS[name].bytes == torch.empty((), dtype=dtype).element_size()
    # An exponent of e bits reaches 2^(2^(e-1)).
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        reach = 2.0 ** (2 ** (hardware.FORMATS[name].exponent - 1))
        assert reach / 2 < torch.finfo(dtype).max <= reach


def test_the_memory_hierarchy_grows_slower_and_larger():
    latencies = [level.latency_cycles for level in hardware.A100_MEMORY]
    assert latencies == sorted(latencies)
    assert hardware.latency_ns(hardware.A100_MEMORY[-1]) == pytest.approx(331, abs=1)


def test_intensities_against_the_counter():
    n = 600
    product = profile(Function(lambda _, a, b: a @ b), (torch.empty(n, n), torch.empty(n, n)))
    assert product.intensity == hardware.matmul_intensity(n, n, n) == pytest.approx(n / 6)
    depthwise = profile(conv(32, 32, 3, groups=32), torch.empty(1, 32, 112, 112))
    assert depthwise.intensity == pytest.approx(hardware.depthwise_intensity(3), rel=0.01)
    assert hardware.depthwise_intensity(3) == 2.25


def test_roofline():
    assert hardware.ridge(100, 4) == 25
    assert hardware.attainable(100, 4, 10) == 40
    assert hardware.attainable(100, 4, 30) == 100


def test_preferences_name_known_formats():
    for preference in hardware.PREFERENCES.values():
        assert set(preference.precisions) <= set(hardware.FORMATS)
        assert preference.blocks
        assert preference.source
