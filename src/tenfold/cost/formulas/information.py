"""How few bits weights can take: entropy, rate and distortion, rounding error, and the sizes of codes. Bits are log2."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, e, erf, log2, log10, pi, sqrt


def entropy(counts: Iterable[float]) -> float:
    """Shannon's H = −Σ p·log2 p in bits a symbol, of symbols that occur `counts` times (1948, section 6).

    It bounds codes that treat symbols one by one; a code that knows their neighbours goes below it.
    """
    occurring = [count for count in counts if count > 0]
    total = sum(occurring)
    return -sum(count / total * log2(count / total) for count in occurring) if occurring else 0.0


def gaussian_differential_entropy(deviation: float) -> float:
    """½·log2(2πe·σ²): relative to a unit of one, and no number of bits until a step size is chosen."""
    return 0.5 * log2(2 * pi * e * deviation**2)


def gaussian_entropy(deviation: float, step: float) -> float:
    """Bits a weight of a normal variable rounded to multiples of `step`, exactly summed over the cells.

    For small steps it is the differential entropy less log2(step) (Cover & Thomas 2006, theorem 8.3.1).
    """
    reach = ceil(12 * deviation / step)

    def below(x: float) -> float:
        return 0.5 * (1 + erf(x / (deviation * sqrt(2))))

    return entropy(below((k + 0.5) * step) - below((k - 0.5) * step) for k in range(-reach, reach + 1))


def gaussian_rate(variance: float, distortion: float) -> float:
    """R(D) = ½·log2(σ²/D) for D < σ², else 0: the fewest bits at mean squared error D (Shannon 1959)."""
    return max(0.0, 0.5 * log2(variance / distortion))


def gaussian_distortion(variance: float, bits: float) -> float:
    """D(R) = σ²·2^(−2R): the least mean squared error at R bits a weight; each bit gains 6.02 dB."""
    return variance * 2 ** (-2 * bits)


# A scalar uniform quantiser with ideal entropy coding lies ½·log2(2πe/12) bits above R(D) at high rate
# (Gish & Pierce 1968).
ENTROPY_CODED_GAP = 0.5 * log2(2 * pi * e / 12)


def rounding_error(step: float) -> float:
    """Mean squared error of rounding to multiples of `step`: s²/12 (Bennett 1948)."""
    return step**2 / 12


def quantized_snr_db(bits: int, *, peak_over_deviation: float) -> float:
    """Signal to rounding noise of `bits` bits over ±peak: 10·log10(σ² / (s²/12)) with s = 2·peak/2^bits."""
    step = 2 * peak_over_deviation / 2**bits
    return 10 * log10(1 / rounding_error(step))


def compression_ratio(weights: int, clusters: int, *, bits: int = 32) -> float:
    """n·b / (n·log2 k + k·b): weights that share k values, the table included (Han et al. 2016, equation 1)."""
    return weights * bits / (weights * log2(clusters) + clusters * bits)


def sparse_bits(density: float, value_bits: float, index_bits: float) -> float:
    """Bits a weight where only a share `density` is stored, each with a relative index (Han et al. 2016, section 2)."""
    return density * (value_bits + index_bits)


def pruned_entropy(density: float, value_entropy: float = 0.0) -> float:
    """Bits a weight of an ideal code: which weights remain, H(density), and the values of those that do."""
    return entropy((density, 1 - density)) + density * value_entropy


def huffman_bound(entropy_bits: float) -> tuple[float, float]:
    """A Huffman code's mean length lies in [H, H + 1) (Huffman 1952)."""
    return entropy_bits, entropy_bits + 1


def quantized_bytes(weights: int, bits: int, *, group: int | None = None, scale_bits: int = 16) -> float:
    """Bytes of `weights` integers, with one scale for every `group` of them."""
    scales = 0 if group is None else ceil(weights / group)
    return (weights * bits + scales * scale_bits) / 8
