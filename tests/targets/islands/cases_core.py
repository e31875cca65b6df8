"""Core operators that PyTorch's own functions do not lead to: called by their names."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.targets.islands.sweep import Case

aten = torch.ops.aten

X, VOLUME = torch.randn(2, 3, 4, 6), torch.randn(1, 2, 3, 4, 5)
W, B, MEAN, VAR = torch.randn(3), torch.randn(3), torch.randn(3), torch.rand(3) + 0.5
COUNTS = torch.arange(-6, 6).reshape(3, 4)
TOKENS, OFFSETS = torch.tensor([4, 0, 2, 2, 1]), torch.tensor([0, 2])


def _of_spectrum(x: Tensor, y: Tensor) -> Tensor:
    found: Tensor = aten._fft_c2r.default(torch.complex(x, y), [1], 2, 8)
    return found


CASES = [
    Case("core/adaptive_avg_pool1d", lambda x: aten.adaptive_avg_pool1d.default(x[0], [4]), (X,)),
    Case("core/alias", lambda x: aten.alias.default(x) + 1, (X,)),
    Case("core/any-dims", lambda x: aten.any.dims(x > 0, [1, -1], True), (X,)),
    Case("core/avg_pool1d", lambda x: aten.avg_pool1d.default(x[0], [3], [2], [1], True, False), (X,)),
    Case("core/batch_norm", lambda x: aten._native_batch_norm_legit.no_stats(x, W, B, True, 0.1, 1e-3)[0], (X,)),
    Case(
        "core/batch_norm-statistics",
        lambda x: aten._native_batch_norm_legit.default(x, W, B, MEAN.clone(), VAR.clone(), False, 0.1, 1e-3)[0],
        (X,),
    ),
    Case(
        "core/batch_norm-inference",
        lambda x: aten._native_batch_norm_legit_no_training.default(x, W, B, MEAN, VAR, 0.1, 1e-3)[0],
        (X,),
    ),
    Case("core/bitwise_and", lambda n: aten.bitwise_and.Scalar(n, 6), (COUNTS,)),
    Case("core/bitwise_or", lambda n: aten.bitwise_or.Scalar(n, 6), (COUNTS,)),
    Case("core/bitwise_xor", lambda n: aten.bitwise_xor.Scalar(n, -6), (COUNTS,)),
    Case("core/copy", lambda x, y: aten.copy.default(x, y), (X, X[:, :1] + 1)),
    Case("core/copy-type", lambda x, n: aten.copy.default(x, n), (torch.randn(3, 4), COUNTS)),
    Case("core/div", lambda x: aten.div.Scalar(x, 3), (X,)),
    Case("core/div-integers", lambda n: aten.div.Scalar(n, 3), (COUNTS,)),
    Case("core/div-floor", lambda x: aten.div.Scalar_mode(x, -0.3, rounding_mode="floor"), (X,)),
    Case("core/div-trunc", lambda n: aten.div.Scalar_mode(n, -5, rounding_mode="trunc"), (COUNTS,)),
    Case(
        "core/embedding_bag",
        lambda w, i, o: aten._embedding_bag.default(w, i, o)[0],
        (W[:, None] * X[0, :, 0], TOKENS % 3, OFFSETS),
    ),
    Case("core/fft_c2r", _of_spectrum, (torch.randn(2, 5), torch.randn(2, 5))),
    Case("core/fill", lambda x: aten.fill.Scalar(x, 2.5), (X,)),
    Case("core/full", lambda x: x + aten.full.default([4, 1], 2.5), (X,)),
    Case("core/full_like", lambda x: aten.full_like.default(x, float("-inf")), (X,)),
    Case("core/full_like-type", lambda x: aten.full_like.default(x, 3, dtype=torch.int64), (X,)),
    Case("core/zeros_like", lambda x: torch.zeros_like(x) + torch.ones_like(x), (X,)),
    Case("core/masked_scatter", lambda x, y: aten.masked_scatter.default(x, x > 0, y), (X, X + 1), special=False),
    Case("core/native_dropout", lambda x: aten.native_dropout.default(x, 0.5, False)[0], (X,)),
    Case("core/pdist", lambda x: aten._pdist_forward.default(x, 2.0), (torch.randn(4, 5),), special=False),
    Case("core/reflection_pad3d", lambda x: aten.reflection_pad3d.default(x, [1, 2, 0, 1, 1, 1]), (VOLUME,)),
    Case("core/replication_pad3d", lambda x: aten.replication_pad3d.default(x, [1, 2, 0, 1, 3, 1]), (VOLUME,)),
    Case(
        "core/slice_scatter", lambda x, y: aten.slice_scatter.default(x, y, 3, -5, 6, 2), (X, torch.randn(2, 3, 4, 3))
    ),
    Case("core/squeeze", lambda x: aten.squeeze.dims(x[:, :1, None], [1, -1, 2]), (X,)),
    Case("core/sub", lambda x: aten.sub.Scalar(x, 2.5, 2), (X,)),
    Case("core/sub-integers", lambda n: aten.sub.Scalar(n, 2, 3), (COUNTS,)),
    Case("core/upsample_bilinear2d", lambda x: aten.upsample_bilinear2d.vec(x, None, False, [1.5, 2.0]), (X,)),
    Case("core/upsample_nearest2d", lambda x: aten.upsample_nearest2d.vec(x, [5, 7], None), (X,)),
    Case("core/var", lambda x: aten.var.dim(x, [1, 3], False, True), (X,)),
]
