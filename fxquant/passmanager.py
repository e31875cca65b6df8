"""Passes and pipelines.

A pass is a frozen dataclass: its options are typed fields, so that its repr, its command-line spelling and its docs
come free. It says which stage it `needs` and which it `gives`; a pipeline checks that order before anything runs and
verifies the graph at every border.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

from torch import fx

from fxquant.arguments import settle
from fxquant.errors import PassOrderError
from fxquant.history import Look
from fxquant.invariants import verify
from fxquant.stage import Stage, set_stage, stage_of

Observe = Callable[["Pass", fx.GraphModule], None]


@dataclass(frozen=True)
class Pass:
    """Base of all passes: override `run`, which may edit the module in place and returns it.

    The pass gets a copy: the caller's graph is never changed.
    """

    needs: ClassVar[Stage] = Stage.FLOAT
    gives: ClassVar[Stage] = Stage.FLOAT

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Transform the graph."""
        raise NotImplementedError(f"{type(self).__name__} must override run(module)")

    def __call__(self, module: fx.GraphModule) -> fx.GraphModule:
        """Verify, copy, run, verify."""
        return self.apply(copy.deepcopy(module))

    def apply(self, module: fx.GraphModule) -> fx.GraphModule:
        """Like a call, but on the module itself."""
        found = stage_of(module)
        if found is not self.needs:
            raise PassOrderError(f"{self.name} needs a {self.needs} graph and got a {found} one")
        _settle(module)
        verify(module, self.needs, f"{self.name} needs")
        before = Look(module)
        result = self.run(module)
        _settle(result)
        result.recompile()
        before.note(result, self.name)
        set_stage(result, self.gives)
        verify(result, self.gives, f"{self.name} gives")
        return result

    @property
    def name(self) -> str:
        """Class name, as pipelines and reports show it."""
        return type(self).__name__

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def options(cls) -> dict[str, str]:
        """Option names with their types and defaults, as text."""
        return {f.name: f"{f.type} = {f.type + '()' if f.default is MISSING else repr(f.default)}" for f in fields(cls)}


def _settle(module: fx.GraphModule) -> None:
    """Calls as a user may write them, by position or keyword, become calls as passes read them."""
    for node in module.graph.nodes:
        settle(node)


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. `before` and `after` give a new pipeline with a pass of the user's slotted in."""

    passes: tuple[Pass, ...]

    def __post_init__(self) -> None:
        """Check that each pass gives what the next one needs."""
        for first, second in zip(self.passes, self.passes[1:], strict=False):
            if first.gives is not second.needs:
                raise PassOrderError(
                    f"{second.name} needs a {second.needs} graph, but {first.name} before it gives {first.gives}"
                )

    def __call__(self, module: fx.GraphModule, observe: Observe | None = None) -> fx.GraphModule:
        """Run all passes on a copy; `observe(pass, graph)` is called after each one (dump, time, visualize)."""
        result = copy.deepcopy(module)
        for step in self.passes:
            result = step.apply(result)
            if observe is not None:
                observe(step, result)
        return result

    def before(self, name: str, extra: Pass) -> Pipeline:
        """A pipeline with `extra` just before the pass called `name`."""
        at = self._index(name)
        return Pipeline((*self.passes[:at], extra, *self.passes[at:]))

    def after(self, name: str, extra: Pass) -> Pipeline:
        """A pipeline with `extra` just after the pass called `name`."""
        at = self._index(name) + 1
        return Pipeline((*self.passes[:at], extra, *self.passes[at:]))

    def without(self, name: str) -> Pipeline:
        """A pipeline that leaves the pass called `name` out."""
        at = self._index(name)
        return Pipeline((*self.passes[:at], *self.passes[at + 1 :]))

    def _index(self, name: str) -> int:
        names = [step.name for step in self.passes]
        if name not in names:
            raise PassOrderError(f"no pass called {name} here; there are: {', '.join(names)}")
        return names.index(name)

    def __iter__(self) -> Iterator[Pass]:
        """The passes in order."""
        return iter(self.passes)

    def __add__(self, other: Iterable[Pass]) -> Pipeline:
        """One pipeline after another."""
        return Pipeline((*self.passes, *other))
