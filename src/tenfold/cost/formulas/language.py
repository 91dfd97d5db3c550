"""Language models: parameters and multiply-adds from their published shapes, adapters, experts, speculation."""

from __future__ import annotations

from tenfold.cost.formulas.attention import attention_macs, encoder_layer_macs


def bert_params(
    layers: int, width: int, *, words: int = 30522, positions: int = 512, types: int = 2, hidden: int | None = None
) -> int:  # fmt: skip
    """An encoder with its embeddings and its pooler (Devlin et al. 2019): 109,482,240 for BERT-Base."""
    embeddings = (words + positions + types) * width + 2 * width
    return embeddings + layers * transformer_layer_params(width, hidden) + width * width + width


def albert_params(
    width: int, *, words: int = 30000, embedding: int = 128, positions: int = 512, types: int = 2,
    hidden: int | None = None, groups: int = 1,
) -> int:  # fmt: skip
    """All layers share one set of weights and the embedding is V×E + E×H (Lan et al. 2020, section 3.1).

    Parameters fall, arithmetic does not: every layer still runs.
    """
    embeddings = (words + positions + types) * embedding + 2 * embedding + embedding * width + width
    return embeddings + groups * transformer_layer_params(width, hidden) + width * width + width


def transformer_layer_params(width: int, hidden: int | None = None) -> int:
    """Attention 4·(d² + d), two linear layers with biases, and two norms: 12·d² + 13·d where hidden = 4·d."""
    hidden = 4 * width if hidden is None else hidden
    return 4 * (width * width + width) + 2 * width * hidden + hidden + width + 4 * width


def bert_macs(tokens: int, layers: int, width: int, *, hidden: int | None = None) -> int:
    """Every layer on n tokens, and the pooler on one."""
    hidden = 4 * width if hidden is None else hidden
    return layers * encoder_layer_macs(tokens, width, hidden) + width * width


def gpt2_params(layers: int, width: int, *, words: int = 50257, positions: int = 1024) -> int:
    """Tied embeddings, layers with biases and a last norm (Radford et al. 2019): 124,439,808 for the smallest."""
    return (words + positions) * width + layers * transformer_layer_params(width) + 2 * width


def gpt2_macs(tokens: int, layers: int, width: int, *, words: int = 50257) -> int:
    """Dense attention; logits for every token."""
    return layers * encoder_layer_macs(tokens, width, 4 * width) + tokens * width * words


def llama_layer_weights(
    width: int, hidden: int, heads: int, kv_heads: int, head_dim: int | None = None
) -> int:
    """Queries and output, keys and values of `kv_heads`, and three matrices of the gated MLP (Touvron et al. 2023)."""
    head_dim = width // heads if head_dim is None else head_dim
    return 2 * width * head_dim * (heads + kv_heads) + 3 * width * hidden


def llama_params(
    layers: int, width: int, hidden: int, heads: int, kv_heads: int, words: int, *, tied: bool = False
) -> int:
    """Layers with two norms each, a last norm, embedding and head (one matrix where `tied`)."""
    layer = llama_layer_weights(width, hidden, heads, kv_heads) + 2 * width
    return layers * layer + width + (1 if tied else 2) * words * width


def llama_macs(
    tokens: int, layers: int, width: int, hidden: int, heads: int, kv_heads: int, words: int
) -> int:
    """Every weight of a layer once a token, dense attention, logits for every token."""
    layer = tokens * llama_layer_weights(width, hidden, heads, kv_heads) + attention_macs(tokens, width)
    return layers * layer + tokens * width * words


def mamba_layer_macs(
    tokens: int, width: int, *, state: int = 16, conv: int = 4, expand: int = 2, rank: int | None = None
) -> int:
    """The products of a Mamba block: in, convolution, x to (Δ, B, C), Δ, and out (Gu & Dao 2023, section 3.4).

    The scan's work is elementwise (`mamba_scan_flops`). rank = ⌈d/16⌉ unless told.
    """
    inner = expand * width
    rank = -(-width // 16) if rank is None else rank
    return tokens * (
        width * 2 * inner + inner * conv + inner * (rank + 2 * state) + rank * inner + inner * width
    )


def mamba_layer_params(
    width: int, *, state: int = 16, conv: int = 4, expand: int = 2, rank: int | None = None
) -> int:
    """As the products, with biases of the convolution and of Δ, A and D; the norm before the block apart."""
    inner = expand * width
    rank = -(-width // 16) if rank is None else rank
    products = width * 2 * inner + inner * conv + inner * (rank + 2 * state) + rank * inner + inner * width
    return products + inner + inner + inner * state + inner


def mamba_scan_flops(tokens: int, width: int, *, state: int = 16, expand: int = 2) -> int:
    """9 operations for each token, channel and state (Gu & Dao 2023, appendix D): O(n), and O(1) memory a step."""
    return 9 * tokens * expand * width * state


def forward_flops_per_token(params: int) -> int:
    """2·N, embeddings and attention apart (Kaplan et al. 2020, section 2.1)."""
    return 2 * params


def training_flops(params: int, tokens: int) -> int:
    """6·N·D: forward 2, backward 4 (Kaplan et al. 2020, section 2.1)."""
    return 6 * params * tokens


def experts_params(shared: int, expert: int, experts: int, chosen: int) -> tuple[int, int]:
    """(all, active on a token) of a mixture of experts: Mixtral 8×7B has 46.7 G and 12.9 G (Jiang et al. 2024)."""
    return shared + experts * expert, shared + chosen * expert


def lora_params(outputs: int, inputs: int, rank: int) -> int:
    """B (outputs × r) and A (r × inputs) (Hu et al. 2022, section 4.1)."""
    return rank * (outputs + inputs)


def lora_ratio(outputs: int, inputs: int, rank: int) -> float:
    """How many times fewer parameters train: 128 for a 4096×4096 matrix at rank 16."""
    return outputs * inputs / lora_params(outputs, inputs, rank)


def speculative_tokens(acceptance: float, drafted: int) -> float:
    """Expected tokens of one pass of the large model: (1 − α^(γ+1)) / (1 − α) (Leviathan et al. 2023, equation 1)."""
    if acceptance == 1:
        return drafted + 1
    return (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


def speculative_speedup(acceptance: float, drafted: int, draft_cost: float) -> float:
    """Tokens of one pass over its cost γ·c + 1, with c the draft's time over the large model's (theorem 3.8)."""
    return speculative_tokens(acceptance, drafted) / (drafted * draft_cost + 1)
