"""Small networks, each with one structure that a dependency graph can get wrong, for the pruning tests."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and statistics everywhere: no zero, no one, no default that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point() or "inv_freq" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if "running_var" in name:
                tensor.copy_(0.5 + noise.square())
            elif tensor.dim() < 2 and name.endswith("weight"):
                tensor.copy_(1 + 0.3 * noise)
            elif "attn_mask" not in name:
                tensor.copy_(noise / max(tensor[0].numel() if tensor.dim() > 1 else 9.0, 1) ** 0.5)
    return model.eval()


class Residual(nn.Module):
    """A stem, one residual block with a narrower middle, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(y)))
        return self.head(x.mean((2, 3)))


class Squeezed(nn.Module):
    """An inverted residual: expand, depthwise, squeeze-and-excite, project; a flattened classifier input."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.reduce = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.project = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.depthwise(self.expand(x))))
        gate = self.excite(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return self.head(self.project(x * gate).flatten(1))


class Concatenated(nn.Module):
    """Two branches side by side, a grouped convolution over both, a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 1)
        self.mix = nn.Conv2d(12, 8, 1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(8, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(x)), torch.tanh(self.right(x))], 1)
        x = self.norm(self.grouped(self.mix(x)))
        return self.head(F.max_pool2d(x, 4).flatten(1))


class Attentive(nn.Module):
    """A class token, positions, one pre-norm attention with `num_heads` in an attribute, a gated hidden layer."""

    def __init__(self, width: int = 16, heads: int = 4, hidden: int = 12) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.embed = nn.Linear(6, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 8, width))
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1) + self.positions
        y = self.norm1(x)
        n, t, _ = y.shape
        q, k, v = self.qkv(y).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) / self.head_dim**0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, -1))
        gate, value = self.up(self.norm2(x)).chunk(2, -1)
        x = x + self.down(F.silu(gate) * value)
        return self.head(x[:, 0])


class HardCoded(nn.Module):
    """Heads written into the code: they cannot go. The hidden layer behind can."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 48)
        self.out = nn.Linear(16, 6)
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))
        return self.down(F.relu(self.up(x))).mean(1)


class Unknown(nn.Module):
    """A convolution whose channels pass an operator that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 1)
        self.after = nn.Conv2d(8, 6, 1)
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.fft(self.before(x), dim=1).real
        return self.last(F.relu(self.after(x))).mean((2, 3))


class Padded(nn.Module):
    """The parameter-free shortcut of option A: channels of zeros beside the narrower input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(F.pad(x, (0, 0, 0, 0, 2, 2)) + self.wide(x))
        return self.head(x.mean((2, 3)))


class Blocks(nn.Module):
    """A list of residual blocks, the second called with a further argument."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.up = nn.Linear(8, 12)
            self.down = nn.Linear(12, 8)

        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return x + scale * self.down(F.gelu(self.up(self.norm(x))))

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.layers = nn.ModuleList([self.Block() for _ in range(3)])
        self.tail = nn.Sequential(self.Block(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, scale=0.5)
        return self.head(self.tail(x)).mean(1)
