"""Counts against hand formulas and published figures; the network is left as it was; errors name the layer."""

from __future__ import annotations

import json
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.cost import arithmetic, profile
from tenfold.errors import NetworkError


class Function(nn.Module):
    """A network out of a function of its inputs."""

    def __init__(self, function, **tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


# ---- published figures ----------------------------------------------------------------------------------------

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


# ---- hand formulas --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    dimensions=st.integers(1, 3),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    size=st.integers(5, 8),
    batch=st.integers(1, 2),
)
def test_convolutions_of_every_form(
    dimensions, groups, channels, kernel, stride, padding, dilation, size, batch
):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1](
        groups * channels[0], groups * channels[1], kernel, stride, padding, dilation, groups
    )
    x = torch.empty(batch, conv.in_channels, *[size] * dimensions)
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    expected = batch * out**dimensions * conv.out_channels * channels[0] * kernel**dimensions
    counted = profile(conv, x)
    assert counted.macs == expected
    assert counted.params == sum(p.numel() for p in conv.parameters())


@settings(deadline=None, max_examples=20)
@given(
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
)
def test_transposed_convolutions_spread_each_input_element(groups, channels, kernel, stride):
    conv = nn.ConvTranspose2d(groups * channels[0], groups * channels[1], kernel, stride, groups=groups)
    counted = profile(conv, torch.empty(2, conv.in_channels, 5, 4))
    assert counted.macs == 2 * 5 * 4 * conv.in_channels * channels[1] * kernel**2


def test_depthwise_separable_against_standard():
    """K²·C·H·W + C·Cout·H·W against K²·C·Cout·H·W: 8.69 times fewer at K = 3, Cout = 256."""
    separable = nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.Conv2d(64, 256, 1, bias=False)
    )
    x = torch.empty(1, 64, 14, 14)
    counted = profile(separable, x)
    standard = profile(nn.Conv2d(64, 256, 3, padding=1, bias=False), x)
    assert [layer.kind for layer in counted.layers] == ["depthwise", "dense"]
    assert standard.macs / counted.macs == pytest.approx(9 * 256 / (9 + 256))


@pytest.mark.parametrize("causal", [False, True])
def test_grouped_query_attention_counts_every_query_head(causal):
    q, kv = torch.empty(2, 8, 10, 16), torch.empty(2, 2, 20, 16)
    attend = Function(
        lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    )
    assert profile(attend, (q, kv, kv)).macs == 2 * 2 * 8 * 10 * 20 * 16


def test_attention_without_a_fused_kernel_has_the_same_count():
    q = torch.empty(1, 4, 10, 16)
    fused = profile(Function(lambda _, q: F.scaled_dot_product_attention(q, q, q)), q)
    plain = profile(Function(lambda _, q: torch.softmax(q @ q.mT / 4, -1) @ q), q)
    assert fused.macs == plain.macs == 2 * 4 * 10 * 10 * 16
    assert plain.peak_activation_bytes > fused.peak_activation_bytes  # the 10×10 scores


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_is_not_lost_in_its_fast_path(need_weights):
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.empty(2, 7, 32)
    counted = profile(attention, {"query": x, "key": x, "value": x, "need_weights": need_weights})
    assert counted.macs == 2 * (4 * 7 * 32 * 32 + 2 * 7 * 7 * 32)


@pytest.mark.parametrize("directions", [1, 2])
def test_lstm_and_gru(directions):
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        layer = kind(5, 6, 2, bidirectional=directions == 2)
        expected = 3 * 7 * directions * gates * 6 * ((5 + 6) + (6 * directions + 6))
        assert profile(layer, torch.empty(7, 3, 5)).macs == expected, kind


def test_products_of_every_spelling():
    a, b = torch.empty(3, 4, 5), torch.empty(3, 5, 6)
    for function, expected in (
        (lambda _, a, b: torch.einsum("bij,bjk->bik", a, b), 3 * 4 * 5 * 6),
        (lambda _, a, b: a @ b, 3 * 4 * 5 * 6),
        (lambda _, a, b: torch.baddbmm(a @ b, a, b), 2 * 3 * 4 * 5 * 6),
        (lambda _, a, b: a[0] @ b[0], 4 * 5 * 6),
        (lambda _, a, b: a[0] @ b[0, :, 0], 4 * 5),
        (lambda _, a, b: a[0, 0] @ b[0, :, 0], 5),
        (lambda _, a, b: torch.addbmm(a[0] @ b[0], a, b), 4 * 5 * 6 + 3 * 4 * 5 * 6),
        (lambda _, a, b: F.linear(a, b[0].t()), 3 * 4 * 5 * 6),
        (lambda _, a, b: torch.tensordot(a, b, dims=([0, 2], [0, 1])), 4 * 6 * 15),
        (lambda _, a, b: a * 2 + 1, 0),
    ):
        counted = profile(Function(function), (a, b))
        assert counted.macs == expected
        assert counted.unknown == ()


