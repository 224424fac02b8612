"""DiT, SiT, REPA and multi-scale Lumos restated in plain PyTorch.

The peers of the tests of checkpoint layouts, in our own words, with the names
and shapes of the official checkpoints. Parts that Lumos shares come from
`tests.peers.torch_lumos`. Latents are NCHW.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tests.peers.torch_lumos import (
    Mlp,
    PatchEmbed,
    SelfAttention,
    TimestepEmbedder,
    TorchLumos,
    modulate,
    sincos_table,
)


class LabelEmbedder(nn.Module):
    """A table of one row a class, the last for the null class."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class NormedSelfAttention(SelfAttention):
    """Self-attention with layer-normed queries and keys of each head."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.q_norm = nn.LayerNorm(width // heads)
        self.k_norm = nn.LayerNorm(width // heads)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """adaLN-zero around attention and MLP."""

    def __init__(self, width: int, heads: int, qk_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        attention = NormedSelfAttention if qk_norm else SelfAttention
        self.attn = attention(width, heads)
        self.mlp = Mlp(width, 4 * width, width)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(width, 6 * width)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[
            :, None
        ].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(self.norm(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Norm, modulated by a linear map of SiLU(c)."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(width, 2 * width)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(self.norm(x), shift, scale))


class TorchDiT(nn.Module):
    """DiT and SiT (`sigma`), and REPA's SiT (no sigma, projectors)."""

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        input_size: int,
        classes: int,
        *,
        sigma: bool = True,
        qk_norm: bool = False,
        projector: int = 0,
    ):
        super().__init__()
        side = input_size // 2
        self.side = side
        self.x_embedder = PatchEmbed(4, width, 2)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(classes, width)
        self.pos_embed = nn.Parameter(
            sincos_table(width, side, side, side), requires_grad=False
        )
        self.blocks = nn.ModuleList(
            Block(width, heads, qk_norm) for _ in range(depth)
        )
        self.final_layer = FinalLayer(width, 4 * 4 * (2 if sigma else 1))
        if projector:
            layers = [nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, 64)]
            layers += [nn.SiLU(), nn.Linear(64, projector)]
            self.projectors = nn.ModuleList([nn.Sequential(*layers)])

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y)
        for block in self.blocks:
            x = block(x, c)
        x = self.final_layer(x, c)
        x = x.unflatten(1, (self.side, self.side)).unflatten(-1, (2, 2, -1))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class SizeEmbedder(nn.Module):
    """256 sinusoids of each number, cosines first, then an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, numbers: Tensor) -> Tensor:
        """(B, k) -> (B, k * width)."""
        index = torch.arange(128, dtype=torch.float32)
        angles = numbers.float()[..., None] * torch.exp(
            -math.log(10_000) * index / 128
        )
        embedded = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(embedded).flatten(1)


class TorchLumosMultiScale(TorchLumos):
    """Lumos' multi-scale text-to-image network."""

    def __init__(self, *arguments, base: int, scale: float, **options):
        super().__init__(*arguments, **options)
        self.csize_embedder = SizeEmbedder(self.width // 3)
        self.ar_embedder = SizeEmbedder(self.width // 3)
        self.lewei, self.base = scale, base
        side = round(self.pos_embed.shape[1] ** 0.5)
        self.pos_embed = sincos_table(self.width, side, side, base / scale)

    def forward(self, x, timestep, y, mask, size, aspect) -> Tensor:
        patch = self.patch
        rows, columns = x.shape[2] // patch, x.shape[3] // patch
        # Positions are divided by the scale once more: base / scale.
        table = sincos_table(self.width, rows, columns, self.base / self.lewei)
        x = self.x_embedder(x) + table
        t = self.t_embedder(timestep)
        t = t + torch.cat(
            [self.csize_embedder(size), self.ar_embedder(aspect)], dim=1
        )
        y = self.y_embedder(y)
        for block in self.blocks:
            x = block(x, t, y, mask)
        x = self.final_layer(x, t)
        x = x.unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, -1))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
