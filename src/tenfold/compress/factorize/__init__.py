"""Factorisation: SVD of matrices and Tucker-2 of kernels, with ranks by energy or by budget."""

from tenfold.compress.factorize.factorization import Factorize
from tenfold.compress.factorize.ranks import Cost, Energy, Share

__all__ = ["Cost", "Energy", "Factorize", "Share"]
