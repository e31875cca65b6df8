"""An architecture by name: how to build it and what to feed it; weights are drawn, batch statistics settled."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What a model takes: positional arguments, or keyword arguments by name.
Input = tuple[Tensor, ...] | dict[str, Tensor]
Inputs = Callable[[int], list[Input]]

SEED = 0
# The first inputs settle batch statistics, what comes after calibrates.
SETTLING = 2


@dataclass(frozen=True)
class Architecture:
    """One architecture: `make` draws it, `inputs(n)` draws n inputs of one sample each; `package` must be installed.

    `real` weights ship with the package: nothing is drawn or settled.
    """

    name: str
    package: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    real: bool = False

    def build(self, count: int) -> tuple[nn.Module, list[Input]]:
        """The model in evaluation mode, and `count` inputs; the same ones every time."""
        torch.manual_seed(SEED)
        model = self.make()
        inputs = self.inputs(SETTLING + count)
        if not self.real:
            settle(model, inputs[:SETTLING])
        return model.eval().requires_grad_(False), inputs[SETTLING:]


def call(model: Callable[..., Any], given: Input) -> Any:
    """The model's result for one input."""
    return model(**given) if isinstance(given, dict) else model(*given)


def settle(model: nn.Module, inputs: Iterable[Input]) -> None:
    """Give batch norms the statistics of their own inputs, as training would: those of a drawn network explode.

    Everything else is in evaluation mode meanwhile. A batch of one is doubled, with some noise between its halves.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    model.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.train()
    with torch.no_grad():
        for given in inputs:
            call(model, _doubled(given))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _doubled(given: Input) -> Input:
    if isinstance(given, dict):
        return {name: _twice(value) for name, value in given.items()}
    return tuple(map(_twice, given))


def _twice(value: Tensor) -> Tensor:
    other = value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
    return torch.cat([value, other])


def normal(*shapes: tuple[int, ...]) -> Inputs:
    """Normally distributed inputs, one tensor for each shape."""
    return lambda count: [tuple(torch.randn(shape) for shape in shapes) for _ in range(count)]


def images(size: int | tuple[int, int], channels: int = 3) -> Inputs:
    """Images as networks see them: smooth, with some noise, of about unit deviation."""
    height, width = (size, size) if isinstance(size, int) else size

    def draw(count: int) -> list[Input]:
        return [(_image(channels, height, width),) for _ in range(count)]

    return draw


def _image(channels: int, height: int, width: int) -> Tensor:
    coarse = torch.randn(1, channels, max(height // 8, 2), max(width // 8, 2))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth + 0.3 * torch.randn(1, channels, height, width)


def tokens(length: int, words: int) -> Inputs:
    """Whole numbers below `words`."""
    return lambda count: [(torch.randint(1, words, (1, length)),) for _ in range(count)]


def installed(package: str) -> bool:
    """Whether a package can be imported, with all that it needs."""
    try:
        importlib.import_module(package)
    except Exception:  # a package that is there and broken is as good as none
        return False
    return True


def chosen(everything: Iterable[Architecture], patterns: Iterable[str]) -> Iterator[Architecture]:
    """Those whose names contain or match any pattern; all without patterns."""
    from fnmatch import fnmatchcase

    wanted = list(patterns)
    for one in everything:
        if not wanted or any(p in one.name or fnmatchcase(one.name, p) for p in wanted):
            yield one
