"""The observer: a module that lets a tensor through unchanged and remembers what its range must be.

Every observer keeps the exact smallest and largest value per channel, since no range may exceed the data and NaN and
infinity show up there for free. A subclass adds what its own range needs, in `record`, `absorb` and `range`.

What makes observers mergeable is that a state is a function of the data alone, never of the rounding of partial sums:
counts and sums are integers, extremes are extremes. So halves of the data merge to exactly what the whole gives.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import CalibrationError, FxquantError, ObserverError
from fxquant.qparams import QParams, choose_qparams
from fxquant.scheme import Scheme


class Stateful(nn.Module):
    """A module whose state is its buffers, the shapes of which may depend on the data seen."""

    def state(self) -> dict[str, Tensor]:
        """A copy of everything remembered, by name, as plain tensors."""
        return {name: buffer.detach().clone() for name, buffer in self.named_buffers()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace what is remembered by a `state()` of the same kind of object.

        Raises CalibrationError when names are missing or unknown.
        """
        try:
            self.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise CalibrationError(f"this is no state of a {type(self).__name__}: {error}") from error

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # torch refuses a tensor of another shape, but ours take their shapes from the data.
        for name, buffer in self._buffers.items():
            found = state_dict.get(prefix + name)
            if buffer is not None and isinstance(found, Tensor):
                self._buffers[name] = buffer.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Observer(Stateful, ABC):
    """Base of all observers: `forward` returns its input and, while `enabled`, records it.

    `where` names the observed value in errors: the node and the model's own source line. Where only a part of a value
    counts, `look` gives what is recorded for it.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, scheme: Scheme, where: str = "") -> None:
        super().__init__()
        self.scheme = scheme
        self.where = where
        self.enabled = True
        self.look: Callable[[Tensor], Tensor] | None = None
        channels = 0 if scheme.per_channel else 1
        self.register_buffer("low", torch.zeros(channels))
        self.register_buffer("high", torch.zeros(channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def record(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Take in one batch: float32 `rows` [channels, values], finite, and its extremes [channels].

        Runs after `low`, `high` and `seen` have taken in the batch.
        """

    def absorb(self, other: Observer) -> None:
        """Take in what `other`, not empty and of the same kind, has recorded; `self` may be empty."""

    @abstractmethod
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the range, float64 [channels], of an observer that is not empty."""

    @property
    def options(self) -> dict[str, float]:
        """The values of the options beyond the scheme, by name."""
        return {}

    def doubt(self) -> str:
        """Why this kind of observer is a bad choice for what it has seen, "" where nothing speaks against it."""
        return ""

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return int(self.seen)

    @property
    def empty(self) -> bool:
        """Whether nothing was recorded yet."""
        return self.count == 0

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself. Raises CalibrationError, while enabled, for NaN, infinity or a dtype that is not floating."""
        if self.enabled and x.numel():
            with torch.no_grad():
                self._observe(x.detach())
        return x

    def range(self) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the range, float64 [channels].

        Raises CalibrationError when nothing was recorded, ObserverError where `bounds` gives what is no range.
        """
        if self.empty:
            raise CalibrationError(f"no value was observed{self._at}: run the model on calibration data first")
        with self._blamed("bounds"):
            found = self.bounds()
        wrong = _no_range(found, len(self.low))
        if wrong:
            raise ObserverError(
                f"the observer {type(self).__name__} gives {wrong}{self._at}; bounds() must return lower and upper "
                f"ends, two float tensors of shape [{len(self.low)}], finite, the lower not above the upper"
            )
        return found

    def qparams(self) -> QParams:
        """Scale and zero point for the range, by the scheme."""
        low, high = self.range()
        return choose_qparams(low.tolist(), high.tolist(), self.scheme)

    def merge(self, other: Observer) -> None:
        """Become what observing this one's data and then the other's would have given.

        Raises CalibrationError when the two differ in kind, scheme, options or number of channels.
        """
        mine, its = self.describe(), other.describe()
        if type(self) is not type(other) or mine != its:
            raise CalibrationError(f"cannot merge {its} into {mine}{self._at}: both must be made alike")
        if other.empty:
            return
        self._fit_channels(len(other.low))
        self._extend(other.low, other.high, other.count)
        with self._blamed("absorb"):
            self.absorb(other)

    def require_sound(self) -> None:
        """Raise something where the state that was loaded cannot come of data: see that it can go on, and end."""
        low, high = self.low, self.high
        if self.count < 0 or not bool((low.isfinite() & high.isfinite() & (low <= high)).all()):
            raise CalibrationError(f"what was seen{self._at} is no range")
        trial = copy.deepcopy(self)
        trial.merge(self)
        trial._observe_rows(torch.stack([low, high], 1) if len(low) else torch.zeros(1, 2))
        trial.range()

    def describe(self) -> str:
        """Kind, options and scheme in one line."""
        options = ", ".join(f"{name}={value:g}" for name, value in self.options.items())
        return f"{type(self).__name__}({options}) for {self.scheme} in [{self.scheme.qmin}, {self.scheme.qmax}]"

    def extra_repr(self) -> str:
        """What `print(graph_module)` shows."""
        return f"{self.describe()}, seen={self.count}"

    @property
    def _at(self) -> str:
        return f" at {self.where}" if self.where else ""

    def _observe(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise CalibrationError(f"cannot observe {x.dtype}{self._at}: only floating point values have a range")
        seen = x.to("cpu", torch.float32)
        self._observe_rows(self._rows(seen if self.look is None else self.look(seen)))

    def _observe_rows(self, rows: Tensor) -> None:
        # numpy reduces on one core faster than torch on two.
        low, high = torch.from_numpy(rows.numpy().min(axis=1)), torch.from_numpy(rows.numpy().max(axis=1))
        if not bool((low.isfinite() & high.isfinite()).all()):
            bad = int((~rows.isfinite()).sum())
            raise CalibrationError(
                f"{bad} of {rows.numel()} values are NaN or infinite{self._at}: "
                "look for bad calibration data or an overflow in the model"
            )
        self._fit_channels(len(low))
        self._extend(low, high, rows.numel())
        with self._blamed("record"):
            self.record(rows, low, high)
        if loose := [name for name, value in vars(self).items() if isinstance(value, Tensor)]:
            raise ObserverError(
                f"the observer {type(self).__name__} keeps {', '.join(loose)} outside of its state{self._at}: "
                "register_buffer it in __init__, or checkpoints and merges lose it"
            )

    @contextmanager
    def _blamed(self, method: str) -> Iterator[None]:
        """What a method of a subclass raises is named as that class's."""
        try:
            yield
        except FxquantError:
            raise
        except Exception as error:
            raise ObserverError(
                f"the observer {type(self).__name__} fails in {method}(){self._at}: {type(error).__name__}: {error}"
            ) from error

    def _rows(self, x: Tensor) -> Tensor:
        axis = self.scheme.axis
        if axis is None:
            # Order "K": as the values lie in memory, so that channels-last data is not copied.
            return torch.from_numpy(x.numpy().ravel(order="K")).reshape(1, -1)
        if not -x.ndim <= axis < x.ndim:
            raise CalibrationError(f"no channel axis {axis} in a tensor of shape {tuple(x.shape)}{self._at}")
        return x.movedim(axis, 0).reshape(x.shape[axis], -1)

    def _fit_channels(self, channels: int) -> None:
        if not self.empty and len(self.low) != channels:
            raise CalibrationError(f"{channels} channels after {len(self.low)} channels{self._at}: check the data")

    def _extend(self, low: Tensor, high: Tensor, count: int) -> None:
        low, high = low.to(self.low.device), high.to(self.high.device)
        if self.empty:
            self.low, self.high = low.clone(), high.clone()
        else:
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.seen = self.seen + count


def observers_of(module: fx.GraphModule) -> Iterator[tuple[str, Observer]]:
    """Observers of a graph by name, in its order."""
    for node in module.graph.find_nodes(op="call_module"):
        observer = module.get_submodule(str(node.target))
        if isinstance(observer, Observer):
            yield str(node.target), observer


def _no_range(found: object, channels: int) -> str:
    """Why what `bounds` gave is no range of so many channels; "" if it is one."""
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(end, Tensor) for end in found)):
        return f"{found!r}"
    low, high = found
    if any(not end.is_floating_point() or tuple(end.shape) != (channels,) for end in found):
        return " and ".join(f"{end.dtype} {list(end.shape)}" for end in found)
    if not bool((low.isfinite() & high.isfinite() & (low <= high)).all()):
        return f"the range {low.tolist()} to {high.tolist()}"
    return ""
