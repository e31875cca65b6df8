"""Observers by name: what the text in `Scheme.observer` means."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from fxquant.errors import SchemeError
from fxquant.observers.base import Observer
from fxquant.scheme import Scheme

OBSERVERS: dict[str, type[Observer]] = {}

Kind = TypeVar("Kind", bound=type[Observer])


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator that makes an observer known under `name`.

    The class takes `(scheme, where="", *, ...)`; its keyword-only arguments, which need defaults, are its options:
    the first one may be given without its name ("percentile:99.99").

    Raises SchemeError when another class has the name.
    """

    def add(kind: Kind) -> Kind:
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
    return kind(scheme, where, **_options(name, kind, text))


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
