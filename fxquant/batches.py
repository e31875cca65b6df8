"""What a loader gives, turned into what the model takes: `transform=lambda batch: batch[0]` drops the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import chain
from typing import Any

from fxquant.errors import CalibrationError

# From what a loader gives to what the model takes: a tensor, a tuple of tensors, or a dict by the inputs' names.
Transform = Callable[[Any], Any]


def transformed(data: Iterable[Any], transform: Transform | None) -> Iterable[Any]:
    """`data` with `transform` applied to each of its items, as often as `data` can be iterated; itself without one."""
    if transform is None:
        return data
    if not callable(transform):
        raise CalibrationError(f"transform must be a function of one batch, not {transform!r}")
    return (_Counted if isinstance(data, Sized) else _Transformed)(data, transform)


def repeatable(data: Iterable[Any]) -> Iterable[Any]:
    """Data that can be gone over again. Raises CalibrationError for a generator."""
    if iter(data) is data:
        raise CalibrationError("calibration is a generator, used up after one turn: give a list or a loader")
    return data


class Joined:
    """The items of several sources, one source behind the other, as often as they can be iterated."""

    def __init__(self, *sources: Iterable[Any]) -> None:
        self.sources = sources

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.sources)


class _Transformed:
    def __init__(self, data: Iterable[Any], transform: Transform) -> None:
        self.data, self.transform = data, transform

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.data):
            try:
                taken = self.transform(batch)
            except Exception as error:  # the user's own function: whatever it raises is theirs to read
                raise CalibrationError(
                    f"transform failed on input {number}, {_shown(batch)}: {type(error).__name__}: {error}"
                ) from error
            yield taken


class _Counted(_Transformed):
    def __len__(self) -> int:
        assert isinstance(self.data, Sized)
        return len(self.data)


def _shown(batch: Any) -> str:
    kinds = ", ".join(type(part).__name__ for part in batch) if isinstance(batch, (tuple, list)) else ""
    return f"a {type(batch).__name__}{f' of ({kinds})' if kinds else ''}"
