"""Does it fit: `--fits flash=256k,ram=64k` against the report of a standalone model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fxquant.errors import BudgetError, InputError

_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
_ITEM = re.compile(r"(flash|ram)=(\d+)([km]?)b?", re.IGNORECASE)


def budget(text: str) -> dict[str, int]:
    """Bytes by kind of memory. Raises InputError for anything but `flash=256k,ram=64k`, one or both."""
    found: dict[str, int] = {}
    for item in text.replace(" ", "").split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise InputError(f"{item!r} is no budget: say for example flash=256k,ram=64k (k and m are powers of 1024)")
        found[match[1].lower()] = int(match[2]) * _UNITS[match[3].lower()]
    return found


def require_fits(report: Mapping[str, Any], limits: Mapping[str, int]) -> None:
    """Raise BudgetError, naming the layer that breaks the budget, if the model needs more than `limits` in bytes."""
    broken = [text for text in (_flash(report, limits), _ram(report, limits)) if text]
    if broken:
        raise BudgetError(f"{report['name']} does not fit {report['target']}: " + "; ".join(broken))


def _flash(report: Mapping[str, Any], limits: Mapping[str, int]) -> str:
    """The code comes first, then the constants of one layer after the other."""
    limit, need = limits.get("flash"), report["flash_bytes"]
    if limit is None:
        return ""
    if need is None:
        raise InputError("the flash that C sources need depends on the compiler: give a budget for ram only")
    if need <= limit:
        return ""
    used = report["code_bytes"]
    if used > limit:
        return f"code alone needs {used} bytes of flash, the limit is {limit}"
    layer = report["layers"][-1]
    for layer in report["layers"]:
        used += layer["constant_bytes"]
        if used > limit:
            break
    return (
        f"flash: {need} bytes are needed and {limit} allowed; layer {layer['name']!r} ({layer['constant_bytes']} bytes "
        f"of constants) is the first that finds no room: fewer weight bits or channels there help"
    )


def _ram(report: Mapping[str, Any], limits: Mapping[str, int]) -> str:
    """The arena, the state, and the stack where it was measured."""
    limit, stack = limits.get("ram"), report["stack_bytes"] or 0
    state = (report["training"] or {"state_bytes": 0})["state_bytes"]
    need = report["arena_bytes"] + stack + state
    if limit is None or need <= limit:
        return ""
    # Of layers with as much alive, the one that computes: a copy between two of them is not what to change.
    layer = max(report["layers"], key=lambda one: (one["arena_bytes"], one["macs"]))
    parts = f"{report['arena_bytes']} of arena, {stack or 'unmeasured'} of stack"
    parts += f", {state} of state" if state else ""
    return (
        f"ram: {need} bytes are needed ({parts}) and {limit} allowed; layer {layer['name']!r} has "
        f"{layer['arena_bytes']} bytes of activations alive: a smaller input or an earlier stride helps"
    )
