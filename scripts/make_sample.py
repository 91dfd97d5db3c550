"""Make the sample that ships from the four original idx files of Fashion-MNIST.

    python scripts/make_sample.py FOLDER [--out FOLDER] [--full FILE.npz]

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz. `--full` also writes the 55,000 training images that are not validation: what the
shipped network is trained on. The README beside the sample says how the split is drawn.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import math
from pathlib import Path

import numpy as np

CLASSES = 10
VALIDATION_PER_CLASS = 500
TRAIN_PER_CLASS = 1000
SAMPLE = Path(__file__).resolve().parent.parent / "src" / "tenfold" / "data" / "fashion_mnist"


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes of an idx file: two zero bytes, 0x08, the number of dimensions, their sizes, the data."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is not an idx file of unsigned bytes")
    dimensions = raw[3]
    header = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(raw[4:header], dtype=">u4"))
    if len(raw) - header != math.prod(shape):
        raise SystemExit(f"{path} is cut off: {len(raw) - header} bytes for shape {shape}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def split_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of validation, of the shipped training part, and of all that is not validation; each sorted."""
    generator = np.random.default_rng(0)
    validation, train = [], []
    for label in range(CLASSES):
        order = generator.permutation(np.flatnonzero(labels == label))
        validation.append(order[:VALIDATION_PER_CLASS])
        train.append(order[VALIDATION_PER_CLASS : VALIDATION_PER_CLASS + TRAIN_PER_CLASS])
    held_out = np.sort(np.concatenate(validation))
    return held_out, np.sort(np.concatenate(train)), np.setdiff1d(np.arange(len(labels)), held_out)


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one part and print its size and hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, images=images, labels=labels)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path}: {len(labels)} images, {path.stat().st_size} bytes, sha256 {digest}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample from the idx files of Fashion-MNIST.")
    parser.add_argument("folder", type=Path, help="holds the four original .gz files")
    parser.add_argument("--out", type=Path, default=SAMPLE, help="where train, validation and test.npz go")
    parser.add_argument("--full", type=Path, help="also write the 55,000 training images here (.npz)")
    options = parser.parse_args()
    images = read_idx(options.folder / "train-images-idx3-ubyte.gz")
    labels = read_idx(options.folder / "train-labels-idx1-ubyte.gz")
    validation, train, full = split_indices(labels)
    write(options.out / "train.npz", images[train], labels[train])
    write(options.out / "validation.npz", images[validation], labels[validation])
    test = read_idx(options.folder / "t10k-images-idx3-ubyte.gz")
    write(options.out / "test.npz", test, read_idx(options.folder / "t10k-labels-idx1-ubyte.gz"))
    if options.full:
        write(options.full, images[full], labels[full])


if __name__ == "__main__":
    main()
