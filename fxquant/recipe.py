"""A recipe: what the user asks for, per node. Every pass reads it from the plan that `Annotate` writes on the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import fx

from fxquant import observers
from fxquant import scheme as schemes
from fxquant.errors import RecipeError, SchemeError
from fxquant.fields import check_fields
from fxquant.names import did_you_mean, names_of
from fxquant.scheme import Scheme
from fxquant.sensitive import FEW
from fxquant.source import module_path, target_name


@dataclass(frozen=True)
class Rule:
    """An exception for the nodes that `match` names: a glob over module path, name, id or operator ('aten.linear').

    `keep_float` leaves them in float; `activation`, `weight` and `operand` replace the recipe's schemes.
    """

    match: str
    activation: Scheme | None = None
    weight: Scheme | None = None
    keep_float: bool = False
    operand: Scheme | None = None

    def __post_init__(self) -> None:
        """Refuse values of another type than their field's."""
        check_fields(self, "a rule", RecipeError)

    def applies(self, node: fx.Node) -> bool:
        """Whether the rule is about this node."""
        return any(name == self.match or fnmatchcase(name, self.match) for name in rule_names(node) if name)


@dataclass(frozen=True)
class Recipe:
    """Schemes for activations and weights, exceptions by `rules` (the last one that applies wins), and strictness.

    `operand` is what products read of values with more codes: these are requantized for them (None: read as they are).
    `strict` turns a float island into an error. `share_limit` is how many times wider than its own a range may become
    by sharing (concat) before a requantize is placed instead: 2 costs one bit. With `auto`, data say which layers have
    ranges of run time (see `fxquant.tools.auto`); passes take only recipes in which that is settled.
    """

    activation: Scheme = field(default_factory=schemes.activation)
    weight: Scheme = field(default_factory=schemes.weight)
    rules: tuple[Rule, ...] = ()
    strict: bool = False
    share_limit: float = 2.0
    operand: Scheme | None = None
    auto: bool = False

    def __post_init__(self) -> None:
        """Refuse values of another type than their field's, and what no kernel could ever compute."""
        check_fields(self, "a recipe", RecipeError)
        for name, weight in self._all("weight"):
            _check_weight(weight, name)
        for name, operand in self._all("operand"):
            if operand.dynamic:
                raise RecipeError(f"the range of an operand that is requantized is known; {name} asks for {operand}")
        for name, activation in (*self._all("activation"), *self._all("operand")):
            _check_activation(activation, name)
        if self.auto and self.activation.dynamic:
            raise RecipeError(
                "auto chooses between fixed ranges and such of run time, and the recipe asks for the latter"
            )
        if self.share_limit < 1.0:
            raise RecipeError(f"share_limit must be at least 1, not {self.share_limit}")

    def _all(self, role: str) -> list[tuple[str, Scheme]]:
        """The schemes of a role, each with whose it is."""
        several = [(role, getattr(self, role)), *((rule.match, getattr(rule, role)) for rule in self.rules)]
        return [(name, scheme) for name, scheme in several if scheme is not None]

    def activation_for(self, node: fx.Node) -> Scheme:
        """Scheme of the node's result."""
        found = [r.activation for r in self.rules if r.activation and r.applies(node)]
        return found[-1] if found else self.activation

    def weight_for(self, node: fx.Node, is_sensitive: bool = False) -> Scheme:
        """Scheme of the node's weight; the channel axis is the operator's business.

        A weight that `is_sensitive` keeps 8 bits, unless a rule asks for fewer (`fxquant.sensitive`).
        """
        found = [r.weight for r in self.rules if r.weight and r.applies(node)]
        if not found and is_sensitive and self.weight.bits <= FEW:
            usual = schemes.weight()
            return replace(self.weight, qmin=usual.qmin, qmax=usual.qmax)
        return found[-1] if found else self.weight

    def operand_for(self, node: fx.Node) -> Scheme | None:
        """Scheme of what the node, a product, reads of values with more codes."""
        found = [r.operand for r in self.rules if r.operand and r.applies(node)]
        return found[-1] if found else self.operand

    def float_rule(self, node: fx.Node) -> Rule | None:
        """The rule that keeps the node in float, if one does."""
        applying = [r for r in self.rules if r.applies(node)]
        return applying[-1] if applying and applying[-1].keep_float else None

    @property
    def needs_data(self) -> bool:
        """Whether any range is to be found by calibration."""
        return not all(s.dynamic for s in (self.activation, *(r.activation for r in self.rules if r.activation)))

    def check(self, graph: fx.Graph) -> None:
        """Every rule must apply to something: a rule that matches nothing is a typing error, told at once."""
        if self.auto:
            raise RecipeError(
                "which layers have ranges of run time is left to data by the recipe: quantize settles that, or "
                "fxquant.tools.auto.settled, which gives a recipe for the passes"
            )
        calls = [n for n in graph.nodes if n.op in ("call_function", "placeholder")]
        for rule in self.rules:
            if not any(rule.applies(node) for node in calls):
                known = sorted({name for node in calls for name in rule_names(node) if name})
                hint = did_you_mean(rule.match, known)
                raise RecipeError(f"the rule {rule.match!r} matches no module, node or operator of this graph{hint}")

    @staticmethod
    def named(name: str) -> Recipe:
        """A recipe of `NAMED`; raises RecipeError for another name, with the ones that exist."""
        if name not in NAMED:
            known = ", ".join(NAMED)
            raise RecipeError(
                f"no recipe is called {name!r}; there are {known}, "
                "native, native-dynamic, native-auto, and .json and .toml files"
            )
        return NAMED[name]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """A recipe from plain data (JSON, TOML): schemes and rules as dictionaries; `bits` stands for qmin and qmax.

        Raises RecipeError for an unknown key, with the ones that exist, and for a value that its key does not take.
        """
        known = _checked(data, _keys(Recipe), "a recipe")
        base, rules = Recipe(), known.get("rules", ())
        if not isinstance(rules, (list, tuple)):
            raise RecipeError(f"the rules of a recipe are a list of rules, not {rules!r}")
        return Recipe(
            **{
                **known,
                **_schemes(base, known, "a recipe"),
                "rules": tuple(_rule(base, rule, f"rule {number}") for number, rule in enumerate(rules)),
            }
        )


