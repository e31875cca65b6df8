"""Go on training with fewer bits: 8, then 4, then 2, each from where the last one came to."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import fx

from fxquant.arguments import node_arg
from fxquant.errors import TrainingError
from fxquant.plan import plan_of, range_of, record
from fxquant.qparams import choose_qparams
from fxquant.recipe import Recipe
from fxquant.scheme import Scheme
from fxquant.sensitive import sensitive
from fxquant.training.exact import refresh
from fxquant.training.graph import TrainingGraph, parametric
from fxquant.training.steps import Step, WeightStep


def change_bits(model: TrainingGraph, recipe: Recipe) -> None:
    """Round by the codes that `recipe` asks for from now on, in place; an optimizer made before goes on with it.

    As ever, sensitive layers keep 8 bits unless a rule names them. A value keeps its range, so that its step is as much
    coarser as there are fewer codes. A weight starts anew at
    2 * mean |w| / sqrt(qmax) below 8 bits (Esser et al. 2020). Raises TrainingError where a recipe asks for several
    kinds of codes for values that share a range, and for ranges of run time.
    """
    refresh(model)
    recipe.check(model.graph)
    careful = sensitive(model.graph)
    for step, members in _values(model).items():
        _change_value(model, step, members, recipe)
    for node in model.graph.nodes:
        rule, plan = record(node), plan_of(node)
        if rule is None or plan is None or rule.weight is None:
            continue
        source, scheme = node_arg(node, rule.weight), recipe.weight_for(node, node in careful)
        part = cast(WeightStep, model.get_submodule(str(source.target)))
        part.restart(parametric(model, node_arg(source, 0)), scheme.with_(axis=part.scheme.axis))
        node.meta["fxq.plan"] = replace(plan, weight=part.scheme)


def _values(model: fx.GraphModule) -> dict[Step, list[fx.Node]]:
    """The steps that are learned, and the values that each rounds."""
    found: dict[Step, list[fx.Node]] = {}
    for node in model.graph.find_nodes(op="call_module"):
        part = model.get_submodule(str(node.target))
        if isinstance(part, Step) and part.learned:
            found.setdefault(part, []).append(node_arg(node, 0))
    return found


def _change_value(model: fx.GraphModule, step: Step, members: list[fx.Node], recipe: Recipe) -> None:
    schemes = {_codes(recipe.activation_for(node)): recipe.activation_for(node) for node in members if plan_of(node)}
    if len(schemes) > 1:
        kinds = ", ".join(scheme.span for scheme in schemes.values())
        raise TrainingError(
            f"values that share the range of {step.range.of} cannot have several kinds of codes, as the recipe asks "
            f"for ({kinds}): give {', '.join(node.name for node in members)} the same bits"
        )
    for scheme in schemes.values():
        if scheme.dynamic:
            raise TrainingError(f"the range of {step.range.of} is learned, and cannot be found at run time from now on")
        low, high = step.qparams().real_range
        qparams = choose_qparams([low], [high], scheme)
        step.restart(replace(step.range, qparams=qparams, low=low, high=high))
    for node in model.graph.nodes:
        found = range_of(node)
        if found is not None and found.of == step.range.of:
            node.meta["fxq.range"] = replace(found, qparams=step.range.qparams)


def _codes(scheme: Scheme) -> tuple[int, int, bool, bool]:
    return scheme.qmin, scheme.qmax, scheme.symmetric, scheme.dynamic
