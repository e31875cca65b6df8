"""Passes and pipelines.

A pass is a frozen dataclass: its options are typed fields, so that its repr, its command-line spelling and its docs
come free. It says which stage it `needs` and which it `gives`; a pipeline checks that order before anything runs and
verifies the graph at every border.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, NoReturn

from torch import fx

from fxquant.arguments import settle
from fxquant.completion import complete, snapshot
from fxquant.errors import FxquantError, PassError, PassOrderError
from fxquant.history import Look
from fxquant.invariants import verify
from fxquant.stage import Stage, set_stage, stage_of

Observe = Callable[["Pass", fx.GraphModule], None]
Transform = Callable[[fx.GraphModule], fx.GraphModule]


@dataclass(frozen=True)
class Pass:
    """Base of all passes: override `run`, which may edit the module in place and returns it.

    The pass gets a copy: the caller's graph is never changed.
    """

    needs: ClassVar[Stage] = Stage.FLOAT
    gives: ClassVar[Stage] = Stage.FLOAT

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Transform the graph."""
        raise PassError(f"{type(self).__name__} must override run(module)")

    def __call__(self, module: fx.GraphModule) -> fx.GraphModule:
        """Verify, copy, run, verify."""
        return self.apply(copy.deepcopy(module))

    def apply(self, module: fx.GraphModule) -> fx.GraphModule:
        """Like a call, but on the module itself.

        Raises PassOrderError for a graph of another stage, PassError where `run` fails or what it gives cannot be
        computed, StageError where that is no graph of the stage that it promises.
        """
        found = stage_of(module)
        if found is not self.needs:
            raise PassOrderError(f"{self.name} needs a {self.needs} graph and got a {found} one")
        _settle(module)
        verify(module, self.needs, f"{self.name} needs")
        look = Look(module)
        # Passes of fxquant's own say what their nodes are, and their tests hold them to it.
        before = None if type(self).__module__.startswith("fxquant.") else snapshot(module)
        result = self._result(module)
        if before is not None:
            complete(result, before, self.name)
        _settle(result)
        look.note(result, self.name)
        set_stage(result, self.gives)
        verify(result, self.gives, f"{self.name} gives")
        result.recompile()
        return result

    def _result(self, module: fx.GraphModule) -> fx.GraphModule:
        try:
            result = self.run(module)
        except FxquantError:
            raise
        except Exception as error:
            self._blame(error)
        if not isinstance(result, fx.GraphModule):
            raise PassError(f"{self.name} gives {_what(result)}, not a GraphModule: return the module from run(module)")
        return result

    def _blame(self, error: Exception) -> NoReturn:
        """What the pass raised, with the last line of its own that is known."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
        at = f" at {frames[-1].filename}:{frames[-1].lineno} {frames[-1].line!r}" if frames else ""
        raise PassError(f"the pass {self.name} fails{at}: {type(error).__name__}: {error}") from error

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
        return {f.name: f"{f.type}{_default(f)}" for f in fields(cls)}


def _default(option: Field[Any]) -> str:
    if option.default is not MISSING:
        return f" = {option.default!r}"
    return "" if option.default_factory is MISSING else f" = {option.type}()"


def _settle(module: fx.GraphModule) -> None:
    """Calls as a user may write them, by position or keyword, become calls as passes read them."""
    for node in module.graph.nodes:
        settle(node)


def as_pass(function: Transform, *, needs: Stage = Stage.FLOAT, gives: Stage | None = None) -> Pass:
    """A pass of a plain function from module to module, which may edit in place; its name is the function's.

    `gives` is the stage that it needs, unless it says otherwise. Raises PassError for what is no function.
    """
    if isinstance(function, (type, Pass)) or not callable(function):
        raise PassError(f"as_pass takes a function from module to module, not {_what(function)}")
    name = getattr(function, "__name__", type(function).__name__)
    facts = {"needs": needs, "gives": gives or needs, "run": lambda _, module: function(module),
             "__doc__": function.__doc__ or name, "__module__": function.__module__}  # fmt: skip
    made: Pass = type(name, (Pass,), facts)()
    return made


def _require_pass(step: Any) -> None:
    """Raise PassError with the remedy for what is no pass."""
    if isinstance(step, type) and issubclass(step, Pass):
        raise PassError(f"{step.__name__} is a class: put a pass of it into the pipeline, {step.__name__}(...)")
    if not isinstance(step, Pass):
        name = getattr(step, "__name__", "function")
        remedy = f": make it one, fxquant.as_pass({name})" if callable(step) else ""
        raise PassError(f"{_what(step)} is no pass{remedy}")
    for word in ("needs", "gives"):
        if not isinstance(stage := getattr(step, word), Stage):
            known = ", ".join(f"Stage.{each.name}" for each in Stage)
            raise PassError(f"{step.name}.{word} is {stage!r}, which is no stage: {known}")


def _what(thing: object) -> str:
    return "None" if thing is None else getattr(thing, "__name__", "") or f"a {type(thing).__name__}"


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. `before` and `after` give a new pipeline with a pass of the user's slotted in."""

    passes: tuple[Pass, ...]

    def __post_init__(self) -> None:
        """Check that each is a pass, and gives what the next one needs."""
        for step in self.passes:
            _require_pass(step)
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
