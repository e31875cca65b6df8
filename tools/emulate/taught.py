"""A model that learns on an emulated device: what it knew before, and knows after, and what it keeps of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.targets.standalone.export import Standalone
from fxquant.tools.emulate.programs import require
from fxquant.tools.emulate.run import numbers, said

# An input of one sample as integers (several inputs: a tuple), and the class that is right.
Sample = tuple[Tensor | tuple[Tensor, ...], int]


@dataclass(frozen=True)
class Taught:
    """Samples of the exam that were right before and after the lessons, and all bytes of the state after them.

    `step` are the instructions of one lesson, None where this machine itself ran the code.
    """

    before: int
    after: int
    state: bytes
    step: int | None


def taught(made: Standalone, lessons: Sequence[Sample], exam: Sequence[Sample]) -> Taught:
    """Emulate a model that `fxquant.export(..., train=...)` made: an exam, one step for each lesson, the exam again.

    Raises InputError for a model that does not learn, EmulationError where it cannot be run.
    """
    training, target = made.report["training"], made.target
    if training is None:
        raise InputError(f"{made.name} does not learn: export it with train=[...]")
    require(target)
    assert target.toolchain is not None
    scores = next(i for i, port in enumerate(made.report["outputs"]) if _size(port) == training["classes"])
    samples = {"lessons": _in_memory(lessons, made.report), "exam": _in_memory(exam, made.report), "scores": scores}
    text, counts = said(made.files, made.name, {**made.report, **samples}, target.toolchain, main="teach.c.j2")
    found = numbers(text, "after")
    (state,) = re.findall(r"^state ([0-9a-f]+)$", text, re.MULTILINE)
    step = counts[1] // len(lessons) if counts else None
    return Taught(found["before"], found["after"], bytes.fromhex(state), step)


def _size(port: Mapping[str, Any]) -> int:
    return int(torch.Size(port["shape"]).numel())


def _in_memory(samples: Sequence[Sample], report: Mapping[str, Any]) -> list[tuple[list[list[int]], int]]:
    """The elements of every input in the order of the C array, beside the label."""
    found = []
    for inputs, label in samples:
        given = (inputs,) if isinstance(inputs, Tensor) else inputs
        found.append(([_flat(x, port) for x, port in zip(given, report["inputs"], strict=True)], label))
    return found


def _flat(x: Tensor, port: Mapping[str, Any]) -> list[int]:
    if x.dtype.is_floating_point or x.numel() != _size(port):
        shape = tuple(port["shape"])
        raise InputError(f"{port['label']} is {port['dtype']}{shape}, got {x.dtype} of {tuple(x.shape)}: quantize it")
    shaped = x.reshape(port["shape"])
    moved = shaped.movedim(-3, -1) if port["is_channels_last"] else shaped
    flat: list[int] = moved.reshape(-1).tolist()
    return flat
