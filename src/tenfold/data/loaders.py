"""The data that a user names: a folder of class folders, an `.npz`, or `package.module:factory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold.data.archive import TEST_SHARE, read_archive
from tenfold.data.folder import read_folder
from tenfold.data.split import Split
from tenfold.data.task import VALIDATION_SHARE, Splits, Task, as_split
from tenfold.errors import DataError
from tenfold.naming import called, is_import_path, nearest

# What the keys of a dict from a factory stand for.
FACTORY_KEYS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "classes": "classes",
    "metric": "metric",
}


def load_data(
    spec: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    seed: int = 0,
) -> Splits:
    """The splits that `spec` names; every failure is a `DataError` that says what to do.

    `image_size` (one number, or height and width) is for folders; `mean` and `std` (one number, or one a channel,
    on a scale of 0 to 1) for folders and for archives of bytes; `seed` draws the parts that are not given.
    """
    text, path = str(spec), Path(spec)
    if path.is_dir():
        return read_folder(path, image_size=_size(image_size), mean=mean, std=std, seed=seed)
    if path.is_file() and path.suffix.lower() != ".npz":
        raise DataError(
            f"{text} is a file but not an .npz; data is a folder, an .npz or package.module:factory"
        )
    if path.is_file() or (path.suffix.lower() == ".npz" and not is_import_path(text)):
        if image_size is not None:
            raise DataError(
                "an image size is for folders of images; store an .npz at the size that is wanted"
            )
        if not path.is_file():
            raise DataError(f"{text} does not exist{_beside(path)}")
        return read_archive(path, mean=mean, std=std, seed=seed)
    if is_import_path(text):
        for name, value in (("image_size", image_size), ("mean", mean), ("std", std)):
            if value is not None:
                raise DataError(f"{name} is not for a factory: {text} prepares its own data")
        return splits_from(called(text, DataError), text, seed=seed)
    raise DataError(
        f"{text} does not exist{_beside(path)}; data is a folder of class folders, an .npz or package.module:factory"
    )


def splits_from(made: Any, source: str, *, seed: int = 0) -> Splits:
    """What a factory returned, as splits: a Task, Splits, a dict, (train, validation[, test]) or (inputs, targets)."""
    try:
        if isinstance(made, Splits):
            return made
        if isinstance(made, Task):
            metric = made.metric if callable(made.metric) else None
            return Splits(made.train, made.validation, made.test, made.classes, metric)
        if isinstance(made, Mapping):
            for key in made:
                if key not in FACTORY_KEYS:
                    raise DataError(f"unknown key {key!r}{nearest(str(key), FACTORY_KEYS)}")
            if "train" not in made:
                raise DataError("its dict has no key 'train'")
            return Splits(**{FACTORY_KEYS[key]: value for key, value in made.items()})
        if isinstance(made, (tuple, list)) and len(made) in (2, 3) and all(map(_is_split, made)):
            return Splits(*made)
        if isinstance(made, Split) or _is_pair(made) or _is_dataset(made):
            rest, test = as_split(made, "data").hold_out(TEST_SHARE, seed=seed)
            train, validation = rest.hold_out(VALIDATION_SHARE / (1 - TEST_SHARE), seed=seed)
            return Splits(train, validation, test)
    except DataError as error:
        raise DataError(f"factory {source}: {error}") from error
    raise DataError(
        f"factory {source} returned {type(made).__name__}: return a Task, Splits, a dict with train (and validation, "
        f"test), a tuple (train, validation, test), or a dataset"
    )


def _is_pair(value: Any) -> bool:
    """Whether it is (inputs, targets): a pair whose second part is an array or a tensor."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and hasattr(value[1], "shape")


def _is_dataset(value: Any) -> bool:
    plain = isinstance(value, (str, bytes, tuple, list, Mapping)) or hasattr(value, "shape")
    return not plain and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def _is_split(value: Any) -> bool:
    return value is None or isinstance(value, Split) or _is_pair(value) or _is_dataset(value)


def _size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise DataError(f"the image size must be one or two whole numbers of at least 1, not {image_size!r}")
    return size[0], size[1]


def _beside(path: Path) -> str:
    """The nearest names in the folder where `path` was looked for."""
    if not path.parent.is_dir():
        return f" (nor does the folder {path.parent})"
    return nearest(path.name, (entry.name for entry in path.parent.iterdir())) if path.name else ""
