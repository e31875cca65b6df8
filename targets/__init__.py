"""Targets by name. Importing this package does not import TVM; compiling does."""

from __future__ import annotations

from difflib import get_close_matches

from fxquant.errors import TargetError
from fxquant.runtime.host import host_features, host_machine
from fxquant.target import ISAS, Target
from fxquant.targets.machines import arm, cortex, portable, riscv, x86

TARGETS: dict[str, Target] = {
    target.name: target for target in (*x86.ALL, *arm.ALL, *cortex.ALL, *riscv.ALL, *portable.ALL)
}


def register(target: Target, *, replaces: bool = False) -> Target:
    """Make a target of the user's own known by its name.

    Raises TargetError where another target has the name, unless it `replaces` it; `native` is no name for one.
    """
    if not isinstance(target, Target):
        raise TargetError(f"register takes a fxquant.Target, not {target!r}")
    known = TARGETS.get(target.name)
    if target.name == "native" or (known not in (None, target) and not replaces):
        raise TargetError(
            f"a target is called {target.name!r} already: choose another name, or say register(..., replaces=True)"
        )
    TARGETS[target.name] = target
    return target


def get(name: str | Target) -> Target:
    """The target called `name`; "native" is the best one that this CPU runs. Raises TargetError for an unknown name."""
    if isinstance(name, Target):
        return name
    if name == "native":
        return native()
    if name not in TARGETS:
        close = get_close_matches(name, [*TARGETS, "native"], 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TargetError(f"unknown target {name!r}; known: native, {', '.join(TARGETS)}.{hint}")
    return TARGETS[name]


def native() -> Target:
    """The first registered target that this machine has all features of. Raises TargetError if there is none."""
    machine, features = host_machine(), host_features()
    for target in TARGETS.values():
        runs = target.machine == machine and set(target.cpu_features) <= features
        if runs and "hosted" in ISAS[target.isa].forms:
            return target.hosted
    known = ", ".join(t.name for t in TARGETS.values() if t.machine == machine) or "none"
    raise TargetError(f"no target fits this {machine} CPU (targets for it: {known}); it lacks what they need")
