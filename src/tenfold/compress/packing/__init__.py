"""Packed networks: one entropy-coded file, near the rate–distortion bound, that unpacks to the same weights."""

from tenfold.compress.packing.networks import PackReport, pack, unpack

__all__ = ["PackReport", "pack", "unpack"]
