"""Layers: products, pooling, norms, resampling, attention, losses and linear algebra."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.targets.islands.sweep import Case

X, IMAGE = torch.randn(2, 3, 4, 6), torch.randn(1, 3, 7, 7)
CLASSES = torch.tensor([0, 3, 1])


def _volume(dims: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *[7] * dims)


def _pooling(dims: int) -> Iterator[Case]:
    x = (_volume(dims),)
    largest, mean = getattr(F, f"max_pool{dims}d"), getattr(F, f"avg_pool{dims}d")
    adaptive = getattr(F, f"adaptive_max_pool{dims}d"), getattr(F, f"adaptive_avg_pool{dims}d")
    for name, setting in {
        "plain": {"kernel_size": 2},
        "padded": {"kernel_size": 3, "stride": 2, "padding": 1},
        "ceil": {"kernel_size": 2, "stride": 2, "ceil_mode": True},
        "padded-ceil": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    }.items():
        yield Case(f"max-pool{dims}/{name}", lambda x, s=setting: largest(x, **s), x)
        yield Case(f"avg-pool{dims}/{name}", lambda x, s=setting: mean(x, **s), x)
    yield Case(f"max-pool{dims}/dilated", lambda x: largest(x, 3, 1, 1, 2), x)
    yield Case(f"max-pool{dims}/indices", lambda x: largest(x, 2, return_indices=True), x)
    yield Case(f"avg-pool{dims}/without-padding", lambda x: mean(x, 3, 2, 1, count_include_pad=False), x)
    if dims > 1:
        yield Case(f"avg-pool{dims}/divisor", lambda x: mean(x, 3, 2, 1, divisor_override=5), x)
    for size in (1, 3):
        yield Case(f"adaptive-max{dims}/{size}", lambda x, n=size: adaptive[0](x, n), x)
        yield Case(f"adaptive-avg{dims}/{size}", lambda x, n=size: adaptive[1](x, n), x)
    yield Case(f"adaptive-max{dims}/indices", lambda x: adaptive[0](x, 3, return_indices=True), x)


def _resampling(dims: int) -> Iterator[Case]:
    x, linear = (_volume(dims),), ("linear", "bilinear", "trilinear")[dims - 1]
    for mode in ("nearest", "nearest-exact", linear):
        for name, setting in {
            "twice": {"scale_factor": 2},
            "size": {"size": [5] * dims},
            "given": {"scale_factor": 1.5},
            "recomputed": {"scale_factor": 1.7, "recompute_scale_factor": True},
        }.items():
            yield Case(f"resample{dims}/{mode}-{name}", lambda x, m=mode, s=setting: F.interpolate(x, mode=m, **s), x)
    yield Case(
        f"resample{dims}/{linear}-corners",
        lambda x: F.interpolate(x, scale_factor=2, mode=linear, align_corners=True),
        x,
    )


def _norms(dims: int) -> Iterator[Case]:
    x, w, b, mean, var = _volume(dims), *(torch.randn(3) for _ in range(3)), torch.rand(3) + 0.5
    yield Case(f"norm{dims}/batch", lambda x: F.batch_norm(x, mean, var, w, b), (x,))
    yield Case(f"norm{dims}/batch-plain", lambda x: F.batch_norm(x, mean, var), (x,))
    yield Case(f"norm{dims}/batch-training", lambda x: F.batch_norm(x, None, None, w, None, True), (x,))
    yield Case(f"norm{dims}/instance", F.instance_norm, (x,))
    yield Case(f"norm{dims}/instance-statistics", lambda x: F.instance_norm(x, mean, var, use_input_stats=False), (x,))
    yield Case(f"norm{dims}/group", lambda x: F.group_norm(x, 3, w, b), (x,))
    yield Case(f"norm{dims}/group-plain", lambda x: F.group_norm(x, 1), (x,))


def _convolutions() -> Iterator[Case]:
    for dims in (1, 2, 3):
        direct, transposed = getattr(F, f"conv{dims}d"), getattr(F, f"conv_transpose{dims}d")
        w, grouped, b = torch.randn(6, 4, *[3] * dims), torch.randn(6, 2, *[3] * dims), torch.randn(6)
        x, turned = (_volume(dims, 4),), w.transpose(0, 1).contiguous()
        yield Case(f"conv{dims}/settings", lambda x, f=direct, w=w, b=b: f(x, w, b, 2, 1, 2), x)
        yield Case(f"conv{dims}/groups", lambda x, f=direct, w=grouped: f(x, w, None, 1, 1, 1, 2), x)
        yield Case(f"conv{dims}/transposed", lambda x, f=transposed, w=turned, b=b: f(x, w, b, 2, 1, 1), x)
        yield Case(
            f"conv{dims}/transposed-groups", lambda x, f=transposed, w=turned: f(x, w[:, :3], None, 2, 1, 1, 2), x
        )
        yield Case(f"conv{dims}/transposed-dilated", lambda x, f=transposed, w=turned: f(x, w, None, 1, 0, 0, 1, 2), x)
        yield Case(f"conv{dims}/weights-computed", direct, (*x, w), special=False)
        yield Case(f"conv{dims}/unbatched", lambda x, f=direct, w=w: f(x[0], w), x)


def _grids() -> Iterator[Case]:
    x = torch.randn(1, 3, 4, 6), torch.rand(1, 5, 7, 2) * 3 - 1.5
    for mode, padding, corners in product(
        ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (True, False)
    ):
        name = f"grid/{mode}-{padding}{'-corners' if corners else ''}"
        yield Case(name, lambda x, g, m=mode, p=padding, c=corners: F.grid_sample(x, g, m, p, c), x)


def _attention(**settings: object) -> Case:
    x = tuple(torch.randn(1, 2, 5, 8) for _ in range(3))
    name = "attention/" + ("-".join(settings) or "plain")
    return Case(name, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **settings), x, special=False)  # type: ignore[arg-type]


def _products() -> Iterator[Case]:
    a, b, square = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(3, 5)
    yield Case("product/mm", torch.mm, (a[0], b[0]))
    yield Case("product/mm-integers", torch.mm, ((a[0] * 9).long(), (b[0] * 9).long()))
    yield Case("product/bmm", torch.bmm, (a, b))
    yield Case("product/matmul-broadcast", torch.matmul, (a.unsqueeze(1), torch.randn(5, 4, 2)))
    yield Case("product/matmul-vector", torch.matmul, (a, b[0, :, 0]))
    yield Case("product/dot", torch.dot, (a[0, 0], b[0, :, 0]))
    yield Case("product/outer", torch.outer, (a[0, 0], b[0, :, 0]))
    yield Case("product/addmm", lambda x, y, z: torch.addmm(z, x, y, beta=0.5, alpha=2), (a[0], b[0], square))
    yield Case("product/baddbmm", lambda x, y: torch.baddbmm(x @ y, x, y, beta=0.5, alpha=2), (a, b))
    yield Case("product/addbmm", lambda x, y, z: torch.addbmm(z, x, y, beta=0.5, alpha=2), (a, b, square))
    yield Case("product/addmv", lambda x, y: torch.addmv(x[:, 0], x, y, beta=0.5, alpha=2), (a[0], b[0, :, 0]))
    yield Case("product/addr", lambda x, y: torch.addr(x @ y, x[:, 0], y[0]), (a[0], b[0]))
    yield Case("product/einsum", lambda x, y: torch.einsum("bij,bjk->bki", x, y), (a, b))
    yield Case("product/tensordot", lambda x, y: torch.tensordot(x, y, dims=([1], [0])), (X, square))
    yield Case("product/bilinear", F.bilinear, (torch.randn(2, 3), torch.randn(2, 4), torch.randn(5, 3, 4)))
    yield Case("product/linear", F.linear, (a, torch.randn(5, 4), torch.randn(5)))
    yield Case("product/kron", torch.kron, (a[0], square))
    yield Case("product/cross", lambda x, y: torch.linalg.cross(x, y, dim=1), (X, X + 1))


def _recurrent() -> Iterator[Case]:
    x = (torch.randn(5, 1, 4),)
    for layer in (nn.LSTM(4, 3), nn.GRU(4, 3), nn.RNN(4, 3)):
        yield Case(f"recurrent/{type(layer).__name__.lower()}", lambda x, f=layer: f(x), x)
    for cell in (nn.LSTMCell(4, 3), nn.GRUCell(4, 3), nn.RNNCell(4, 3)):
        yield Case(f"recurrent/{type(cell).__name__.lower()}", lambda x, f=cell: f(x[0]), x)


CASES = [
    *(case for dims in (1, 2, 3) for family in (_pooling, _resampling, _norms) for case in family(dims)),
    *_convolutions(),
    *_grids(),
    *_products(),
    *_recurrent(),
    _attention(),
    _attention(is_causal=True),
    _attention(scale=0.3),
    Case(
        "attention/mask", lambda q, k, m: F.scaled_dot_product_attention(q, k, q, m > 0), (X, X + 1, X[..., :4]), False
    ),
    Case("resample2/bicubic", lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), (IMAGE,)),
    Case(
        "resample2/bicubic-corners", lambda x: F.interpolate(x, (10, 3), mode="bicubic", align_corners=True), (IMAGE,)
    ),
    Case("resample2/antialias", lambda x: F.interpolate(x, (4, 5), mode="bilinear", antialias=True), (IMAGE,)),
    Case("resample2/bicubic-antialias", lambda x: F.interpolate(x, (4, 5), mode="bicubic", antialias=True), (IMAGE,)),
    Case(
        "grid/volume",
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        (_volume(3)[:1], torch.rand(1, 5, 7, 2, 3)),
    ),
    Case("grid/affine", lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False), (torch.randn(2, 2, 3),)),
    Case("norm/layer", lambda x: F.layer_norm(x, (6,), X[0, 0, 0], X[1, 0, 0]), (X,)),
    Case("norm/layer-two", lambda x: F.layer_norm(x, (4, 6)), (X,)),
    Case("norm/rms", lambda x: F.rms_norm(x, (6,), X[0, 0, 0]), (X,)),
    Case("norm/group-flat", lambda x: F.group_norm(x, 2), (torch.randn(2, 4),)),
    Case("norm/local-response", lambda x: F.local_response_norm(x, 2), (X,)),
    Case("loss/nll", F.nll_loss, (torch.randn(3, 5), CLASSES)),
    Case("loss/cross-entropy", F.cross_entropy, (torch.randn(3, 5), CLASSES)),
    Case("loss/mse", F.mse_loss, (X, X + 1)),
    Case("loss/smooth-l1", F.smooth_l1_loss, (X, X + 1)),
    Case(
        "pool/unpool",
        lambda x, i: F.max_unpool2d(x, i, (2, 2)),
        (torch.randn(1, 1, 2, 2), torch.tensor([[[[0, 3], [9, 14]]]])),
    ),
    Case("algebra/inverse", torch.inverse, (torch.randn(2, 3, 3),)),
    Case("algebra/determinant", torch.det, (torch.randn(2, 3, 3),)),
    Case("algebra/svd", torch.linalg.svd, (torch.randn(2, 3, 3),)),
    Case("algebra/fft", lambda x: torch.fft.rfft(x).abs(), (torch.randn(2, 16),)),
    Case(
        "algebra/stft",
        lambda x: torch.stft(x, 16, window=torch.ones(16), return_complex=True).abs(),
        (torch.randn(2, 64),),
    ),
]
