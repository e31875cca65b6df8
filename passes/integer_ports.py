"""Inputs and outputs as integers, for code that computes no floating point at all.

    %x : float32; %q = fxq.quantize(%x, ...); ...; return fxq.dequantize(%y, ...)   =>   %x : int8; ...; return %y
    return fxq.join([fxq.dequantize(%a), ...])   =>   return cat([fxq.requantize(%a), ...])
    %e = embedding(%table, %index)   =>   %i = clamp(%index, 0, rows - 1); %e = embedding(%table, %i)

The caller quantizes: how stands on the input and output nodes (`fxq.port`: scale, zero point, range). And nobody can be
told of an index that a table lacks: the nearest row is taken.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxquant.arguments import float_arg, int_arg, int_args, node_arg, nodes_arg
from fxquant.errors import LoweringError
from fxquant.graph import call, clean, outputs, placeholders, reads_values
from fxquant.indices import clamp_indices
from fxquant.ops.spelling import Int, Speller
from fxquant.passmanager import Pass
from fxquant.plan import Range, plan_of, range_of, required_range
from fxquant.qparams import QParams, choose_qparams
from fxquant.scheme import Scheme
from fxquant.source import describe, name_of
from fxquant.stage import Stage

fxq = torch.ops.fxq


@dataclass(frozen=True)
class IntegerPorts(Pass):
    """Take quantize off the inputs and dequantize off the outputs, and clamp indices into their tables.

    Raises LoweringError where that cannot be.
    """

    needs: ClassVar[Stage] = Stage.INTEGER
    gives: ClassVar[Stage] = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Inputs first, then outputs; an input that is read in two scales is an error."""
        for node in placeholders(module.graph):
            if node.meta["val"].dtype.is_floating_point:
                _integer_input(node)
        for node in outputs(module.graph):
            _integer_output(module, node)
        clamp_indices(module.graph)
        return clean(module)


def _integer_input(node: fx.Node) -> None:
    readers = [user for user in node.users if reads_values(user)]
    if not readers:
        _unread(node)
        return
    forms = {tuple(user.args[1:]) for user in readers if user.target is fxq.quantize.default}
    if any(user.target is fxq.dynamic_scale.default for user in readers):
        raise LoweringError(
            f"the input {describe(node)} has a range that is found at run time, and standalone code computes no "
            "floats: quantize with calibration data and a recipe of static ranges"
        )
    if len(forms) != 1 or any(user.target is not fxq.quantize.default for user in readers):
        raise LoweringError(
            f"the input {describe(node)} is read as {len(forms)} kinds of integers and by "
            f"{sum(u.target is not fxq.quantize.default for u in readers)} float operations: standalone code takes one"
        )
    first = readers[0]
    node.meta["fxq.port"] = QParams.tensor(float_arg(first, 1), *int_args(first, 2, 3, 4))
    node.meta["val"] = first.meta["val"]
    for reader in readers:
        reader.replace_all_uses_with(node)
        node.graph.erase_node(reader)


def _unread(node: fx.Node) -> None:
    """An input that nothing reads stays a port, as calls of the model have it: of integers that mean themselves."""
    node.meta["fxq.port"] = QParams.tensor(1.0, 0)
    node.meta["val"] = node.meta["val"].to(torch.int8)


def _integer_output(module: fx.GraphModule, node: fx.Node) -> None:
    if not node.meta["val"].dtype.is_floating_point:
        return
    if node.target is fxq.join.default:
        _one_scale(module, node)
        return
    if node.target is not fxq.dequantize.default:
        plan = plan_of(node)
        why = plan.reason if plan else "it is computed by a float operation, see the report"
        raise LoweringError(f"the output {describe(node)} is float: {why}")
    source = node_arg(node, 0)
    found = range_of(source)
    (zero,) = int_args(node, 2)
    info = torch.iinfo(source.meta["val"].dtype)
    low, high = (found.qparams.qmin, found.qparams.qmax) if found else (info.min, info.max)
    source.meta["fxq.port"] = QParams.tensor(float_arg(node, 1), zero, low, high)
    node.graph.output_node().replace_input_with(node, source)


# A part that keeps fewer codes than this of its own range is told.
FEW_CODES = 128


def _one_scale(module: fx.GraphModule, node: fx.Node) -> None:
    """A port has one scale: parts that had their own are requantized, and what that leaves of them is told."""
    parts = [node_arg(part, 0) for part in nodes_arg(node, "parts")]
    ranges = [required_range(part) for part in parts]
    low, high = min(r.low for r in ranges), max(r.high for r in ranges)
    codes = Scheme(min(r.qparams.qmin for r in ranges), max(r.qparams.qmax for r in ranges))
    qparams = choose_qparams([low], [high], codes)
    speller = Speller(module)
    with module.graph.inserting_before(node):
        moved = [speller.rounded(Int(p, r.qparams), qparams, p) for p, r in zip(parts, ranges, strict=True)]
        whole = call(module.graph, torch.ops.aten.cat.default, moved, int_arg(node, "dim"), like=node)
    whole.meta["fxq.port"] = qparams
    whole.meta["fxq.range"] = Range(qparams, low, high, f"one scale for the port that joins {len(parts)} values")
    module.graph.output_node().replace_input_with(node, whole)
    left = {name_of(p): (r.high - r.low) / qparams.one_scale for p, r in zip(parts, ranges, strict=True)}
    if lost := [f"{name} keeps {count:.0f}" for name, count in left.items() if count < FEW_CODES]:
        warnings.warn(
            f"the output {describe(node)} has one scale for all its parts: of {codes.qmax - codes.qmin + 1} codes "
            f"{', '.join(lost)}; return parts of so different sizes as outputs of their own",
            stacklevel=2,
        )
