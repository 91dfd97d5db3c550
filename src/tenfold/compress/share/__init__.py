"""Sharing: few values, few vectors or few layers that stand for many."""

from tenfold.compress.share.kmeans import kmeans

__all__ = ["kmeans"]
