"""Observers by name: what the text in `Scheme.observer` means."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from fxquant.errors import FxquantError, ObserverError, SchemeError
from fxquant.observers.base import Observer
from fxquant.scheme import Scheme

OBSERVERS: dict[str, type[Observer]] = {}

Kind = TypeVar("Kind", bound=type[Observer])


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator that makes an observer known under `name`.

    The class takes `(scheme, where="", *, ...)`; its keyword-only arguments, which need defaults, are its options:
    the first one may be given without its name ("percentile:99.99").

    Raises SchemeError when another class has the name, ObserverError for a class that is no observer, or that could not
    be merged.
    """

    def add(kind: Kind) -> Kind:
        _require_whole(name, kind)
        if OBSERVERS.setdefault(name, kind) is not kind:
            raise SchemeError(f"an observer named {name!r} exists already: {OBSERVERS[name].__name__}")
        return kind

    return add


def make(scheme: Scheme, where: str = "") -> Observer:
    """The observer that `scheme.observer` asks for: a name, then options: "moving_average:decay=0.99".

    Raises SchemeError for an unknown name or option, or a value that the option does not take.
    """
    name, _, text = scheme.observer.partition(":")
    if name not in OBSERVERS:
        raise SchemeError(f"unknown observer {name!r}{suggest(name, list(OBSERVERS))}")
    kind = OBSERVERS[name]
    options = _options(name, kind, text)
    try:
        made = kind(scheme, where, **options)
    except FxquantError:
        raise
    except Exception as error:
        raise ObserverError(f"the observer {name!r} ({kind.__name__}) cannot be made: {error}") from error
    if not hasattr(made, "seen"):
        raise ObserverError(f"the observer {name!r} ({kind.__name__}) must call super().__init__(scheme, where)")
    return made


def _require_whole(name: str, kind: object) -> None:
    """Raise ObserverError with the method that a class lacks."""
    if not (isinstance(kind, type) and issubclass(kind, Observer)):
        raise ObserverError(f"{name!r} is registered for {kind!r}: a subclass of fxquant.observers.Observer is wanted")
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    # The base merges extremes and counts, and knows of nothing else that was remembered.
    if kind.record is not Observer.record and kind.absorb is Observer.absorb:
        missing.append("absorb, which merges what its record() remembers")
    if missing:
        raise ObserverError(f"the observer {name!r} ({kind.__name__}) lacks {' and '.join(missing)}")


def suggest(word: str, known: list[str]) -> str:
    """The end of an error message: the nearest known word, then all of them."""
    near = get_close_matches(word, known, n=1)
    guess = f", did you mean {near[0]!r}?" if near else ";"
    return f"{guess} known: {', '.join(sorted(known)) or 'none'}"


def _options(name: str, kind: type[Observer], text: str) -> dict[str, float | int | str]:
    parameters = inspect.signature(kind).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    found: dict[str, float | int | str] = {}
    for position, part in enumerate(text.split(",") if text else []):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals and position == 0 and defaults:
            key, value = next(iter(defaults)), key
        if key not in defaults or key in found:
            problem = "option given twice" if key in found else "unknown option"
            raise SchemeError(f"{problem} {key!r} of observer {name!r}{suggest(key, list(defaults))}")
        try:
            found[key] = type(defaults[key])(value)
        except ValueError:
            kind_name = type(defaults[key]).__name__
            raise SchemeError(f"option {key!r} of observer {name!r} takes a {kind_name}, not {value!r}") from None
    return found
