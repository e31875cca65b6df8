"""Attention in every form that PyTorch has for it, each as a small network with its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.graphs import Net

BATCH, HEADS, TOKENS, WIDTH = 2, 2, 5, 8
attend = F.scaled_dot_product_attention


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Normally distributed values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heads(count: int = HEADS, tokens: int = TOKENS, seed: int = 1) -> Tensor:
    """Queries, keys or values of several heads."""
    return normal(BATCH, count, tokens, WIDTH, seed=seed)


def earlier() -> Tensor:
    """Who takes part where nobody looks ahead."""
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


def absent() -> Tensor:
    """True where a text has no token: the first one is shorter."""
    mask = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    mask[0, 3:] = True
    return mask


def ahead(value: float) -> Tensor:
    """`value` where a later token would be looked at, else 0."""
    return torch.zeros(TOKENS, TOKENS).masked_fill(~earlier(), value)


def _plain(**options: Any) -> tuple[Net, tuple[Tensor, ...]]:
    return Net(lambda m, q, k, v: attend(q, k, v, **options)), (heads(), heads(seed=2), heads(seed=3))


def _with_buffer(mask: Tensor) -> tuple[Net, tuple[Tensor, ...]]:
    return Net(lambda m, q, k, v: attend(q, k, v, attn_mask=m.mask), mask=mask), _plain()[1]


def _with_input(mask: Tensor) -> tuple[Net, tuple[Tensor, ...]]:
    return Net(lambda m, q, k, v, mask: attend(q, k, v, mask)), (*_plain()[1], mask)


def _grouped(mask: Tensor | None = None, **options: Any) -> tuple[Net, tuple[Tensor, ...]]:
    inputs = heads(6), heads(2, seed=2), heads(2, seed=3)
    return Net(lambda m, q, k, v: attend(q, k, v, mask, enable_gqa=True, **options)), inputs


def _by_hand(masked: Callable[[Tensor, Any], Tensor], **buffers: Tensor) -> tuple[Net, tuple[Tensor, ...]]:
    def forward(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = masked(q @ k.transpose(-2, -1) / math.sqrt(WIDTH), m)
        return scores.softmax(-1) @ v

    return Net(forward, **buffers), _plain()[1]


def _module(masks: dict[str, Tensor], **options: Any) -> tuple[Net, tuple[Tensor, ...]]:
    names, bare = list(masks), {"need_weights": False} | options

    def forward(m: Net, x: Tensor, *given: Tensor) -> Any:
        out, weights = m.attention(x, x, x, **dict(zip(names, given, strict=True)), **bare)
        return out if weights is None else (out, weights)

    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    return Net(forward, attention=layer), (normal(BATCH, TOKENS, WIDTH), *masks.values())


def _layer(mask: Tensor | None, missing: bool, **options: Any) -> tuple[Net, tuple[Tensor, ...]]:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, **options)
    inputs: tuple[Tensor, ...] = (normal(BATCH, TOKENS, WIDTH),)
    if missing:
        forward: Any = lambda m, x, gone: m.layer(x, src_mask=mask, src_key_padding_mask=gone)  # noqa: E731
        return Net(forward, layer=layer), (*inputs, absent())
    return Net(lambda m, x: m.layer(x, src_mask=mask), layer=layer), inputs


ATTENTIONS: dict[str, Callable[[], tuple[Net, tuple[Tensor, ...]]]] = {
    "plain": _plain,
    "dropout of nothing": lambda: _plain(dropout_p=0.0),
    "scaled": lambda: _plain(scale=0.3),
    "scaled by nothing": lambda: _plain(scale=0.0),
    "causal": lambda: _plain(is_causal=True),
    "causal and scaled": lambda: _plain(is_causal=True, scale=2.0),
    "causal, more keys": lambda: (
        Net(lambda m, q, k, v: attend(q, k, v, is_causal=True)),
        (heads(), heads(tokens=7, seed=2), heads(tokens=7, seed=3)),
    ),
    "one head": lambda: (Net(lambda m, x: attend(x, x, x, is_causal=True)), (normal(BATCH, TOKENS, WIDTH),)),
    "boolean buffer": lambda: _with_buffer(earlier()),
    "boolean buffer by head": lambda: _with_buffer(torch.stack([earlier(), earlier().flip(1, 0)])),
    "boolean input": lambda: _with_input(~absent()[:, None, None]),
    "boolean input for all": lambda: _with_input((~absent()[:, None, None]).expand(BATCH, 1, TOKENS, TOKENS)),
    "float buffer": lambda: _with_buffer(normal(TOKENS, TOKENS, seed=4)),
    "float buffer, infinite": lambda: _with_buffer(ahead(-math.inf)),
    "float buffer, lowest": lambda: _with_buffer(ahead(torch.finfo(torch.float32).min)),
    "float input": lambda: _with_input(normal(BATCH, 1, TOKENS, TOKENS, seed=4)),
    "float input, -1e4": lambda: _with_input(torch.where(absent(), -1e4, 0.0)[:, None, None]),
    "grouped": _grouped,
    "grouped, causal": lambda: _grouped(is_causal=True),
    "grouped, boolean, scaled": lambda: _grouped(earlier(), scale=0.5),
    "added by hand, -1e9": lambda: _by_hand(lambda scores, m: scores + m.mask, mask=ahead(-1e9)),
    "added by hand before scaling": lambda: _by_hand(lambda scores, m: (scores + m.mask) * 0.5, mask=ahead(-1e4)),
    "two masks by hand": lambda: _by_hand(
        lambda scores, m: scores + m.mask + m.other, mask=ahead(-1e4), other=normal(TOKENS, TOKENS, seed=5)
    ),
    "filled by hand": lambda: _by_hand(lambda scores, m: scores.masked_fill(m.mask, -math.inf), mask=~earlier()),
    "chosen by hand": lambda: _by_hand(lambda scores, m: torch.where(m.mask, scores, -1e9), mask=earlier()),
    "module": lambda: _module({}),
    "module with weights": lambda: _module({}, need_weights=True),
    "module, boolean mask": lambda: _module({"attn_mask": ~earlier()}),
    "module, float mask": lambda: _module({"attn_mask": ahead(-math.inf)}),
    "module, float mask, weights": lambda: _module({"attn_mask": ahead(-1e4)}, need_weights=True),
    "module, padding": lambda: _module({"key_padding_mask": absent()}),
    "module, padding, weights": lambda: _module({"key_padding_mask": absent()}, need_weights=True),
    "module, both": lambda: _module({"attn_mask": ~earlier(), "key_padding_mask": absent()}),
    "layer": lambda: _layer(None, False),
    "layer, causal": lambda: _layer(ahead(-math.inf), False),
    "layer, padding": lambda: _layer(None, True),
    "layer, both, norm first": lambda: _layer(~earlier(), True, norm_first=True, activation="gelu"),
}  # fmt: skip


def attention(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of this name, in eval mode, and its inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, inputs = ATTENTIONS[name]()
    return model.eval(), inputs
