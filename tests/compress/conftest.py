"""Fixtures that several tests of compression share."""

from __future__ import annotations

import pytest
from pack_networks import saved

from tenfold.compress.packing import pack
from tenfold.compress.quantize import Nearest, PerChannel, QuantizeWeights


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A packed network of 4-bit weights."""
    folder = tmp_path_factory.mktemp("packed")
    pack(saved(folder / "a", QuantizeWeights(4, PerChannel(), rounding=Nearest())), folder / "a.pack")
    return (folder / "a.pack").read_bytes()
