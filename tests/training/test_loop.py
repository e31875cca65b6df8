"""A TRAINING graph in its user's own loop: optimizers, checkpoints, accumulation, half precision, several processes."""

from __future__ import annotations

import copy
import io
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

import fxquant
from fxquant.errors import TrainingError
from fxquant.training import Step, TrainingGraph, WeightStep
from tests.training.models import DATA, few, traced, trained


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss: Tensor = model(x).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def test_scales_are_a_group_of_their_own() -> None:
    model = trained(8, 0)
    weights, scales = fxquant.qat_parameters(nn.Sequential(model))
    assert [group["name"] for group in (weights, scales)] == ["weights", "scales"] and scales["weight_decay"] == 0.0
    assert {id(p) for group in (weights, scales) for p in group["params"]} == {id(p) for p in model.parameters()}
    owners = (Step, WeightStep)
    own = {id(p) for part in model.modules() if isinstance(part, owners) for p in part.parameters()}
    assert {id(p) for p in scales["params"]} == own


def test_a_run_that_is_resumed_goes_on_to_the_bit() -> None:
    def begin() -> tuple[TrainingGraph, torch.optim.Optimizer]:
        model = fxquant.prepare_qat(traced(), few(4, 8), DATA, freeze_after=3, progress=False)
        return model, torch.optim.Adam(fxquant.qat_parameters(model), lr=0.01)

    model, optimizer = begin()
    for x in DATA:
        step(model, optimizer, x)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    losses = [step(model, optimizer, x) for x in DATA * 2]
    again, other = begin()
    file.seek(0)
    kept = torch.load(file)
    again.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    assert torch.equal(torch.stack([step(again, other, x) for x in DATA * 2]), torch.stack(losses))
    assert is_same(states(model), states(again))
    with pytest.raises(TrainingError, match=r"to the codes \[-7, 7\], this model to \[-127, 127\]"):
        trained(8, 0).load_state_dict(model.state_dict())


def test_gradients_of_parts_of_a_batch_add_up() -> None:
    whole, parts = trained(8, 0), trained(8, 0)
    whole(DATA[0]).square().sum().backward()
    for half in DATA[0].chunk(2):
        parts(half).square().sum().backward()
    for (name, p), q in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-3 * float(p.grad.abs().max()) + 1e-6), name


def test_half_precision_outside_changes_nothing_inside() -> None:
    model = trained(4, 1)
    expected = model(DATA[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(DATA[0]), expected)
    model(DATA[0].bfloat16()).sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())


def test_a_copy_is_trained_apart() -> None:
    model = trained(8, 1)
    model.exact = False
    other = copy.deepcopy(model)
    assert isinstance(other, TrainingGraph) and not other.exact and torch.equal(other(DATA[0]), model(DATA[0]))
    before = states(model)
    step(other, torch.optim.SGD(other.parameters(), lr=0.1), DATA[0])
    assert is_same(states(model), before) and not is_same(states(other), before)


def test_fewer_bits_step_by_step() -> None:
    model = fxquant.prepare_qat(traced(), None, DATA, freeze_after=0, progress=False)
    optimizer = torch.optim.SGD(fxquant.qat_parameters(model), lr=0.01)
    for bits in (8, 4, 2):
        fxquant.change_bits(model, few(bits, max(bits, 4)))
        step(model, optimizer, DATA[0])
        integer = fxquant.convert(model)
        kinds = {part.scheme.qmax for part in model.modules() if isinstance(part, WeightStep)}
        assert kinds == {(1 << bits - 1) - 1}
        assert torch.equal(model(DATA[0]), integer(DATA[0]))
    rules = [{"match": "aten.sigmoid", "activation": {"bits": 4}}]
    with pytest.raises(TrainingError, match="share the range of sigmoid cannot have several kinds of codes"):
        fxquant.change_bits(model, {"rules": rules})


def test_damping_draws_weights_to_their_codes() -> None:
    model = trained(2, 0)
    first = fxquant.damping(model)
    optimizer = torch.optim.SGD(fxquant.qat_parameters(model), lr=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        fxquant.damping(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(fxquant.damping(model).detach()) < float(first.detach())
    assert all(p.grad is None for p in fxquant.qat_parameters(model)[1]["params"]), "scales stay where they are"


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        model: Any = nn.parallel.DistributedDataParallel(trained(4, 0))
        optimizer = torch.optim.SGD(fxquant.qat_parameters(model), lr=0.05)
        for x in DATA:
            step(model, optimizer, x.chunk(2)[rank])
        torch.save(states(model.module), f"{folder}/rank{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
    # Freeing the model waits for gloo's thread and holds the interpreter's lock, for which that thread may wait.
    os._exit(0)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_have_the_same_weights_and_ranges(tmp_path: Path) -> None:
    spawn(worker, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    left, right = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert is_same(left, right) and not is_same(left, states(trained(4, 0)))
