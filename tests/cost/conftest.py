"""What the tests of counting share: timm, which needs a hand where torchvision does not load."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

_KEPT: list[Any] = []


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, also beside a torch that its binary was not built for.

    There its operators do not load and its import fails, unless they are declared; no network here calls them.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    return pytest.importorskip("timm")


@pytest.fixture(scope="session")
def published_networks() -> list[dict[str, Any]]:
    """Exact parameters and MACs of published networks, out of the data folder."""
    folder = os.environ.get("TENFOLD_DATA")
    if not folder or not (Path(folder) / "networks.json").exists():
        pytest.skip("TENFOLD_DATA names no folder with networks.json")
    return json.loads((Path(folder) / "networks.json").read_text())["networks"]
