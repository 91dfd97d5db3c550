"""Where a measurement was made: versions, processor and platform, to be stored beside every figure."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from tenfold.cost.cpu import cpu_count, cpu_features, cpu_model

PACKAGES = ("tenfold", "torch", "numpy", "onnx", "onnxruntime", "openvino", "optuna")


def environment() -> dict[str, Any]:
    """Versions of what is installed (nothing is imported to find out), the processor and the platform, as JSON."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpu_features": sorted(cpu_features()),
        "cores": cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
