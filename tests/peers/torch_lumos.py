"""Lumos I2I in plain PyTorch: the peer of tests and benchmarks.

A compact restatement, in our own words, of the network that the authors of
Lumos (arXiv 2412.07767) released for inference, with the names and shapes of
its checkpoints (15 + 16 L entries; 463 for XL/2). Where the official code
has a choice of attention back ends, this one has PyTorch's
`scaled_dot_product_attention`, the fastest of them on a CPU.

Latents are NCHW here, as PyTorch has them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def sincos_table(width: int, rows: int, columns: int, base: int) -> Tensor:
    """Fixed positions, float32 (1, rows * columns, width).

    Channels are [sin column | cos column | sin row | cos row].
    """
    quarter = width // 4
    omega = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row = torch.arange(rows, dtype=torch.float64) * base / rows
    column = torch.arange(columns, dtype=torch.float64) * base / columns
    row_of, column_of = torch.meshgrid(row, column, indexing="ij")
    parts = []
    for position in (column_of, row_of):
        angles = position.reshape(-1, 1) * omega
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)[None].float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D) * (1 + scale) + shift, both (B, 1, D)."""
    return x * (1 + scale) + shift


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel size."""

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """256 sinusoids, cosines first, then two linear layers."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, timestep: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        index = torch.arange(128, dtype=torch.float32, device=timestep.device)
        angles = timestep[:, None].float() * torch.exp(
            -math.log(10_000) * index / 128
        )
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class Mlp(nn.Module):
    """Linear, GELU (tanh), linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class CaptionEmbedder(nn.Module):
    """Condition projection; the null token is a random, untrained buffer."""

    def __init__(self, inputs: int, width: int, tokens: int):
        super().__init__()
        self.y_proj = Mlp(inputs, width, width)
        null = torch.randn(tokens, inputs) / inputs**0.5
        self.register_buffer("y_embedding", null)

    def forward(self, y: Tensor, drop: Tensor | None = None) -> Tensor:
        """(B, M, c) -> (B, M, D); drop bool (B,) puts the null token in."""
        if drop is not None:
            y = torch.where(drop[:, None, None], self.y_embedding, y)
        return self.y_proj(y)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Fused qkv, rows [q | k | v]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = (_heads(a, self.heads) for a in self.qkv(x).chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Queries from the image, keys and values from the condition.

    `shortcut` leaves q and k out where there is a single token, which
    changes nothing in the result. The official code has no such shortcut.
    """

    def __init__(self, width: int, heads: int, shortcut: bool):
        super().__init__()
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.heads = heads
        self.shortcut = shortcut

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, D), y (B, M, D), mask bool (B, M) -> (B, N, D)."""
        if self.shortcut and y.shape[1] == 1 and mask is None:
            weight, bias = self.kv_linear.weight, self.kv_linear.bias
            half = x.shape[-1]
            return self.proj(F.linear(y, weight[half:], bias[half:]))
        q = _heads(self.q_linear(x), self.heads)
        k, v = (_heads(a, self.heads) for a in self.kv_linear(y).chunk(2, -1))
        full = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=full)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """adaLN-zero halves around a cross-attention with no norm and no gate."""

    def __init__(self, width: int, heads: int, shortcut: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(width, heads)
        self.cross_attn = CrossAttention(width, heads, shortcut)
        self.mlp = Mlp(width, 4 * width, width)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(width, 6 * width)
        )

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, mask: Tensor | None
    ) -> Tensor:
        """x (B, N, D), t (B, D), y (B, M, D) -> (B, N, D)."""
        modulation = self.adaLN_modulation(t)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        x = x + gate1 * self.attn(modulate(self.norm(x), shift1, scale1))
        x = x + self.cross_attn(x, y, mask)
        return x + gate2 * self.mlp(modulate(self.norm(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Norm modulated by a table plus the raw time embedding."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, outputs)
        table = torch.randn(2, width) / width**0.5
        self.scale_shift_table = nn.Parameter(table)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, N, D), t (B, D) -> (B, N, outputs)."""
        shift, scale = (self.scale_shift_table + t[:, None]).chunk(2, dim=1)
        return self.linear(modulate(self.norm(x), shift, scale))


class TorchLumos(nn.Module):
    """The whole network; weights are PyTorch's default initialisation.

    Args:
      depth, width, heads, patch: as in `i2i_prior.models.dit.DiTConfig`.
      input_size: side of the latent the position buffer is made for; other
        grids get theirs on the fly.
      channels: latent channels C; the output has 2C.
      condition_width: c, channels of a condition token.
      tokens: M, rows of the null-token buffer.
      shortcut: see `CrossAttention`.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 1152,
        heads: int = 16,
        patch: int = 2,
        input_size: int = 32,
        channels: int = 4,
        condition_width: int = 768,
        tokens: int = 1,
        shortcut: bool = False,
    ):
        super().__init__()
        self.base, self.patch, self.width = input_size // patch, patch, width
        self.x_embedder = PatchEmbed(channels, width, patch)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = CaptionEmbedder(condition_width, width, tokens)
        table = sincos_table(width, self.base, self.base, self.base)
        self.register_buffer("pos_embed", table)
        self.blocks = nn.ModuleList(
            Block(width, heads, shortcut) for _ in range(depth)
        )
        self.final_layer = FinalLayer(width, patch**2 * 2 * channels)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Tensor:
        """The raw output, (B, 2C, H, W).

        Args:
          x: (B, C, H, W).
          timestep: (B,) on the scale 0..1000.
          y: (B, M, c).
          mask: bool (B, M), true where a token counts.
          drop: bool (B,), true where the null token replaces y.
        """
        patch = self.patch
        rows, columns = x.shape[2] // patch, x.shape[3] // patch
        table = self.pos_embed
        if (rows, columns) != (self.base, self.base):
            table = sincos_table(self.width, rows, columns, self.base)
        x = self.x_embedder(x) + table
        t = self.t_embedder(timestep)
        y = self.y_embedder(y, drop)
        for block in self.blocks:
            x = block(x, t, y, mask)
        x = self.final_layer(x, t)
        x = x.unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, -1))
        x = x.permute(0, 5, 1, 3, 2, 4)  # b h w p q c -> b c h p w q
        return x.flatten(4, 5).flatten(2, 3)
