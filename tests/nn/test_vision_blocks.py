"""Blocks of the vision networks: their stated costs, and their answers beside plain references."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.cost import profile
from tenfold.errors import NetworkError
from tenfold.nn import (
    BasicBlock,
    BottleneckBlock,
    ConvNeXtBlock,
    Fire,
    MergingBlock,
    MixerBlock,
    PatchEmbedding,
    PatchMerging,
    SelfAttention,
    TransformerBlock,
    WindowAttention,
    WindowBlock,
    depth_rates,
    match_tokens,
)
from tenfold.nn.windows import assemble, partition, relative_positions

# What each docstring states, with numbers put in: block, inputs, multiply-adds.
COSTS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], float]] = {
    "basic": (lambda: BasicBlock(8, 8), (torch.zeros(1, 8, 6, 6),), (9 * 8 * 8 + 9 * 8 * 8) * 36),
    "basic, strided": (
        lambda: BasicBlock(8, 16, 2),
        (torch.zeros(1, 8, 6, 6),),
        (9 * 8 * 16 + 9 * 16 * 16 + 8 * 16) * 9,
    ),
    "bottleneck, strided": (
        lambda: BottleneckBlock(16, 6, 2),
        (torch.zeros(1, 16, 6, 6),),
        16 * 6 * 36 + 9 * 36 * 9 + 4 * 36 * 9 + 4 * 16 * 6 * 9,
    ),
    "fire": (lambda: Fire(16, 4, 8), (torch.zeros(1, 16, 6, 6),), (16 * 4 + 4 * 8 + 9 * 4 * 8) * 36),
    "convnext": (
        lambda: ConvNeXtBlock(8, kernel=5, expansion=3),
        (torch.zeros(1, 8, 6, 6),),
        (25 * 8 + 2 * 3 * 64) * 36,
    ),
    "embedding": (lambda: PatchEmbedding(12, 4, 3, 8), (torch.zeros(1, 3, 12, 12),), 3 * 8 * 144),
    "merging": (lambda: PatchMerging(8), (torch.zeros(1, 6, 6, 8),), 8 * 64 * 9),
    "attention": (lambda: SelfAttention(12, 3), (torch.zeros(1, 7, 12),), 4 * 7 * 144 + 2 * 49 * 12),
    "transformer": (
        lambda: TransformerBlock(12, 3, mlp_ratio=2),
        (torch.zeros(1, 7, 12),),
        (4 + 2 * 2) * 7 * 144 + 2 * 49 * 12,
    ),
    "windows": (
        lambda: WindowAttention(12, 3, 8, window=4, shift=2),
        (torch.zeros(1, 8, 8, 12),),
        (4 * 144 + 2 * 16 * 12) * 64,
    ),
    "windows, padded": (
        lambda: WindowAttention(12, 3, 6, window=4, shift=2),
        (torch.zeros(1, 6, 6, 12),),
        (4 * 144 + 2 * 16 * 12) * 64,
    ),
    "window block": (
        lambda: WindowBlock(12, 3, 8, window=4, mlp_ratio=3),
        (torch.zeros(1, 8, 8, 12),),
        ((4 + 2 * 3) * 144 + 2 * 16 * 12) * 64,
    ),
    "mixer": (lambda: MixerBlock(9, 8, 5, 20), (torch.zeros(1, 9, 8),), 2 * 9 * 5 * 8 + 2 * 9 * 8 * 20),
    "token merging": (
        lambda: MergingBlock(12, 3, r=2, mlp_ratio=2),
        (torch.zeros(1, 8, 12), torch.ones(1, 8, 1)),
        (4 * 8 + 2 * 2 * 6) * 144 + 2 * 64 * 12 + 16 * 4,
    ),
}


@pytest.mark.parametrize("block", COSTS)
def test_a_block_costs_what_it_says(block: str) -> None:
    build, inputs, macs = COSTS[block]
    counted = profile(build(), inputs)
    assert counted.macs == macs
    assert counted.unknown == ()


def test_attention_is_that_of_pytorch() -> None:
    ours, theirs = SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.proj.weight)
        theirs.out_proj.bias.copy_(ours.proj.bias)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=0, atol=1e-6)


def naive_window_attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """Each place attends to the places that share its window and its side of the seam; place by place."""
    side, window, shift, dim = layer.side, layer.window, layer.shift, layer.head_dim
    x = F.pad(x, (0, 0, 0, side - x.shape[2], 0, side - x.shape[1]))
    qkv = layer.qkv(x).unflatten(-1, (3, layer.num_heads, dim))
    answer = torch.zeros_like(x)

    def rolled(place: int) -> tuple[int, int, bool]:
        """Window, place in it, and whether the roll carried the place over the seam."""
        moved = (place - shift) % side
        return moved // window, moved % window, place < shift

    for r in range(side):
        for c in range(side):
            (wr, ir, sr), (wc, ic, sc) = rolled(r), rolled(c)
            others = [
                (r2, c2)
                for r2 in range(side)
                for c2 in range(side)
                if (rolled(r2)[0], rolled(c2)[0]) == (wr, wc) and (rolled(r2)[2], rolled(c2)[2]) == (sr, sc)
            ]
            heads = []
            for head in range(layer.num_heads):
                q = qkv[0, r, c, 0, head]
                scores = []
                for r2, c2 in others:
                    row = (
                        (ir - rolled(r2)[1] + window - 1) * (2 * window - 1) + ic - rolled(c2)[1] + window - 1
                    )
                    scores.append(q @ qkv[0, r2, c2, 1, head] / dim**0.5 + layer.bias_table[row, head])
                values = torch.stack([qkv[0, r2, c2, 2, head] for r2, c2 in others])
                heads.append(torch.stack(scores).softmax(0) @ values)
            answer[0, r, c] = layer.proj(torch.cat(heads))
    return answer


@pytest.mark.parametrize(("side", "shift"), [(6, 0), (6, 1), (5, 1), (3, 1), (2, 1)])
@torch.no_grad()
def test_window_attention_is_attention_among_neighbours(side: int, shift: int) -> None:
    torch.manual_seed(0)
    layer = WindowAttention(6, 2, side, window=3, shift=shift)
    assert layer.shift == (shift if side > 3 else 0)
    layer.bias_table.normal_()
    x = torch.randn(1, side, side, 6)
    expected = naive_window_attention(layer, x)[:, :side, :side]
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_relative_positions_of_a_window_of_two() -> None:
    # Rows of the table of 3×3 offsets, for tokens (0,0), (0,1), (1,0), (1,1).
    assert relative_positions(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_windows_are_put_back_where_they_were(windows: int, window: int, batch: int) -> None:
    side = windows * window
    x = torch.arange(batch * side * side * 2).reshape(batch, side, side, 2)
    cut = partition(x, window)
    assert cut.shape == (batch, windows**2, window**2, 2)
    assert torch.equal(cut[:, 0].unflatten(1, (window, window)), x[:, :window, :window])
    assert torch.equal(assemble(cut, side), x)


@torch.no_grad()
def test_patch_merging_joins_columns_of_neighbours_and_pads_odd_sides() -> None:
    merging = PatchMerging(2)
    x = torch.randn(1, 3, 4, 2)
    padded = F.pad(x, (0, 0, 0, 0, 0, 1))
    for row, column in ((0, 0), (1, 1)):
        four = [padded[0, 2 * row + r, 2 * column + c] for c in range(2) for r in range(2)]
        expected = merging.reduction(merging.norm(torch.cat(four)))
        torch.testing.assert_close(merging(x)[0, row, column], expected)


def naive_matching(metric: Tensor, r: int) -> dict[int, int]:
    """Token -> the token that it merges into, by the definition: one proposal an even token, the r best accepted."""
    proposals = []
    for even in range(2, len(metric), 2):
        odds = range(1, len(metric), 2)
        similarity = {odd: float(F.cosine_similarity(metric[even], metric[odd], dim=0)) for odd in odds}
        best = max(odds, key=similarity.__getitem__)
        proposals.append((similarity[best], even, best))
    return {even: odd for _, even, odd in sorted(proposals, reverse=True)[:r]}


@given(st.integers(3, 12), st.integers(1, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_tokens_merge_with_those_most_alike(tokens: int, r: int, seed: int) -> None:
    r = min(r, (tokens - 1) // 2)
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randn(2, tokens, 4, generator=generator)
    x = torch.randn(2, tokens, 3, generator=generator)
    sums = match_tokens(metric, r).sums(x)
    assert sums.shape == (2, tokens - r, 3)
    for example in range(2):
        merged = naive_matching(metric[example], r)
        stay = [even for even in range(0, tokens, 2) if even not in merged]
        odds = range(1, tokens, 2)
        grown = [
            x[example, odd]
            + sum((x[example, even] for even in merged if merged[even] == odd), torch.zeros(3))
            for odd in odds
        ]
        expected = torch.stack([*x[example, stay], *grown])
        torch.testing.assert_close(sums[example], expected)
    torch.testing.assert_close(sums[:, 0], x[:, 0])


def test_merging_more_than_half_is_refused() -> None:
    with pytest.raises(ValueError, match="of 5 tokens, 3 cannot be merged"):
        match_tokens(torch.randn(1, 5, 4), 3)


@torch.no_grad()
def test_merging_equal_tokens_changes_nothing() -> None:
    """Proportional attention to one token of size two is attention to two equal tokens."""
    torch.manual_seed(0)
    plain, merging = TransformerBlock(12, 3), MergingBlock(12, 3, r=3)
    merging.load_state_dict(plain.state_dict())
    class_token, patches = torch.randn(2, 1, 12), torch.randn(2, 3, 12)
    x = torch.cat([class_token, patches.repeat_interleave(2, 1)], 1)
    expected = plain(plain(x))
    y, sizes = merging(x, torch.ones(2, 7, 1))
    assert y.shape == (2, 4, 12)
    assert sizes[0, :, 0].tolist() == [1, 2, 2, 2]
    merging.r = 0
    y, _ = merging(y, sizes)
    torch.testing.assert_close(y[:, 0], expected[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 1:], expected[:, 1::2], rtol=0, atol=1e-5)


def test_rates_of_stochastic_depth_grow_linearly() -> None:
    assert depth_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert depth_rates(0.3, 1) == [0]


def test_impossible_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="10 features cannot be divided among 3 heads"):
        SelfAttention(10, 3)
    with pytest.raises(ValueError, match="10 features cannot be divided among 3 heads"):
        WindowAttention(10, 3, 8)
    with pytest.raises(ValueError, match="a window of 4 cannot be shifted by 4"):
        WindowAttention(12, 3, 8, window=4, shift=4)
    with pytest.raises(ValueError, match="resolution 30 must be a multiple of patch_size 4"):
        PatchEmbedding(30, 4, 3, 8)
    with pytest.raises(ValueError, match="a hidden layer of 0 units"):
        TransformerBlock(8, 2, mlp_ratio=0.1)
    with pytest.raises(ValueError, match="cannot merge 0 tokens"):
        MergingBlock(8, 2, r=0)
    with pytest.raises(NetworkError, match="built for images of 8×8, not 8×9"):
        PatchEmbedding(8, 4, 3, 8)(torch.zeros(1, 3, 8, 9))


@pytest.mark.parametrize("sides", [(15, 15), (21, 21), (14, 21)])
def test_a_map_of_another_size_than_the_windows_were_built_for_is_named(sides: tuple[int, int]) -> None:
    block = WindowBlock(8, 2, 14, window=7, shift=3)
    words = f"WindowAttention with windows of 7×7 was built for maps of 14×14, not {sides[0]}×{sides[1]}: .*multiples of 7"
    with pytest.raises(NetworkError, match=words):
        block(torch.zeros(1, *sides, 8))
    with pytest.raises(NetworkError, match="map of 10×14 cannot be cut into windows of 7×7"):
        partition(torch.zeros(1, 10, 14, 8), 7)
