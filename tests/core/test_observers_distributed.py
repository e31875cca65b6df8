"""Calibration split over two processes gives what one process gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from fxquant.errors import CalibrationError
from fxquant.observers import OBSERVERS, Observer, all_merge, make
from fxquant.scheme import activation, weight

RANKS = 2


def observers() -> list[Observer]:
    schemes = [activation(), weight(axis=1)]
    return [make(scheme.with_(observer=name), name) for scheme in schemes for name in sorted(OBSERVERS)]


def batches() -> list[Tensor]:
    """Of different size and scale."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, 3, 10 + i, generator=generator) * 10.0 ** (i - 2) for i in range(5)]


def shares(idle: bool) -> list[list[Tensor]]:
    """Each rank's data; the second rank has none when `idle`."""
    data = batches()
    return [data, []] if idle else [data[:2], data[2:]]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    try:
        for idle in (False, True):
            mine = observers()
            for batch in shares(idle)[rank]:
                for observer in mine:
                    observer(batch)
            all_merge(mine)
            torch.save([observer.state() for observer in mine], f"{folder}/rank{rank}_{idle}.pt")
        all_merge([])
        with pytest.raises(CalibrationError, match="the ranks' observers differ"):
            all_merge(observers()[rank:])
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_ranks_agree_with_one_process(tmp_path: Path) -> None:
    spawn(worker, args=(str(tmp_path),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    whole = observers()
    for observer in whole:
        for batch in batches():
            observer(batch)
    for file in [f"rank{rank}_{idle}.pt" for rank in range(RANKS) for idle in (False, True)]:
        merged = observers()
        for observer, state in zip(merged, torch.load(tmp_path / file, weights_only=True), strict=True):
            observer.load_state(state)
        for one, other in zip(whole, merged, strict=True):
            assert one.qparams() == other.qparams()
            assert all(torch.equal(value, other.state()[key]) for key, value in one.state().items())
