"""Data from a folder of class folders: `root/<class>/image`, or `root/{train,validation,test}/<class>/image`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from tenfold.data.archive import TEST_SHARE
from tenfold.data.pixels import Numbers, Scaling, image_split, scaling_from
from tenfold.data.split import Split
from tenfold.data.task import VALIDATION_SHARE, Splits
from tenfold.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
DECODED_AT_ONCE = 1 << 28  # bytes of pixels up to which a folder is decoded into memory when it is loaded
HEADERS_READ = 50_000  # images whose size is looked at beforehand; of more, an even share
GREY_MODES = frozenset({"1", "L", "I", "I;16", "F", "LA"})

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Form:
    """The form that all images are read in. With `resize` they are brought to `size`, else they must have it."""

    size: Size
    channels: int
    resize: bool


def read_folder(
    root: Path,
    *,
    image_size: Size | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    seed: int = 0,
) -> Splits:
    """The splits of a folder; class names sorted give the labels. Without split folders, 60 : 20 : 20 by `seed`.

    Images are RGB, or grey if all are; float32 (C, H, W), scaled to 0 … 1 or by mean and std. With `image_size`
    each is scaled to cover it and cropped at the centre; without, all must be of one size.
    """
    scaling = scaling_from(mean, std)
    folders = {name: _first_folder(root, options) for name, options in SPLIT_FOLDERS.items()}
    train = folders["train"]
    if train is None:
        found = {name: root / name for name in ("validation", "test") if folders[name] is not None}
        if found:
            raise DataError(f"{root} has {' and '.join(found)} but no folder train")
    classes = _class_names(train or root)
    parts = {name: _listed(folder, classes) for name, folder in folders.items() if folder and train}
    if not parts:
        parts = {"all": _listed(root, classes)}
    form = _common_form([path for paths, _ in parts.values() for path in paths], image_size)
    made = {name: _split(paths, labels, form, scaling) for name, (paths, labels) in parts.items()}
    if "all" in made:
        rest, made["test"] = made.pop("all").hold_out(TEST_SHARE, seed=seed)
        made["train"], made["validation"] = rest.hold_out(VALIDATION_SHARE / (1 - TEST_SHARE), seed=seed)
    return Splits(made["train"], made.get("validation"), made.get("test"), classes)


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files decoded when asked for: item i is (float32 (C, H, W), label)."""

    def __init__(self, paths: list[Path], targets: Tensor, form: Form, scaling: Scaling) -> None:
        self.paths, self.targets, self.form, self.scaling = paths, targets, form, scaling

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.scaling(self.pixels(index)), int(self.targets[index])

    def pixels(self, index: int) -> Tensor:
        """Bytes (C, H, W) of one image."""
        return _decoded(self.paths[index], self.form)


def _split(paths: list[Path], labels: list[int], form: Form, scaling: Scaling) -> Split:
    dataset = ImageFiles(paths, torch.tensor(labels, dtype=torch.long), form, scaling)
    if len(paths) * form.channels * form.size[0] * form.size[1] > DECODED_AT_ONCE:
        return Split(dataset)
    pixels = torch.stack([dataset.pixels(index) for index in range(len(dataset))])
    return image_split(pixels, dataset.targets, scaling)


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_names(root: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"{root} holds no class folders: images belong in {root}/<class>/")
    return tuple(names)


def _listed(root: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """The image files of a folder of class folders, with their labels; no class may be empty."""
    unknown = sorted(set(_class_names(root)) - set(classes))
    if unknown:
        raise DataError(f"{root} has a class {unknown[0]!r} that train has not")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = root / name
        if not folder.is_dir():
            continue  # a validation or test set may lack a class; train defines the classes
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"class {name!r} is empty: no image in {folder}")
        paths += files
        labels += [label] * len(files)
    return paths, labels


def _common_form(paths: list[Path], image_size: Size | None) -> Form:
    """The one size and number of channels for all images; a `DataError` if their sizes differ."""
    first: tuple[Path, Size] | None = None
    grey = True
    for path in paths[:: -(-len(paths) // HEADERS_READ)]:
        size, mode = _header(path)
        grey = grey and mode in GREY_MODES
        first = first or (path, size)
        if image_size is None and size != first[1]:
            raise DataError(
                f"images of mixed sizes: {first[0]} is {_text(first[1])}, {path} is {_text(size)} "
                f"(height×width); pass --image-size, or resize them to one size"
            )
    assert first is not None  # every class has an image
    return Form(image_size or first[1], 1 if grey else 3, resize=image_size is not None)


def _header(path: Path) -> tuple[Size, str]:
    try:
        with Image.open(path) as image:
            return (image.height, image.width), image.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def _decoded(path: Path, form: Form) -> Tensor:
    """One image as bytes (C, H, W); with `form.resize` scaled to cover the size and cropped at the centre."""
    height, width = form.size
    try:
        with Image.open(path) as opened:
            image = _eight_bit(opened).convert("L" if form.channels == 1 else "RGB")
            if form.resize and (image.height, image.width) != form.size:
                image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
            pixels = np.array(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    if pixels.shape[:2] != form.size:
        found = _text((pixels.shape[0], pixels.shape[1]))
        raise DataError(f"{path} is {found}, other images are {_text(form.size)}; pass --image-size")
    tensor = torch.from_numpy(pixels)
    return tensor[None] if form.channels == 1 else tensor.permute(2, 0, 1).contiguous()


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey images by their upper byte: Pillow's own conversion would clip them at 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _text(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
