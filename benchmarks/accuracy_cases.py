"""Networks with real weights and data to judge them by, from a data folder; and how each kind of network is judged.

A data folder holds `cases.py` with `CASES` (names) and `load(name)`, which gives a `Case`. What its labels are says
what it is judged by:

    class ids (N,)            top-1, in percent
    class ids (N, H, W)       mIoU over the classes that occur, in percent; ids below zero or from 255 on count nowhere
    None                      mean cosine of a sample's results with the float model's, in percent: encoders
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
# From this class on a label says that nobody knows.
UNKNOWN = 255


class Case(Protocol):
    """One network with its data, batch first: a tensor, or one for each input; `labels` as above."""

    name: str
    model: nn.Module
    calibration: Tensor | Sequence[Tensor]
    inputs: Tensor | Sequence[Tensor]
    labels: Tensor | None


def data_folder(given: str | None = None) -> Path:
    """The folder with `cases.py`; raises FileNotFoundError with the places that were looked at."""
    places = [Path(place) for place in (given, os.environ.get("FXQUANT_DATA")) if place] or [BESIDE]
    for place in places:
        if (place / "cases.py").is_file():
            return place
    raise FileNotFoundError(f"no cases.py in {' or '.join(map(str, places))}: point FXQUANT_DATA at the data folder")


def case_names(folder: Path) -> list[str]:
    """Names of the cases in a data folder."""
    return list(_cases(folder).CASES)


def load(folder: Path, name: str) -> Case:
    """One case of a data folder."""
    found: Case = _cases(folder).load(name)
    return found


def _cases(folder: Path) -> Any:
    name = "fxquant_accuracy_cases"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(folder / "cases.py"):
        return known
    spec = importlib.util.spec_from_file_location(name, folder / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up here.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def metric(labels: Tensor | None) -> str:
    """What a network with such labels is judged by: 'top-1', 'mIoU', 'cosine'."""
    return "cosine" if labels is None else "top-1" if labels.ndim == 1 else "mIoU"


def score(found: Tensor, real: Tensor, labels: Tensor | None) -> float:
    """How good the results `found` are, in percent; `real` are the float model's."""
    if labels is None:
        return 100.0 * float(torch.cosine_similarity(found.flatten(1).double(), real.flatten(1).double()).mean())
    if labels.ndim == 1:
        return 100.0 * float((found.argmax(1) == labels).double().mean())
    return 100.0 * mean_iou(found.argmax(1), labels)


def mean_iou(found: Tensor, labels: Tensor) -> float:
    """Intersection over union, the mean of all classes that the labels have."""
    known = (labels >= 0) & (labels < UNKNOWN)
    found, labels = found[known], labels[known]
    shares = []
    for kind in np.unique(labels.numpy()):
        here, there = found == int(kind), labels == int(kind)
        shares.append(float((here & there).sum()) / float((here | there).sum()))
    return sum(shares) / len(shares) if shares else 0.0


def agreement(found: Tensor, real: Tensor, labels: Tensor | None) -> float:
    """How much is as in float, in percent: the same class (of every pixel); of encoders, the cosine."""
    if labels is None:
        return score(found, real, None)
    return 100.0 * float((found.argmax(1) == real.argmax(1)).double().mean())
