"""A BERT encoder (Devlin et al. 2019, arXiv:1810.04805) of MiniLM-L6-H384's size (Wang et al. 2020, arXiv:2002.10957).

Attention is torch's fused function, with an additive mask from `Bert` and without any from `BertEncoder`, which starts
at the hidden states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

EPS = 1e-12

# What BERT's own code adds to the scores of padding.
MASKED = -10000.0


class SelfAttention(nn.Module):
    """Multi-head self-attention: shape (N, L, width) is kept; the mask (N, 1, 1, L), if any, is added to the scores."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(N, L, width) -> (N, heads, L, width / heads)."""
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y


class Layer(nn.Module):
    """Attention and perceptron, each with a layer norm after its shortcut: shape (N, L, width) is kept."""

    def __init__(self, width: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.intermediate = nn.Linear(width, ratio * width)
        self.output = nn.Linear(ratio * width, width)
        self.output_norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        y: Tensor = self.dropout(self.output(gelu(self.intermediate(x))))
        out: Tensor = self.output_norm(x + y)
        return out


class BertEncoder(nn.Module):
    """The layers alone, for hidden states (N, L, width): 10,646,784 parameters by default."""

    def __init__(self, width: int = 384, depth: int = 6, heads: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Bert(nn.Module):
    """Token ids and attention mask, int64 (N, L) each, to hidden states (N, L, width): 22,565,376 parameters.

    The mask is 1 at a token, 0 at padding. There is one segment, and no pooler.
    """

    def __init__(
        self,
        vocabulary: int = 30522,
        positions: int = 512,
        width: int = 384,
        depth: int = 6,
        heads: int = 12,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Embedding(positions, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.encoder = BertEncoder(width, depth, heads)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        position = torch.arange(ids.shape[1], device=ids.device)
        x: Tensor = self.words(ids) + self.positions(position) + self.segments(torch.zeros_like(ids))
        x = self.norm(x)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * MASKED
        y: Tensor = self.encoder(x, mask)
        return y
