"""Operators on whole tensors: reductions, sorting, reading and writing by index, moves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.targets.islands.sweep import Case

X = torch.randn(2, 3, 4, 6)
COUNTS = torch.arange(12).reshape(3, 4) - 5
ROWS, COLUMNS = torch.tensor([0, 1, -1]), torch.tensor([[2], [0]])
PLACES = torch.randint(0, 3, (2, 2, 4, 6))

_ALL = "sum mean prod amax amin std var any all argmax argmin max min norm nansum median count_nonzero aminmax".split()
_DIM = (
    "sum mean prod amax amin std var any all argmax argmin max min logsumexp nansum median nanmedian mode var_mean "
    "std_mean cumsum cumprod cummax cummin logcumsumexp softmax log_softmax aminmax count_nonzero"
).split()
_KEEP = "sum mean amax amin std var any all argmax argmin max min logsumexp var_mean".split()
_INTEGERS = "sum amax max any all argmax cumsum cumprod prod sort".split()
_PADDINGS = ("constant", "reflect", "replicate", "circular")


def _generated() -> Iterator[Case]:
    for name in _ALL:
        yield Case(f"reduce/{name}", getattr(torch, name), (X,))
    for name in _DIM:
        yield Case(f"reduce-dim/{name}", partial(getattr(torch, name), dim=1), (X,), special="_" not in name)
    for name in _KEEP:
        yield Case(
            f"reduce-keep/{name}", partial(getattr(torch, name), dim=-1, keepdim=True), (X,), special="_" not in name
        )
    for name in _INTEGERS:
        yield Case(f"reduce-integers/{name}", partial(getattr(torch, name), dim=1), (COUNTS,))
    for mode in _PADDINGS:
        yield Case(f"pad/{mode}", lambda x, m=mode: F.pad(x, (1, 2, 0, 1), mode=m), (X,))
    for p in (0, 1, 2, 3, float("inf"), float("-inf")):
        yield Case(f"norm/{p}", lambda x, p=p: torch.linalg.vector_norm(x, p, dim=(1, 2)), (X,))
        yield Case(f"distance/{p}", lambda x, y, p=p: torch.cdist(x, y, p=p), _two(), special=False)


def _two() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 5, 8), torch.randn(2, 6, 8)


def _slice_written(x: Tensor) -> Tensor:
    found = x.clone()
    found[:, -2:, ::2] = 0.5
    return found


CASES = [
    *_generated(),
    Case("reduce/two-axes", lambda x: x.sum((1, 2)), (X,)),
    Case("reduce/images", lambda x: x.mean((2, 3), keepdim=True), (X,)),
    Case("reduce/of-bool", lambda x: (x > 0).sum(1), (X,)),
    Case("reduce/population", lambda x: torch.var(x, dim=1, correction=0), (X,)),
    Case("norm/normalize", lambda x: F.normalize(x, dim=1), (X,)),
    Case("norm/cosine", F.cosine_similarity, (X, X + 1)),
    Case("norm/pairwise", F.pairwise_distance, (torch.randn(5, 8), torch.randn(5, 8))),
    Case("norm/renorm", lambda x: torch.renorm(x, 2, 0, 1.0), (X,)),
    Case("order/topk", lambda x: x.topk(3, 1), (torch.randn(2, 8, 3),), special=False),
    Case("order/topk-values", lambda x: x.topk(3, 1)[0], (torch.randn(2, 8, 3),)),
    Case("order/topk-smallest", lambda x: x.topk(3, -1, largest=False)[0], (torch.randn(2, 8, 5),)),
    Case("order/sort", lambda x: x.sort(1), (X,), special=False),
    Case("order/sort-values", lambda x: x.sort(1)[0], (X,)),
    Case("order/sort-descending", lambda x: x.sort(-1, descending=True)[0], (X,)),
    Case("order/sort-stable", lambda x: torch.sort(x, dim=1, stable=True), (X,)),
    Case("order/argsort", lambda x: x.argsort(1), (X,), special=False),
    Case("order/kthvalue", lambda x: x.kthvalue(2), (X,)),
    Case("order/searchsorted", lambda x: torch.searchsorted(torch.arange(5.0), x), (X,)),
    Case("order/bucketize", lambda x: torch.bucketize(x, torch.arange(5.0)), (X,)),
    Case("order/bucketize-right", lambda x: torch.bucketize(x, torch.arange(5.0), right=True), (X,)),
    Case("index/below-zero", lambda x: x[:, [-1, 0]], (X,)),
    Case("index/rows", lambda x, i: x[i], (torch.randn(3, 5), ROWS)),
    Case("index/pairs", lambda x, i, j: x[i, j], (torch.randn(3, 5), ROWS, COLUMNS)),
    Case("index/apart", lambda x, i, j: x[:, i, :, j], (X, ROWS, ROWS)),
    Case("index/select", lambda x, i: x.index_select(1, i), (X, ROWS.abs())),
    Case("index/gather", lambda x, i: x.gather(1, i), (X, PLACES)),
    Case("index/gather-part", lambda x, i: x.gather(1, i), (X, PLACES[:1, :, :3])),
    Case("index/take", lambda x, i: x.take(i), (X, ROWS)),
    Case("index/take-along", lambda x, i: torch.take_along_dim(x, i, 1), (X, PLACES)),
    Case("index/embedding", lambda w, i: F.embedding(i, w), (torch.randn(30, 8), PLACES[0])),
    Case("index/unbounded", lambda x: x[:, -1, -2:], (X,)),
    *(
        Case(
            f"index/bag-{mode}", lambda w, i, m=mode: F.embedding_bag(i, w, mode=m), (torch.randn(30, 8), PLACES[0, 0])
        )
        for mode in ("mean", "sum", "max")
    ),
    Case("write/scatter", lambda x, i, s: x.scatter(1, i, s), (X, PLACES[:, :1], X + 1)),
    Case("write/scatter-number", lambda x, i: x.scatter(1, i, 2.0), (X, PLACES)),
    Case("write/scatter-add", lambda x, i, s: x.scatter_add(1, i, s), (X, PLACES, X + 1)),
    Case("write/scatter-reduce", lambda x, i, s: x.scatter_reduce(1, i, s, "amax"), (X, PLACES, X + 1)),
    Case("write/index-put", lambda x, i, v: x.index_put((i,), v), (torch.randn(5, 3), ROWS, torch.randn(3, 3))),
    Case(
        "write/index-put-added",
        lambda x, i, v: x.index_put((i,), v, accumulate=True),
        (torch.randn(5, 3), ROWS, torch.randn(3, 3)),
    ),
    Case("write/index-add", lambda x, i, v: x.index_add(0, i, v), (torch.randn(5, 3), ROWS.abs(), torch.randn(3, 3))),
    Case("write/slice", _slice_written, (X,)),
    Case("write/select", lambda x, y: torch.select_scatter(x, y, 1, -1), (X, torch.randn(2, 4, 6))),
    Case("move/slice", lambda x: x[:, 1:, ::2], (X,)),
    Case("move/slice-from-end", lambda x: x[:, -2:, :-1], (X,)),
    Case("move/select-last", lambda x: x[:, -1], (X,)),
    Case("move/cat", lambda x, y: torch.cat([x, y], 1), (X, X + 1)),
    Case("move/cat-last", lambda x, y: torch.cat([x, y], -1), (X, X + 1)),
    Case("move/stack", lambda x, y: torch.stack([x, y], -1), (X, X + 1)),
    Case("move/roll", lambda x: x.roll((1, -2), (1, 2)), (X,)),
    Case("move/roll-flat", lambda x: x.roll(1), (X,)),
    Case("move/flip", lambda x: x.flip(1, 3), (X,)),
    Case("move/rot90", lambda x: torch.rot90(x, 1, (2, 3)), (X,)),
    Case("move/repeat", lambda x: x.repeat(2, 1, 1, 3, 1), (X,)),
    Case("move/repeat-interleave", lambda x: x.repeat_interleave(2, 1), (X,)),
    Case("move/expand", lambda x: x[:, :1].expand(-1, 5, -1, -1) + 0, (X,)),
    Case("move/permute", lambda x: x.permute(0, 2, 3, 1), (X,)),
    Case("move/squeeze", lambda x: x[:, :1].squeeze(), (X,)),
    Case("move/unfold", lambda x: x.unfold(-1, 3, 2), (X,)),
    Case("move/im2col", lambda x: F.unfold(x, 2, stride=2), (X,)),
    Case("move/col2im", lambda x: F.fold(x, (4, 6), 2, stride=2), (torch.randn(2, 12, 6),)),
    Case("move/col2im-overlapping", lambda x: F.fold(x, (4, 6), 3, padding=1), (torch.randn(2, 18, 24),)),
    Case("move/tril", lambda x: x.tril(-1), (X,)),
    Case("move/triu", lambda x: x.triu(1), (X,)),
    Case("move/diagonal", lambda x: x.diagonal(1, 2, 3), (X,)),
    Case("move/diag-embed", torch.diag_embed, (X,)),
    Case("move/split", lambda x: torch.split(x, [1, 2], 1), (X,)),
    Case("move/chunk", lambda x: torch.chunk(x, 3, 1), (X,)),
    Case("move/unbind", lambda x: torch.unbind(x, 1), (X,)),
    Case("move/meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="xy"), (torch.randn(3), torch.randn(4))),
    Case("move/pixel-shuffle", lambda x: F.pixel_shuffle(x, 2), (torch.randn(1, 8, 3, 3),)),
    Case("move/channel-shuffle", lambda x: F.channel_shuffle(x, 2), (torch.randn(1, 8, 3, 3),)),
    Case("pad/negative", lambda x: F.pad(x, (-1, 2)), (X,)),
    Case("pad/number", lambda x: F.pad(x, (1, 2, 0, 1), value=2.0), (X,)),
    Case("make/one-hot", lambda i: F.one_hot(i, 10), (PLACES[0, 0],)),
    Case("make/arange", lambda x: x + torch.arange(6), (X,)),
    Case("make/isin", torch.isin, (COUNTS, COUNTS[:1])),
    Case("make/diff", torch.diff, (X,)),
    Case("make/trapezoid", torch.trapezoid, (X,)),
    Case("make/histogram", torch.histc, (X,)),
]
