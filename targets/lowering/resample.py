"""Resizing: positions and weights are constant tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.targets.lowering.convolution import image
from fxquant.targets.lowering.elementwise import numbers
from fxquant.targets.lowering.lowering import Lowering, lowers

fxq = torch.ops.fxq


@lowers(fxq.upsample_nearest.default)
def upsample_nearest(l: Lowering, node: fx.Node) -> None:
    """Copies by a table of positions per axis."""
    x = image(l.tensor(node.args[0]))
    rows = [int(r) for r in node.args[1]] or [0]  # type: ignore[union-attr]
    columns = [int(c) for c in node.args[2]]  # type: ignore[union-attr]
    tables = [l.constant(np.array(v, np.int32), f"{node.name}_positions") for v in (rows, columns)]
    out = image(l.result(node, l.tensor(node.args[0])))
    l.map("upsample", out, [x, *tables], lambda t, i: t[0](i[0], i[1], t[1](i[2]), t[2](i[3])), node, weight=2)


@lowers(fxq.interpolate.default)
def interpolate(l: Lowering, node: fx.Node) -> None:
    """Two neighbours per axis with fixed-point weights."""
    x = image(l.tensor(node.args[0]))
    indices, weights = ([l.array(a) for a in node.args[p]] for p in (2, 3))  # type: ignore[union-attr]
    if len(indices) == 1:
        indices, weights = [np.zeros((1, 2), np.int32), *indices], [np.array([[1, 0]], np.int32), *weights]
    tables = [l.constant(a.astype(np.int32), f"{node.name}_table") for a in (*indices, *weights)]
    n = numbers(l, node, int(node.args[1]))  # type: ignore[call-overload]
    out = image(l.result(node, l.tensor(node.args[0])))

    def body(t: Any, i: Any) -> Any:
        total: Any = 0
        for a in (0, 1):
            for b in (0, 1):
                value = t[0](i[0], i[1], t[1](i[2], a), t[2](i[3], b)) - t[5](0)
                total = total + value * t[3](i[2], a) * t[4](i[3], b)
        return total

    l.map("interpolate", out, [x, *tables, n], body, node, weight=8)
