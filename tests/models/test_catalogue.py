"""Architectures by name."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

import tenfold
from tenfold.errors import NetworkError
from tenfold.models import create, largest, names
from tenfold.models.catalogue import CATALOGUE
from tenfold.models.option_types import check_types


def expected_params(depth: int, classes: int, channels: int) -> int:
    """Counted by hand from the paper's table: convolutions without bias, two numbers a batch-norm channel."""
    blocks = (depth - 2) // 6
    total = 9 * channels * 16 + 2 * 16
    previous = 16
    for width in (16, 32, 64):
        total += 9 * previous * width + 2 * width + 9 * width * width + 2 * width
        total += (blocks - 1) * 2 * (9 * width * width + 2 * width)
        if previous != width:
            total += previous * width + 2 * width
        previous = width
    return total + 64 * classes + classes


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_resnet_parameters(depth: int) -> None:
    model = create(f"resnet{depth}", num_classes=7, in_channels=1)
    assert sum(p.numel() for p in model.parameters()) == expected_params(depth, 7, 1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (33, 17)])
def test_output_shape(height: int, width: int) -> None:
    assert create("resnet20", num_classes=5).eval()(torch.zeros(2, 3, height, width)).shape == (2, 5)


def test_every_name_is_buildable() -> None:
    with torch.device("meta"):
        for name in names():
            assert isinstance(create(name), torch.nn.Module)


def test_rooms_that_users_name_come_with_the_package() -> None:
    code = "import tenfold; assert 'resnet20' in tenfold.models.names(); print(tenfold.errors.NetworkError.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "NetworkError"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = tenfold.nothing


def test_unknown_names_and_options_offer_the_nearest() -> None:
    with pytest.raises(
        NetworkError,
        match=r"no architecture 'resnet57'; did you mean 'resnet56' .*\(`tenfold models` lists them all",
    ):
        create("resnet57")
    with pytest.raises(NetworkError, match=r"resnet20 has no option 'n_classes'; did you mean 'num_classes'"):
        create("resnet20", n_classes=3)
    with pytest.raises(NetworkError, match="num_classes must be a whole number of at least 1, not -1"):
        create("resnet20", num_classes=-1)
    with pytest.raises(NetworkError, match="has no option 'depth'"):
        create("resnet20", depth=8)


@pytest.mark.parametrize(
    ("name", "chosen", "words"),
    [
        ("mobilenet_v2", {"width": "0.5"}, "mobilenet_v2: width must be a finite number, not '0.5'"),
        ("mobilenet_v2", {"depth": float("nan")}, "mobilenet_v2: depth must be a finite number, not nan"),
        ("mobilenet_v2", {"width": 10**400}, "mobilenet_v2: width must be a finite number, not 10+"),
        ("vit_ti_16", {"drop_path": None}, "vit_ti_16: drop_path must be a finite number, not None"),
        ("swin_t", {"window": 7.0}, "swin_t: window must be a whole number, not 7.0"),
        ("vgg16", {"small_stem": "yes"}, "vgg16: small_stem must be true or false, not 'yes'"),
        ("resnet18", {"widths": "wide"}, "resnet18: widths must be whole numbers in a list, not 'wide'"),
    ],
)
def test_an_option_of_another_type_is_named(name: str, chosen: dict[str, object], words: str) -> None:
    with pytest.raises(NetworkError, match=f"^{words}$"):
        create(name, **chosen)


def test_every_option_has_a_type_that_its_own_default_fits() -> None:
    for name in names():
        parameters = inspect.signature(CATALOGUE[name].build).parameters
        check_types(name, parameters, {option: each.default for option, each in parameters.items()})


@pytest.mark.parametrize(
    ("name", "chosen", "words"),
    [
        ("mobilenet_v2", {"width": 1e9}, r"mobilenet_v2 with width=1000000000\.0 is larger than any memory"),
        ("mobilenet_v2", {"width": 1e300}, "is larger than any memory"),
        (
            "mobilenet_v2",
            {"width": 1e5, "dropout": 0.1},
            r"with width=100000\.0 has 2\.1..e\+16 parameters, .* GB",
        ),
        ("resnet18", {"widths": [10**9] * 4}, "is larger than any memory"),
        ("resnet20", {"num_classes": 10**400}, "num_classes=10000.* is larger than any memory"),
        ("vgg16", {"hidden": 10**9}, r"GB, and .* GB of memory are free: choose less"),
        ("swin_t", {"window": np.int64(10**5)}, "is larger than any memory"),
    ],
)
def test_a_network_larger_than_memory_is_refused_by_its_options(
    name: str, chosen: dict[str, object], words: str
) -> None:
    with pytest.raises(NetworkError, match=words):
        create(name, **chosen)


def test_the_bound_is_what_the_tensors_take(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"num_classes": 11, "in_channels": 1}
    torch.manual_seed(0)
    plain = CATALOGUE["resnet20"].build(**options)
    needed = sum(tensor.nbytes for tensor in (*plain.parameters(), *plain.buffers()))
    monkeypatch.setattr(largest, "free_memory", lambda: needed)
    torch.manual_seed(0)
    made = create("resnet20", **options)  # counting takes no random number
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), plain.parameters(), strict=True))
    monkeypatch.setattr(largest, "free_memory", lambda: needed - 1)
    with pytest.raises(NetworkError, match="choose less"):
        create("resnet20", **options)
    create("resnet20")  # as published, and not counted
    with torch.device("meta"):
        create("resnet20", **options)
    monkeypatch.setattr(torch, "get_default_device", lambda: torch.device("cuda"))  # whose memory is another
    create("resnet20", **options)
