"""Calibration split over processes: every rank observes its share, then all ranks merge all shares in rank order."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.observers.base import Observer


def all_merge(observers: Iterable[Observer]) -> None:
    """Make every rank's observers hold what one process would hold that saw rank 0's data, then rank 1's, and so on.

    All ranks call this with the same observers in the same order, in an initialized process group with a backend for
    CPU tensors (gloo). A few exchanges of plain tensors, however many observers there are.

    Raises CalibrationError, on all ranks, when their observers differ in number, kind, scheme or options.
    """
    local = list(observers)
    states = _gather(local)
    for index, observer in enumerate(local):
        merged = copy.deepcopy(observer)
        merged.load_state(states[0][index])
        share = copy.deepcopy(observer)
        for rank in states[1:]:
            share.load_state(rank[index])
            merged.merge(share)
        observer.load_state(merged.state())


def _gather(observers: Sequence[Observer]) -> list[list[dict[str, Tensor]]]:
    """States of all ranks' observers, by rank."""
    own = [observer.state() for observer in observers]
    tensors = [tensor.cpu().contiguous() for state in own for tensor in state.values()]
    kinds = zlib.crc32("\n".join(f"{o.describe()} {o.where}" for o in observers).encode())
    sizes = _exchange(torch.tensor([kinds, len(tensors)]))
    if any(not torch.equal(size, sizes[0]) for size in sizes):
        raise CalibrationError("the ranks' observers differ: build the same graph with the same recipe on every rank")
    # How many dimensions a state has is given by its kind; how long they are is not.
    shapes = _exchange(torch.tensor([length for tensor in tensors for length in tensor.shape], dtype=torch.int64))
    lengths = [_count_bytes(shape, tensors) for shape in shapes]
    payload = torch.zeros(max(lengths), dtype=torch.uint8)
    if tensors:
        data = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])
        payload[: len(data)] = data
    names = [list(state) for state in own]
    return [_unpack(data, shape, names, tensors) for data, shape in zip(_exchange(payload), shapes, strict=True)]


def _exchange(tensor: Tensor) -> list[Tensor]:
    received = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(received, tensor)
    return received


def _split(shape: Tensor, like: Sequence[Tensor]) -> list[list[int]]:
    lengths = iter(shape.tolist())
    return [[next(lengths) for _ in range(tensor.ndim)] for tensor in like]


def _count_bytes(shape: Tensor, like: Sequence[Tensor]) -> int:
    return sum(torch.Size(s).numel() * t.element_size() for s, t in zip(_split(shape, like), like, strict=True))


def _unpack(data: Tensor, shape: Tensor, names: list[list[str]], like: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """The states in the bytes `data`: dtypes as in `like`, lengths from `shape`."""
    tensors: list[Tensor] = []
    start = 0
    for size, tensor in zip(_split(shape, like), like, strict=True):
        end = start + torch.Size(size).numel() * tensor.element_size()
        # A clone is aligned, whatever came before it.
        tensors.append(data[start:end].clone().view(tensor.dtype).reshape(size))
        start = end
    found = iter(tensors)
    return [{name: next(found) for name in state} for state in names]
