"""A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929; the "tiny" of DeiT, arXiv:2012.12877).

Attention is written out, matmul and softmax, where the BERT of the zoo calls torch's fused function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention, q, k and v from one projection: shape (N, tokens, width) is kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv: Tensor = self.qkv(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = ((query * self.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, tokens, width)
        y: Tensor = self.proj(mixed)
        return y


class Block(nn.Module):
    """Attention and perceptron, each behind a layer norm and beside a shortcut: shape (N, tokens, width) is kept."""

    def __init__(self, width: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class VisionTransformer(nn.Module):
    """Images (N, 3, size, size) to logits (N, classes): 5,717,416 parameters by default, 1.3 GMAC.

    Tests that need a shorter one pass a smaller `size`, `width` or `depth`; `size` is a multiple of `patch`, `width` of
    `heads`.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.patch_embed(x).flatten(2).transpose(1, 2)
        token = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat((token, patches), dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        logits: Tensor = self.head(x[:, 0])
        return logits