def test_bilinear():
    counted = profile(nn.Bilinear(3, 4, 5), (torch.empty(2, 3), torch.empty(2, 4)))
    assert counted.macs == 2 * 2 * 5 * 3 * 4


def test_inference_mode_inside_the_network_hides_nothing():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)
            self.conv = nn.Conv1d(2, 3, 3)

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).sum() + self.conv(x).sum()

    assert profile(Inner(), torch.empty(5, 2, 8)).macs == 5 * 2 * 8 * 4 + 5 * 3 * 6 * 2 * 3


# ---- what is attributed to whom -------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 8)
        self.head = nn.Linear(8, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def test_tied_weights_count_once_and_an_embedding_has_no_macs_but_bytes():
    counted = profile(Tied(), torch.zeros(2, 3, dtype=torch.long))
    assert counted.params == 800
    assert counted.weight_bytes == 3200
    assert counted.macs == 2 * 3 * 8 * 100
    embed, head = counted.layers
    assert (embed.name, embed.macs, embed.params) == ("embed", 0, 800)
    assert embed.bytes_read == 2 * 3 * 8 * 4 + 2 * 3 * 8  # six rows of floats and six 8-byte indices
    assert (head.name, head.params) == ("head", 0)


def test_two_parameters_over_one_memory_count_once():
    a = nn.Linear(4, 4, bias=False)
    b = nn.Linear(4, 4, bias=False)
    b.weight = nn.Parameter(a.weight.data)
    assert profile(nn.Sequential(a, b), torch.empty(1, 4)).params == 16


def test_a_module_called_several_times_counts_each_call():
    shared = nn.Linear(8, 8)
    counted = profile(Function(lambda net, x: shared(shared(shared(x)))), torch.empty(2, 8))
    assert counted.macs == 3 * 2 * 8 * 8
    inside = profile(nn.Sequential(shared, nn.ReLU(), shared), torch.empty(2, 8))
    layer = inside.layers[0]
    assert (layer.name, layer.calls, layer.params) == ("0", 2, 72)
    assert layer.macs == inside.macs == 2 * 2 * 8 * 8


def test_functional_calls_belong_to_the_module_that_makes_them():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.linear(x, self.weight))

    counted = profile(nn.Sequential(nn.Identity(), Block()), torch.empty(5, 4))
    assert [(layer.name, layer.op) for layer in counted.layers] == [("1", "mm"), ("1", "relu")]
    assert counted.layers[0].output_shape == (5, 6)


def test_bytes_and_intensity_of_a_linear_layer():
    counted = profile(nn.Linear(64, 32), torch.empty(16, 64))
    (layer,) = counted.layers
    assert layer.bytes_read == 4 * (16 * 64 + 64 * 32 + 32)
    assert layer.bytes_written == 4 * 16 * 32
    assert layer.intensity == 2 * 16 * 64 * 32 / (layer.bytes_read + layer.bytes_written)


def test_depthwise_intensity_counts_flops():
    """A 3×3 depthwise convolution in fp32: about 2·9 / (2·4) = 2.25 FLOPs a byte."""
    conv = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
    assert profile(conv, torch.empty(1, 64, 112, 112)).intensity == pytest.approx(2.25, rel=0.01)


def test_half_precision_halves_the_bytes():
    x = torch.empty(4, 16)
    full, half = profile(nn.Linear(16, 16), x), profile(nn.Linear(16, 16).half(), x.half())
    assert half.weight_bytes * 2 == full.weight_bytes
    assert half.bytes_read * 2 == full.bytes_read
    assert half.macs == full.macs


def test_trainable_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    counted = profile(model, torch.empty(1, 4))
    assert (counted.params, counted.trainable_params) == (40, 20)


def test_views_cost_nothing():
    counted = profile(
        Function(lambda _, x: x.view(4, 6).t()[1:].unsqueeze(0).expand(3, -1, -1)), torch.empty(24)
    )
    assert counted.layers == ()
    assert counted.activation_bytes == 0


