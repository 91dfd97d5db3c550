"""Names of the room: a module that is called as a public function hides behind it from `import … as`."""

from __future__ import annotations

import importlib
import pkgutil

import tenfold.compress


def test_no_module_shares_the_name_of_a_public_function() -> None:
    modules = {found.name for found in pkgutil.iter_modules(tenfold.compress.__path__)}
    assert not modules & set(tenfold.compress.__all__)
    assert importlib.import_module("tenfold.compress.packing").pack is tenfold.compress.pack
