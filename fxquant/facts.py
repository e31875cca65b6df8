"""What the passes found out about a node, as plain data: a saved graph is explained like the original.

`facts_of` writes down what fxquant noted on a node: ranges and their reasons, plans, origins, source lines. `notes_of`
makes the notes of it again, and trusts none of it: every field must be of the kind that its record declares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from torch import fx

from fxquant import names
from fxquant.choices import CHOICES, Choice, choices_of
from fxquant.equalized import EQUALIZED, Divided, equalized
from fxquant.errors import SchemeError
from fxquant.gains import GAINS, Gain, gains_of
from fxquant.history import PASSES
from fxquant.plan import Plan, Range, plan_of, range_of
from fxquant.qparams import QParams
from fxquant.source import Source, source_of

# Notes by the name that they have in a file.
_NOTES: dict[str, tuple[str, Any]] = {
    "origin": ("fxq.origin", str),
    "island": ("fxq.island", bool),
    "range": ("fxq.range", Range),
    "plan": ("fxq.plan", Plan),
    "weight": ("fxq.weight_qparams", QParams),
    "kept_bits": ("fxq.kept_bits", str),
    "port": ("fxq.port", QParams),
    "layer": (names.NAME, str),
    "layers": (names.LAYERS, tuple[names.Layer, ...]),
    "passes": (PASSES, tuple[str, ...]),
}
NAMES = frozenset({*_NOTES, "source"})


def facts_of(node: fx.Node) -> dict[str, Any]:
    """What is known of a node; JSON-ready."""
    known: dict[str, Any] = {"range": range_of(node), "plan": plan_of(node)}
    for name, (key, kind) in _NOTES.items():
        if isinstance(node.meta.get(key), get_origin(kind) or kind):
            known[name] = node.meta[key]
    found = {name: _plain(value) for name, value in known.items() if value is not None}
    source = source_of(node)
    return found if source == Source() else {**found, "source": asdict(source)}


def notes_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The notes for `node.meta`. ValueError, saying where, for facts that are not as `facts_of` writes them."""
    notes: dict[str, Any] = {}
    for name, (key, kind) in _NOTES.items():
        if name in facts:
            notes[key] = _made(kind, facts[name], name)
    if "source" in facts:
        source: Source = _made(Source, facts["source"], "source")
        quoted = source.file, source.module, source.kind
        if any("\n" in text or '"' in text for text in quoted) or "\n" in source.code:
            raise ValueError("source names no file and line")
        line = f'File "{source.file}", line {source.line}, in forward\n    {source.code}'
        notes["stack_trace"] = line if source.file else ""
        notes["nn_module_stack"] = {"": (source.module, source.kind)} if source.module or source.kind else {}
    return notes


def facts_beside(module: fx.GraphModule) -> dict[str, Any]:
    """What is known of the whole graph: outputs, layers that are gone, what recovery did and data chose; JSON-ready."""
    divided = {name: _plain(found) for name, found in equalized(module).items()}
    found = {"names": list(names.output_names(module)), "gone": dict(module.meta.get(names.GONE, {}))}
    more = ("equalized", divided), ("gains", _plain(gains_of(module))), ("choices", _plain(choices_of(module)))
    return found | {key: facts for key, facts in more if facts}


def notes_beside(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The notes for `module.meta`. ValueError for facts that are not as `facts_beside` writes them."""
    found, gone, divided = facts["names"], facts["gone"], facts.get("equalized", {})
    for name, objects in (("gone", gone), ("equalized", divided)):
        if not isinstance(objects, dict):
            raise ValueError(f"{name} is no object")
    return {
        names.OUTPUTS: _made(tuple[str, ...], found, "names"),
        names.GONE: {name: _made(str, why, "gone") for name, why in gone.items()},
        EQUALIZED: {name: _made(Divided, parts, "equalized") for name, parts in divided.items()},
        GAINS: _made(tuple[Gain, ...], facts.get("gains", []), "gains"),
        CHOICES: _made(tuple[Choice, ...], facts.get("choices", []), "choices"),
    }


def _plain(value: Any) -> Any:
    """Records as objects, tuples as lists, numbers that JSON has no words for as text."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _made(kind: Any, data: Any, where: str) -> Any:
    """`data` as a value of `kind`: a record, a tuple of one kind, an optional, or a plain type."""
    if is_dataclass(kind):
        return _record(kind, data, where)
    if get_origin(kind) is UnionType:
        if data is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
        return _made(kind, data, where)
    if get_origin(kind) is tuple and isinstance(data, list):
        return tuple(_made(get_args(kind)[0], item, where) for item in data)
    if kind is float and (type(data) is int or data in ("inf", "-inf", "nan")):
        return float(data)
    if type(data) is kind:
        return data
    raise ValueError(f"{where} is {str(data)[:80]!r}, which is no {getattr(kind, '__name__', kind)}")


def _record(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict) or not data.keys() <= _hints(kind).keys():
        raise ValueError(f"{where} is no {kind.__name__}")
    try:
        found = kind(**{name: _made(_hints(kind)[name], value, f"{where}.{name}") for name, value in data.items()})
        if isinstance(found, QParams):
            _require_sound(found)
    except (TypeError, SchemeError, OverflowError) as error:
        raise ValueError(f"{where} is no {kind.__name__}: {error}") from error
    return found


def _require_sound(found: QParams) -> None:
    channels = len(found.scale)
    if found.dtype is None or channels != len(found.zero_point) or (channels != 1 and found.axis is None):
        raise SchemeError("scales and zero points do not fit together")
    if not channels or not all(0 < scale < math.inf for scale in found.scale):
        raise SchemeError("a scale is not a positive number")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
