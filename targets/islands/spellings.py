"""Operators in terms of others: torch's own decompositions beyond the core ones, and ours.

select(x, 1, -1)        =>   squeeze(slice(x, 1, n - 1, n), 1)
batch_norm(x, ...)      =>   torch's decomposition: mean, variance, differences
cdist(a, b, p=2)        =>   sqrt(sum((a[:, None] - b[None]) ** 2))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions

from fxquant import recurrences

aten, real = torch.ops.aten, torch.ops.fxquant

# Beside the core table: operators that TVM gets wrong or does not know.
TORCHS_OWN: dict[Any, Callable[..., Any]] = get_decompositions(
    [
        aten.native_batch_norm,
        aten._native_batch_norm_legit,
        aten._native_batch_norm_legit_no_training,
        aten.native_group_norm,
        aten._adaptive_avg_pool2d,
        aten._adaptive_avg_pool3d,
        aten.upsample_nearest1d,
        aten.upsample_nearest2d,
        aten.upsample_nearest3d,
        aten.addmv,
        aten._trilinear,
        aten.addmm,
        aten.baddbmm,
        aten.logaddexp,
        aten.select_scatter,
        aten.max_unpool2d,
        aten.max_unpool3d,
        aten.index_add,
        aten.index_copy,
    ]
)
# The core table spells these by differences, or by copies that are slower than one step of ours.
WITHOUT_DECOMPOSITION: tuple[Any, ...] = (
    aten.upsample_linear1d.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_trilinear3d.default,
    aten.upsample_bicubic2d.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.isfinite.default,
    aten.softshrink.default,
)


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    place = index % x.shape[dim]
    found: Tensor = aten.squeeze.dim(aten.slice.Tensor(x, dim, place, place + 1), dim)
    return found


def _slice(x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    first, last, step = slice(start, end, step).indices(x.shape[dim])
    found: Tensor = aten.slice.Tensor(x, dim, first, max(last, first), step)
    return found


def _index_put(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """A mask with one value is a choice between the two."""
    if not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
        found: Tensor = aten.index_put.default(x, indices, values, accumulate)
        return found
    (mask,) = indices
    assert mask is not None
    if values.numel() != 1:
        raise ValueError("index_put by a mask with several values")
    mask = mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim())) != 0
    value = values.reshape(()).to(x.dtype)
    return torch.where(mask, x + value if accumulate else value, x)


def _cdist(a: Tensor, b: Tensor, p: float, _mode: int | None) -> Tensor:
    apart = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 0:
        return apart.ceil().clamp(max=1).sum(-1)
    if p == float("inf"):
        return apart.amax(-1)
    return apart.sum(-1) if p == 1 else apart.pow(p).sum(-1).pow(1 / p)


def _unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    axis = dim % x.dim()
    count = (x.shape[axis] - size) // step + 1
    starts = torch.arange(count) * step
    found: Tensor = aten.index.Tensor(x, [*[None] * axis, starts.unsqueeze(1) + torch.arange(size)])
    return found.movedim(axis + 1, -1)


def _norm(x: Tensor, p: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    size = x.abs() if dtype is None else x.to(dtype).abs()
    axes = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if abs(p) == float("inf"):
        return size.amax(axes, keepdim) if p > 0 else size.amin(axes, keepdim)
    if p == 0:
        return (size != 0).to(size.dtype).sum(axes, keepdim)
    if p == 1:
        return size.sum(axes, keepdim)
    return (size * size).sum(axes, keepdim).sqrt() if p == 2 else size.pow(p).sum(axes, keepdim).pow(1 / p)


def _searchsorted(
    edges: Tensor, x: Tensor, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """NaN goes behind all edges."""
    if sorter is not None:
        raise ValueError("searchsorted with a sorter")
    edge, value = edges.unsqueeze(-2), x.unsqueeze(-1)
    behind = (edge > value) if right or side == "right" else (edge >= value)
    return behind.logical_not().sum(-1).to(torch.int32 if out_int32 else torch.int64)


def _bucketize(x: Tensor, edges: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    return _searchsorted(edges, x, out_int32=out_int32, right=right)


def _embedding_bag(
    weight: Tensor, indices: Tensor, offsets: Tensor, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Sums (mode 0), means (1) or maxima (2) of bags of rows; a bag ends where the next one starts."""
    if padding_idx != -1:
        raise ValueError("embedding_bag with a padding_idx")
    rows, count = aten.embedding.default(weight, indices), indices.shape[0]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    starts = offsets[:-1] if include_last_offset else offsets
    ends = torch.cat([starts[1:], torch.full_like(starts[:1], count)])
    place = torch.arange(count)
    within = ((place >= starts.unsqueeze(1)) & (place < ends.unsqueeze(1))).unsqueeze(-1)
    if mode == 2:
        found = torch.where(within, rows, float("-inf")).amax(1)
        return torch.where((ends > starts).unsqueeze(1), found, 0.0), offsets, offsets, offsets
    total = torch.where(within, rows, 0.0).sum(1)
    sizes = (ends - starts).clamp(min=1).unsqueeze(1)
    return total / sizes if mode == 1 else total, offsets, offsets, offsets


def _full_like(x: Tensor, value: float, *, dtype: torch.dtype | None = None, **_places: Any) -> Tensor:
    found: Tensor = aten.full.default(list(x.shape), value, dtype=dtype or x.dtype)
    return found


def _var_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    axes = list(range(x.dim())) if dim is None else dim
    spread = aten.var.correction(x, axes, correction=correction, keepdim=keepdim)
    return spread, aten.mean.dim(x, axes, keepdim)


TORCHS_OWN.update(
    {
        aten.var_mean.correction: _var_mean,
        aten.linalg_vector_norm.default: _norm,
        aten.searchsorted.Tensor: _searchsorted,
        aten.bucketize.Tensor: _bucketize,
        # Step by step: what a recipe keeps in float is code that grows with the sequence.
        real.lstm_states.default: recurrences.lstm_states,
        real.lstm_outputs.default: recurrences.lstm_outputs,
        real.gru_states.default: recurrences.gru_states,
        real.rnn_outputs.default: recurrences.rnn_outputs,
        real.rescaled.default: recurrences.rescaled,
        aten._embedding_bag.default: _embedding_bag,
        aten._embedding_bag_forward_only.default: _embedding_bag,
        aten.addbmm.default: lambda b, x, y, *, beta=1, alpha=1: b * beta + torch.bmm(x, y).sum(0) * alpha,
    }
)


SPELLINGS: dict[Any, Callable[..., Any]] = {
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.unfold.default: _unfold,
    aten.index_put.default: _index_put,
    aten._cdist_forward.default: _cdist,
    aten.full_like.default: _full_like,
}
