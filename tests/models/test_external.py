"""Networks of timm and transformers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tenfold.errors import NetworkError
from tenfold.models import RandomWeights, named_network
from tenfold.models.external import _library


def test_missing_library_says_which_extra() -> None:
    with pytest.raises(
        NetworkError, match=r'no_such_library is not installed: pip install "tenfold\[timm\]"'
    ):
        _library("no_such_library", "timm")


def test_not_a_name() -> None:
    with pytest.raises(NetworkError, match="none of zoo:NAME, timm:NAME, hf:NAME_OR_FOLDER"):
        named_network("resnet5o")


class TestTimm:
    @pytest.fixture(autouse=True)
    def _needs_timm(self) -> None:
        try:
            _library("timm", "timm")
        except NetworkError:
            pytest.skip("timm is not installed")

    def test_random_weights_are_said_to_be_and_repeat(self) -> None:
        with pytest.warns(
            RandomWeights, match=r"timm:resnet18 has random weights; timm:resnet18\?pretrained"
        ):
            first = named_network("timm:resnet18?num_classes=3&in_chans=1&zero_init_last=false")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second = named_network(
                "timm:resnet18?num_classes=3&in_chans=1&zero_init_last=false", weights=False
            )
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        assert first.layer1[0].bn2.weight.eq(1).all()
        assert first(torch.zeros(1, 1, 64, 64)).shape == (1, 3)
        assert not first.training

    def test_options_that_could_name_files_are_refused(self) -> None:
        for option in ("checkpoint_path=evil.pth", "pretrained_cfg=x", "cache_dir=/"):
            with pytest.raises(NetworkError, match="is not taken"):
                named_network(f"timm:resnet18?{option}")
        for name in ("hf-hub:user/model", "local-dir:/tmp", "../x"):
            with pytest.raises(NetworkError, match="not a name of timm's"):
                named_network(f"timm:{name}")

    def test_unknown_name(self) -> None:
        with pytest.raises(NetworkError, match=r"timm has no network 'resnet5o'; did you mean 'resnet50'"):
            named_network("timm:resnet5o")

    def test_a_value_that_timm_refuses(self) -> None:
        with pytest.raises(NetworkError, match="cannot be built"):
            named_network("timm:resnet18?num_classes=many", weights=False)


class TestTransformers:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        pytest.importorskip("transformers")
        transformers = _library("transformers", "transformers")  # mends torchvision, which it imports
        config = transformers.BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=3,
        )
        torch.manual_seed(0)
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
        return tmp_path / "bert"

    def test_class_and_weights_come_from_the_folder(self, folder: Path) -> None:
        model = named_network(f"hf:{folder}")
        assert type(model).__name__ == "BertForSequenceClassification"
        assert model(input_ids=torch.ones(2, 5, dtype=torch.long)).logits.shape == (2, 3)
        from safetensors.torch import load_file

        stored = load_file(folder / "model.safetensors")
        assert torch.equal(model.state_dict()["classifier.weight"], stored["classifier.weight"])
        assert all(parameter.data_ptr() % 64 == 0 for parameter in model.parameters())

    def test_random(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with pytest.raises(NetworkError, match="weights must be safetensors"):
            named_network(f"hf:{folder}")
        with pytest.warns(RandomWeights):
            assert named_network(f"hf:{folder}?random").training is False

    def test_pickled_weights_are_not_read(self, folder: Path) -> None:
        model = named_network(f"hf:{folder}")
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        with pytest.raises(NetworkError, match="weights must be safetensors"):
            named_network(f"hf:{folder}")

    def test_no_configuration(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        with pytest.raises(NetworkError, match="its configuration cannot be read"):
            named_network(f"hf:{tmp_path}")


def test_a_name_that_is_nearly_known_is_offered() -> None:
    with pytest.raises(NetworkError, match="did you mean 'mobilenet_v2'"):
        named_network("mobilenet_v22")