def rule_names(node: fx.Node) -> tuple[str, ...]:
    """What a rule may call a node: its module, its names, its operator with and without the overload."""
    operator = target_name(node)
    return module_path(node), *names_of(node), operator, operator.rpartition(".")[0] if operator.count(".") > 1 else ""


def _check_weight(weight: Scheme, name: str) -> None:
    if weight.dynamic:
        raise RecipeError(f"only activations have dynamic ranges, weights are constant; {name} asks for {weight}")
    if not weight.symmetric or weight.qmin >= 0:
        raise RecipeError(f"weights are quantized symmetrically around zero; {name} asks for {weight}")
    if weight.axis not in (None, 0):
        raise RecipeError(
            f"the channel axis of a weight is its operator's business: axis is 0 for a scale per channel, None "
            f"for one per tensor; {name} asks for {weight.axis}"
        )
    _check_observer(weight, name)


def _check_activation(activation: Scheme, name: str) -> None:
    if activation.per_channel:
        raise RecipeError(f"activations are quantized per tensor; {name} asks for {activation}")
    if activation.dynamic and activation.symmetric:
        raise RecipeError(f"where zero lies in a dynamic range is not asked for but known; {name} asks for both")
    if activation.products != 1 or activation.narrow:
        raise RecipeError(f"room for products and multipliers is left by weights; {name} asks for {activation}")
    _check_observer(activation, name)


def _check_observer(scheme: Scheme, where: str) -> None:
    """Ask for the scheme's observer once, so that a name that does not exist is told with the recipe."""
    try:
        observers.make(scheme)
    except SchemeError as error:
        raise RecipeError(f"{where} of a recipe: {error}") from error


def _rule(base: Recipe, data: Any, where: str) -> Rule:
    known = _checked(data, _keys(Rule), where)
    if "match" not in known:
        raise RecipeError(f"{where} has no match: say which module, node or operator it is for (a glob)")
    return Rule(**{**known, **_schemes(base, known, f"{where} ({known['match']!r})")})


def _schemes(base: Recipe, known: Mapping[str, Any], where: str) -> dict[str, Scheme]:
    """The schemes that plain data gives, each a change of the base's."""
    return {
        role: _scheme(getattr(base, role) or base.activation, known[role], role, f"{role} of {where}")
        for role in ("activation", "weight", "operand")
        if role in known
    }


def _scheme(base: Scheme, data: Any, role: str, where: str) -> Scheme:
    known = _checked(data, [*_keys(Scheme), "bits"], where)
    if "bits" in known:
        known |= _codes(known.pop("bits"), known, role, where)
    try:
        return replace(base, **known)
    except SchemeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _codes(bits: Any, known: Mapping[str, Any], role: str, where: str) -> dict[str, int]:
    """The integer range of so many bits, for a role's usual scheme."""
    most = 8 if role == "weight" else 16
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= most:
        raise RecipeError(f"{where}: bits is a whole number from 2 to {most}, not {bits!r}")
    if "qmin" in known or "qmax" in known:
        raise RecipeError(f"{where}: bits stands for qmin and qmax: give one or the other")
    usual = schemes.weight(bits) if role == "weight" else schemes.activation(bits)
    return {"qmin": usual.qmin, "qmax": usual.qmax}


def _keys(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _checked(data: Any, keys: list[str], where: str) -> dict[str, Any]:
    """`data` as a dictionary that has no keys but these."""
    if not isinstance(data, Mapping):
        example = ', for example {"bits": 4}' if "bits" in keys else ""
        raise RecipeError(f"{where} is {data!r}: give keys and values{example}; the keys are: {', '.join(keys)}")
    for key in data:
        if key not in keys:
            close = get_close_matches(str(key), keys, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise RecipeError(f"unknown key {key!r} in {where}; the keys are: {', '.join(keys)}.{hint}")
    return dict(data)


# "avx2" is for x86 without VNNI: four products fit 16 bits, which is what its byte multiplication and one addition sum.
# Both for x86: sums times their multipliers fit 32 bits, so that one instruction multiplies twice as many of them.
# "dynamic" needs no calibration: products take the range that each sample turns out to have, all else stays float.
# "auto" does so for the layers where data show that it pays.
NAMED = {
    "default": Recipe(),
    "avx2": Recipe(weight=schemes.weight(products=4, narrow=True)),
    "vnni": Recipe(weight=schemes.weight(narrow=True)),
    "dynamic": Recipe(activation=schemes.activation().with_(dynamic=True)),
    "auto": Recipe(auto=True),
}
