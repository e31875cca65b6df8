"""Concatenation without copies: the parts of a concat along channels are written where the concat wants them.

    %c = cat([%a, %b], 1)   =>   %a and %b are channel slices of the memory of %c

A concat whose parts are the first parts of a longer one is a slice of the longer one's memory (DenseNet), and so is a
concat that is itself a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.arguments import int_arg, nodes_arg
from fxquant.targets.lowering.borders import PRODUCERS, Border, widest

aten = torch.ops.aten


@dataclass(frozen=True)
class Home:
    """The concat in whose memory a value lives, and its first channel there."""

    concat: fx.Node
    channel: int


def homes(graph: fx.Graph, fake: Mapping[fx.Node, Any], borders: dict[fx.Node, Border]) -> dict[fx.Node, Home]:
    """Where parts live. `borders` is widened: a concat's memory has the border that any of its parts wants."""
    found: dict[fx.Node, Home] = {}
    concats = [n for n in graph.find_nodes(op="call_function", target=aten.cat.default) if _by_channel(n, fake)]
    for index in range(len(concats) - 1, -1, -1):
        concat = concats[index]
        for shorter in concats[:index]:
            if shorter not in found and _starts_with(concat, shorter) and _agree(concat, shorter, borders):
                found[shorter] = Home(concat, 0)
        channel = 0
        for part in parts_of(concat):
            if not fake[part].numel():
                continue
            if part not in found and _can_move(part, concat, fake) and _agree(concat, part, borders):
                found[part] = Home(concat, channel)
            channel += int(fake[part].shape[1])
    return found


def parts_of(concat: fx.Node) -> list[fx.Node]:
    """The values that a concat puts together."""
    return nodes_arg(concat, 0)


def _by_channel(concat: fx.Node, fake: Mapping[fx.Node, Any]) -> bool:
    value = fake[concat]
    return value.ndim == 4 and int_arg(concat, "dim") % 4 == 1 and value.dtype == torch.int8


def _starts_with(longer: fx.Node, shorter: fx.Node) -> bool:
    parts = parts_of(shorter)
    return parts_of(longer)[: len(parts)] == parts


def _can_move(part: fx.Node, concat: fx.Node, fake: Mapping[fx.Node, Any]) -> bool:
    """Only a value that is new memory can be written elsewhere, and one that stands in the concat once."""
    if part.target not in PRODUCERS or fake[part].dtype != fake[concat].dtype or parts_of(concat).count(part) > 1:
        return False
    return part.target is not aten.cat.default or _by_channel(part, fake)


def _agree(concat: fx.Node, part: fx.Node, borders: dict[fx.Node, Border]) -> bool:
    """Give the concat the border that the part wants, unless they want different values there."""
    mine, its = borders.get(concat), borders.get(part)
    if its is None:
        return True
    if mine is not None and mine.value != its.value:
        return False
    borders[concat] = its if mine is None else widest(mine, its)
    return True
