"""Attention and what replaces it: multiply-adds, stored scores, traffic and cache.

n tokens of width d in h heads, one example. Products with weights are `projection_macs`; all others are the two
products of attention itself, for all heads together, whose widths add up to d.
"""

from __future__ import annotations

from math import ceil, log2


def projection_macs(tokens: int, width: int, *, heads: int = 1, kv_heads: int | None = None) -> int:
    """Queries, keys, values and the output: 2·n·d·(d + d·G/H) for G key-value heads of H."""
    kv_width = width if kv_heads is None else width * kv_heads // heads
    return 2 * tokens * width * (width + kv_width)


def projections(heads: int, kv_heads: int) -> int:
    """Separate projections to queries, keys and values: 24 for 8 heads, 10 where they share keys and values."""
    return heads + 2 * kv_heads


def attention_macs(tokens: int, width: int, *, keys: int | None = None) -> int:
    """QKᵀ and the product with V, densely: 2·n·m·d for m keys (m = n unless told), however many heads share keys."""
    return 2 * tokens * (tokens if keys is None else keys) * width


def causal_macs(tokens: int, width: int) -> int:
    """The useful part under a causal mask: n·(n + 1)·d, half of the dense count and half a diagonal."""
    return tokens * (tokens + 1) * width


def encoder_layer_macs(tokens: int, width: int, hidden: int) -> int:
    """A Transformer layer with full attention: 4·n·d² + 2·n²·d + 2·n·d·hidden (Vaswani et al. 2017)."""
    return projection_macs(tokens, width) + attention_macs(tokens, width) + 2 * tokens * width * hidden


def window_macs(tokens: int, width: int, left: int, right: int = 0) -> int:
    """Each token sees itself, `left` before it and `right` after it; the ends of the sequence see less: O(n·w)."""
    pairs = sum(min(left, i) + 1 + min(right, tokens - 1 - i) for i in range(tokens))
    return 2 * pairs * width


def strided_macs(tokens: int, width: int, stride: int) -> int:
    """Causal: the last `stride` tokens, and before them every stride-th (Child et al. 2019, Sparse Transformer).

    With stride ≈ √n it is O(n·√n).
    """
    pairs = 0
    for i in range(tokens):
        local = min(i + 1, stride)
        pairs += local + (i // stride if i >= stride else 0)
    return 2 * pairs * width


def bigbird_macs(
    tokens: int, width: int, *, block: int = 64, window: int = 3, global_: int = 2, random: int = 3
) -> int:
    """Blocks of tokens see a window, the global and some random blocks; global blocks see all (Zaheer et al. 2020)."""
    blocks = ceil(tokens / block)
    seen = min(blocks, window + global_ + random)
    return 2 * block**2 * width * (global_ * blocks + (blocks - global_) * seen)


def linear_attention_macs(tokens: int, width: int, heads: int, *, features: int | None = None) -> int:
    """φ(K)ᵀV and φ(Q) with it: 2·n·d·m for m features a head (Katharopoulos et al. 2020, where m = d/h)."""
    return 2 * tokens * width * (width // heads if features is None else features)


def performer_macs(tokens: int, width: int, heads: int, features: int) -> int:
    """Linear attention, and the random features of queries and keys: 4·n·d·m (Choromanski et al. 2021)."""
    return linear_attention_macs(tokens, width, heads, features=features) + 2 * tokens * width * features


def linformer_macs(tokens: int, width: int, rank: int) -> int:
    """Keys and values projected from n to k tokens, then attention to k: 4·n·k·d (Wang et al. 2020)."""
    return 2 * tokens * rank * width + attention_macs(tokens, width, keys=rank)


def nystrom_macs(tokens: int, width: int, heads: int, landmarks: int, *, steps: int = 6) -> int:
    """Three kernels, the inverse by `steps` of four m×m products each, and the products with V (Xiong et al. 2021)."""
    kernels = (2 * tokens * landmarks + landmarks**2) * width
    inverse = steps * 4 * heads * landmarks**3
    # (n×m · pinv) · (m×n · V), from the right for V
    products = heads * tokens * landmarks**2 + 2 * tokens * landmarks * width
    return kernels + inverse + products


def fourier_flops(tokens: int, width: int) -> float:
    """A complex transform over tokens and one over the width: 5·n·d·log2(n·d) (Lee-Thorp et al. 2022, FNet).

    These are FLOPs and no MACs: 5·N·log2 N is the count of Cooley & Tukey 1965.
    """
    return 5 * tokens * width * log2(tokens * width)


def scores_bytes(tokens: int, *, heads: int = 1, element: float = 2) -> float:
    """The n×n scores of standard attention: 32 MB a head at n = 4096 in 16 bits; FlashAttention stores none."""
    return heads * tokens**2 * element


def flash_working_bytes(rows: int, columns: int, head_dim: int, *, element: float = 2) -> float:
    """What FlashAttention keeps on chip: blocks of Q and O (rows), of K and V (columns), and of the scores in fp32."""
    return 2 * (rows + columns) * head_dim * element + 4 * rows * columns


def standard_traffic(tokens: int, head_dim: int, *, element: float = 2) -> float:
    """Bytes to and from memory of standard attention, a head: Q, K, V, O once and four passes over the scores.

    Θ(n·d + n²), Dao et al. 2022, theorem 2: S is written and read, P is written and read.
    """
    return (4 * tokens * head_dim + 4 * tokens**2) * element


def flash_traffic(tokens: int, head_dim: int, sram_bytes: float, *, element: float = 2) -> float:
    """Bytes to and from memory of FlashAttention, a head: Θ(n²·d²/M), Dao et al. 2022, theorem 2 and algorithm 1.

    K and V are read once; for each block of ⌈M/4d⌉ keys, Q is read and O read and written.
    """
    columns = ceil(sram_bytes / element / (4 * head_dim))
    passes = ceil(tokens / columns)
    return (2 * tokens * head_dim + 3 * passes * tokens * head_dim) * element


def kv_cache_bytes(
    layers: int, kv_heads: int, head_dim: int, tokens: int, *, batch: int = 1, element: float = 2
) -> float:
    """2 · layers · kv_heads · head_dim · tokens · bytes an element · batch: keys and values of every token."""
    return 2 * layers * kv_heads * head_dim * tokens * element * batch


def paging_waste(lengths: list[int], page: int) -> float:
    """The share of paged cache memory that holds no token: 1 − Σ len / (page · Σ ⌈len/page⌉) (Kwon et al. 2023)."""
    return 1 - sum(lengths) / (page * sum(ceil(length / page) for length in lengths))
