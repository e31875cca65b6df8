"""What must be true of a graph in each stage, as data: (stages, what, predicate).

The pipeline checks it at every border.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.arguments import int_arg, is_settled
from fxquant.errors import StageError
from fxquant.graph import is_float
from fxquant.observers.base import Observer
from fxquant.ops.fixed_point import LARGEST_SHIFT
from fxquant.primitives import FACTS
from fxquant.source import describe
from fxquant.stage import Stage
from fxquant.training.steps import Trained

Predicate = Callable[[fx.GraphModule, fx.Node], bool]


@dataclass(frozen=True)
class Invariant:
    """`holds` must be true of every node of a graph in one of `stages`; `what` completes 'node must ...'."""

    stages: frozenset[Stage]
    what: str
    remedy: str
    holds: Predicate


INVARIANTS: list[Invariant] = []


def invariant(*stages: Stage, what: str, remedy: str) -> Callable[[Predicate], Predicate]:
    """Register a predicate as an invariant of `stages`."""

    def add(predicate: Predicate) -> Predicate:
        INVARIANTS.append(Invariant(frozenset(stages), what, remedy, predicate))
        return predicate

    return add


def verify(module: fx.GraphModule, stage: Stage, blame: str) -> None:
    """Check that `module` is a valid graph of `stage`; `blame` says who promised it ('FoldQDQ gives').

    Raises StageError naming up to five nodes with their source lines.
    """
    _lint(module, stage, blame)
    broken = [
        f"  {describe(node)}\n    must {rule.what}; {rule.remedy}"
        for rule in INVARIANTS
        if stage in rule.stages
        for node in module.graph.nodes
        if not rule.holds(module, node)
    ]
    if broken:
        more = f"\n  and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise StageError(f"{blame} {stage}, but the graph is not:\n" + "\n".join(broken[:5]) + more)


def _lint(module: fx.GraphModule, stage: Stage, blame: str) -> None:
    """torch's own checks (operands come first, attributes exist), and that inputs have names of their own."""
    try:
        module.graph.lint()
        names = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"several inputs are called {', '.join(sorted(twice))}")
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise StageError(
            f"{blame} {stage}, but the graph is broken: {error}\n  Nodes stand behind their operands, belong to this "
            "graph, and name attributes that the module has"
        ) from error


def _observer(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), Observer)


@invariant(*Stage, what="carry a shape (meta['val'])", remedy="build nodes with fxquant.graph.call")
def _has_shape(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "output" or "val" in node.meta


@invariant(*Stage, what="have its arguments in the form of its schema", remedy="settle them (fxquant.arguments)")
def _is_settled(module: fx.GraphModule, node: fx.Node) -> bool:
    return is_settled(node)


@invariant(
    Stage.FLOAT,
    Stage.OBSERVED,
    Stage.QUANTIZED,
    Stage.INTEGER,
    what="be a function, a constant, or an observer",
    remedy="trace the model with fxquant.trace; call torch.ops.aten's functions, not methods and modules, in passes",
)
def _is_flat(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op != "call_method" and (node.op != "call_module" or _observer(module, node))


@invariant(
    Stage.TRAINING,
    what="be a function, a constant, or a step",
    remedy="run InsertSteps on a QUANTIZED graph; call torch.ops.aten's functions, not methods and modules, in passes",
)
def _is_trained(module: fx.GraphModule, node: fx.Node) -> bool:
    called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return node.op != "call_method" and (called is None or isinstance(called, Trained))


@invariant(
    Stage.FLOAT,
    Stage.QUANTIZED,
    Stage.INTEGER,
    what="not be an observer",
    remedy="run InsertQDQ after calibration: it replaces every observer",
)
def _no_observer(module: fx.GraphModule, node: fx.Node) -> bool:
    return not _observer(module, node)


# Primitives that give floats: what they mean is defined to the bit, as for integers.
_REAL = ("fxq.dequantize", "fxq.dynamic_scale", "fxq.scale_product", "fxq.rescale_real", "fxq.join", "fxq.real_")
_TAKE_REALS = ("fxq.quantize", *_REAL)
_DYNAMIC = ("fxq.dynamic_scale", "fxq.scale_product", "fxq.quantize_dynamic", "fxq.rescale_real")


def _is_real(node: fx.Node) -> bool:
    return node.op == "call_function" and str(node.target).startswith(_REAL)


def _reads_real(user: fx.Node) -> bool:
    takes_reals = str(user.target).startswith((*_DYNAMIC, "fxq.join"))
    return user.op == "output" or bool(user.meta.get("fxq.island")) or takes_reals


def _is_fxq(node: fx.Node) -> bool:
    return node.op == "call_function" and str(node.target).startswith("fxq.")


@invariant(
    Stage.FLOAT,
    Stage.OBSERVED,
    Stage.TRAINING,
    what="not be an integer primitive",
    remedy="primitives appear in InsertQDQ",
)
def _no_primitive(module: fx.GraphModule, node: fx.Node) -> bool:
    return not _is_fxq(node)


@invariant(
    Stage.INTEGER,
    what="give an integer tensor",
    remedy="only dequantize, dynamic ranges and declared float islands may be float",
)
def _integer(module: fx.GraphModule, node: fx.Node) -> bool:
    val = node.meta.get("val")
    if node.op != "call_function" or not isinstance(val, Tensor) or not val.dtype.is_floating_point:
        return True
    return _is_real(node) or bool(node.meta.get("fxq.island"))


@invariant(
    Stage.INTEGER,
    what="take integer tensors",
    remedy="only quantize, dequantize and what belongs to dynamic ranges may take floats",
)
def _takes_integers(module: fx.GraphModule, node: fx.Node) -> bool:
    if not _is_fxq(node) or str(node.target).startswith(_TAKE_REALS):
        return True
    return not any(is_float(operand) for operand in node.all_input_nodes)


@invariant(
    Stage.INTEGER,
    what="feed only float islands, dynamic ranges or the output",
    remedy="FoldQDQ must consume every dequantize",
)
def _dequantize_leaves(module: fx.GraphModule, node: fx.Node) -> bool:
    # A value whose scale was found at run time can only be rounded to a fixed one as a float.
    may_round = not str(node.target).startswith("fxq.dequantize")
    rounds = torch.ops.fxq.quantize.default
    return not _is_real(node) or all(_reads_real(u) or (may_round and u.target is rounds) for u in node.users)


@invariant(
    Stage.INTEGER,
    what=f"round with shifts of 0 to {LARGEST_SHIFT}",
    remedy="multipliers and shifts are made by fxquant.ops.fixed_point",
)
def _shifts_are_few(module: fx.GraphModule, node: fx.Node) -> bool:
    facts = FACTS.get(node.target)
    return facts is None or all(0 <= int_arg(node, names.shift) <= LARGEST_SHIFT for names in facts.rounds)
