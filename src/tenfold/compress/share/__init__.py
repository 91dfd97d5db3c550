"""Sharing: few values, few vectors or few layers that stand for many."""

from tenfold.compress.share.codebooks import Product, Scalar, Share
from tenfold.compress.share.kmeans import kmeans
from tenfold.compress.share.tying import Partition, Tie

__all__ = ["Partition", "Product", "Scalar", "Share", "Tie", "kmeans"]
