"""Factorisation of matrices and kernels, with ranks by energy, by variational Bayes or by budget."""

from tenfold.compress.factorize.factorization import Factorize
from tenfold.compress.factorize.forms import Kernels, Linears
from tenfold.compress.factorize.ranks import Cost, Energy, Share, Vbmf

__all__ = ["Cost", "Energy", "Factorize", "Kernels", "Linears", "Share", "Vbmf"]
