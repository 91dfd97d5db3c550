"""Networks of other people's packages: exported, quantised, fused, and in agreement with PyTorch."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from deploy_networks import fused_operators, quantised

from tenfold.compress.quantize import Mode
from tenfold.cost import map_inputs
from tenfold.deploy import deploy_onnx, verify
from tenfold.models.external import _library


def library(name):
    """The package, or a skip; not importorskip, since a torchvision that does not load must be mended first."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return _library(name, name)


def timm_model(name, **options):
    timm = library("timm")
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def bert():
    transformers = library("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **sizes)).eval()


def tokens():
    ids = torch.randint(0, 50, (6, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


CASES = {
    "mobilenetv2": (lambda: timm_model("mobilenetv2_050"), 64, {"QLinearConv": 52, "QLinearAdd": 10, "QGemm": 1}),
    "resnet18": (
        lambda: timm_model("resnet18", zero_init_last=False), 64, {"QLinearConv": 20, "QLinearAdd": 8, "QGemm": 1},
    ),
    "vit": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=2), 32,
        {"QLinearConv": 1, "MatMulIntegerToFloat": 8, "QGemm": 1},
    ),
    "bert": (bert, None, {"MatMulIntegerToFloat": 12, "QGemm": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_families_are_quantised_and_fused(tmp_path, name):
    build, side, fused = CASES[name]
    model = build()
    inputs = tokens() if side is None else torch.randn(6, 3, side, side)
    plain = deploy_onnx(model, map_inputs(lambda t: t[:1], inputs), tmp_path / "fp32.onnx")
    assert verify(model, plain.session(), inputs).ok
    module = quantised(model, inputs)
    small = deploy_onnx(module, inputs, tmp_path / "int8.onnx")
    verify(module, small.session(), inputs, original=model).require()
    operators = fused_operators(small.paths[0])
    assert {key: operators[key] for key in fused} == fused
    assert not {"Conv", "Gemm"} & set(operators)
    assert small.size_bytes < 0.6 * plain.size_bytes
    if name == "bert":
        dynamic = quantised(model, inputs, Mode.DYNAMIC)
        verify(dynamic, deploy_onnx(dynamic, inputs, tmp_path / "dynamic.onnx").session(), inputs).require()