# ---- unknown operators ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def custom_operator():
    @torch.library.custom_op("tenfold_tests::scan", mutates_args=())
    def scan(x: Tensor) -> Tensor:
        return x.cumsum(0)

    @scan.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    return scan


def test_an_unknown_operator_is_named_and_a_registered_one_counted(custom_operator):
    model = Function(lambda _, x: custom_operator(x))
    x = torch.empty(10, 4)
    before = profile(model, x)
    assert before.unknown == ("tenfold_tests::scan",)
    assert before.layers[0].kind == "unknown"
    assert before.layers[0].bytes_written == 160
    assert "tenfold_tests::scan" in str(before)
    try:
        arithmetic.register("tenfold_tests::scan", macs=lambda x, out: 3 * x[0] * x[1])
        after = profile(model, x)
        assert (after.unknown, after.macs) == ((), 120)
    finally:
        del arithmetic.MACS["tenfold_tests::scan"], arithmetic.OTHER_FLOPS["tenfold_tests::scan"]
        arithmetic.formulas_of.cache_clear()


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="older versions lack some of them"
)
def test_every_registered_operator_exists():
    """A name that torch does not have would be a formula that never applies."""

    def exists(name: str) -> bool:
        library, _, short = name.partition("::")
        home = getattr(torch.ops, library)
        return hasattr(home, short) or hasattr(home, f"{short}_")

    missing = [name for name in arithmetic.MACS if name.startswith("aten::") and not exists(name)]
    assert missing == []


# ---- memory ---------------------------------------------------------------------------------------------------


def test_peak_memory_of_a_chain_by_hand():
    """Input 1, then 4, then 2 units: while the third exists, its input and the network's input do too."""
    model = nn.Sequential(nn.Linear(10, 40), nn.Linear(40, 20), nn.Linear(20, 5))
    unit = 10 * 4 * 8
    counted = profile(model, torch.empty(8, 10))
    assert counted.peak_activation_bytes == 7 * unit
    assert counted.peak_layer == "1"
    assert counted.activation_bytes == (4 + 2 + 0.5) * unit


def test_in_place_operators_allocate_nothing():
    def peak(inplace: bool) -> int:
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=inplace))
        return profile(model, torch.empty(1, 3, 10, 10)).peak_activation_bytes

    assert peak(inplace=True) == 4 * 100 * (3 + 8)
    assert peak(inplace=False) == 4 * 100 * (3 + 8 + 8)


def test_peak_memory_equals_what_the_allocator_saw():
    """Against torch's profiler on the CPU, for a network whose operators need no workspace."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
            x = x + torch.softmax(q @ k.mT, -1) @ v
            return x + self.down(F.gelu(self.up(x)))

    model, x = nn.Sequential(*(Block(32) for _ in range(3))).eval(), torch.rand(4, 24, 32)
    with torch.no_grad():
        model(x)
        with torch.profiler.profile(profile_memory=True) as recorded:
            model(x)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    assert peak > 0
    assert profile(model, x).peak_activation_bytes == pytest.approx(peak + x.nbytes, rel=0.01)


# ---- the network is left as it was ----------------------------------------------------------------------------


class Busy(nn.Module):
    """Does everything a forward pass may do to its own module."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.5)
        self.linear = nn.utils.weight_norm(nn.Linear(4, 4))
        self.register_buffer("steps", torch.zeros(1))
        self.calls = 0
        self.cache: list[Tensor] = []
        self.constant = torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        self.constant += 1
        self.last = self.linear(self.norm(x)) + self.constant
        self.cache.append(self.last)
        return self.last


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_network_is_left_as_it_was():
    model = Busy().train()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    weight = model.linear.weight
    x = torch.rand(3, 4)
    random = torch.random.get_rng_state()
    profile(model, x)
    assert model.training
    assert not model.norm.training
    assert (model.calls, model.cache) == (0, [])
    assert torch.equal(model.constant, torch.ones(4))
    assert model.linear.weight is weight
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == pointers[name]
        assert torch.equal(tensor, state[name])
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled()
    model(torch.rand(3, 4)).sum().backward()  # and it still trains


def test_dropout_and_batch_norm_are_counted_in_eval_mode():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    counted = profile(model, torch.rand(1, 4))  # a batch of one: training batch norm would refuse
    assert [layer.op for layer in counted.layers] == ["addmm", "native_batch_norm"]


def test_a_failed_count_leaves_the_network_as_it_was_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(3, 3)).train()
    weight = model[0].weight
    with pytest.raises(NetworkError):
        profile(model, torch.rand(2, 4))
    assert model.training
    assert model[0].weight is weight
    assert type(model[0].weight) is nn.Parameter
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_billion_parameters_in_seconds_and_without_memory():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(8192, 8192, bias=False) for _ in range(15)))
        tokens = torch.empty(1, 8192)
    begun = time.perf_counter()
    counted = profile(model, tokens)
    assert counted.params == counted.macs == 15 * 8192**2 > 1e9
    assert time.perf_counter() - begun < 10


# ---- errors ---------------------------------------------------------------------------------------------------


def test_a_failing_layer_is_named_with_its_shapes(caplog):
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(9, 2)))
    with pytest.raises(NetworkError, match=r"layer 1\.1 \(Linear\) given 5×8: the forward pass failed"):
        profile(model, torch.empty(5, 4))
    assert caplog.records == []


def test_a_missing_argument_is_an_error_of_the_network():
    with pytest.raises(NetworkError, match="missing 1 required positional argument"):
        profile(nn.Bilinear(2, 2, 2), torch.empty(1, 2))


def test_decisions_by_value_are_explained():
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(NetworkError, match=r"layer 1 \(Gate\).*depends on the values"):
        profile(nn.Sequential(nn.ReLU(), Gate()), torch.ones(3))
    with pytest.raises(NetworkError, match="depends on the values"):
        profile(Function(lambda _, x: x[x > 0]), torch.ones(3))


def test_values_that_are_known_may_be_read():
    """A parameter's own value can decide; what is computed from the input cannot."""
    model = Function(lambda net, x: x * 2 if net.gate.item() > 0 else x @ x, gate=torch.ones(()))
    assert profile(model, torch.ones(3, 3)).macs == 0


def test_lazy_layers_and_other_things_are_refused():
    with pytest.raises(NetworkError, match=r"0\.weight: not initialised"):
        profile(nn.Sequential(nn.LazyLinear(3)), torch.ones(1, 2))
    with pytest.raises(NetworkError, match=r"must be a torch\.nn\.Module, not function"):
        profile(lambda x: x, torch.ones(1))


def test_an_operator_without_a_shape_rule_is_named():
    library = torch.library.Library("tenfold_tests2", "DEF")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x.clone(), "CPU")
    with pytest.raises(NetworkError, match="tenfold_tests2::opaque has no shape rule"):
        profile(Function(lambda _, x: torch.ops.tenfold_tests2.opaque(x)), torch.ones(3))


# ---- JSON and text --------------------------------------------------------------------------------------------


def test_json_is_strict_and_complete():
    counted = profile(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.empty(2, 4))
    back = json.loads(json.dumps(counted.to_json(), allow_nan=False))
    assert back["macs"] == 24
    assert back["flops"] == 48
    assert back["other_flops"] == 6
    assert back["input_shapes"] == [[2, 4]]
    assert [layer["name"] for layer in back["layers"]] == ["0", "1"]
    assert set(back["layers"][0]) >= {
        "name", "op", "macs", "params", "bytes_read", "bytes_written", "intensity", "output_shape"
    }  # fmt: skip


def test_layers_add_up_to_the_whole():
    counted = profile(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.empty(1, 5, 16))
    for figure in ("macs", "other_flops", "params"):
        assert sum(getattr(layer, figure) for layer in counted.layers) == getattr(counted, figure)
    assert counted.bytes_written == counted.activation_bytes


def test_the_table_fits_its_width_and_is_cut():
    layers = (nn.Sequential(nn.Linear(8 + i % 3, 8 + (i + 1) % 3), nn.ReLU()) for i in range(1000))
    counted = profile(nn.Sequential(*layers), torch.empty(1, 8))
    for width in (60, 80, 120):
        lines = counted.table(width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) < 60
        assert any(" 333 " in line or " 334 " in line for line in lines)  # layers that are alike


def test_equal_siblings_share_a_row_and_groups_keep_network_order():
    model = nn.Sequential(nn.Linear(8, 4), *(nn.Linear(4, 4) for _ in range(30)), nn.Linear(4, 2))
    lines = profile(model, torch.empty(1, 8)).table().splitlines()
    rows = [line.split() for line in lines if line.startswith(("0 ", "* ", "31 "))]
    assert rows[0][0] == "0"
    assert rows[1][:2] == ["*", "30"]
    assert rows[2][0] == "31"


def test_an_odd_network_prints_too():
    assert "Identity" in str(profile(nn.Identity(), torch.empty(3)))
    assert "scalar" in str(profile(nn.ReLU(), torch.tensor(1.0)))
