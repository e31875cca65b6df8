"""Convolution of one group, the same for every instruction set: output rows, blocks of channels, tiles of registers.

    void f(int32 task, x, weights, bias, scalars, [multiplier, numbers, [table]], [residual], out, scratch)

What a row reads of the operand is laid out as a strip (see `strip`), in which the taps of a window are one run; weights
stand in the order in which tiles meet them. An instruction set says how a few taps of a few pixels and channels are
multiplied and summed: see `ConvBody`, and its subclasses in `dsp`, `mve`, `neon` and `dotprod`.

    weights   s8 [block of channels][step][channel of the block][GROUP taps]
    scalars   the operand's zero point, then the numbers that LLVM must not know (`HIDDEN`)
    scratch   [weights of one block, where they are widened ahead] | strip; none where the operand is read directly
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from typing import Any, ClassVar

import numpy as np

from fxquant.targets.kernels.compact import rounding
from fxquant.targets.kernels.compact.problem import ConvWindow, Layer, chunked, folded_bias, lead
from fxquant.targets.kernels.compact.strip import PIECE, Strip, edges, fill
from fxquant.targets.kernels.compact.tiling import Pick, Tile
from fxquant.targets.kernels.epilogue import Requantization
from fxquant.targets.kernels.kernel import Choice, Kernel
from fxquant.targets.kernels.simd import argument, load, prim_func
from fxquant.targets.tvm_api import I, T, tirx

Array = np.ndarray[Any, Any]
Template = Callable[[ConvWindow, Layer, Requantization, Pick], Choice | None]


class ConvBody(ABC):
    """One function while it is being built; a subclass is an instruction set."""

    # The kernel's name; taps of a step; what the strip is made of; channels of a vector of sums; vectors that are
    # rounded and stored together, where a tile has so many.
    NAME: ClassVar[str]
    GROUP: ClassVar[int]
    ELEMENT: ClassVar[str] = "int8"
    LANES: ClassVar[int] = 1
    TOGETHER: ClassVar[int] = 1
    # Bytes that one access moves, largest first.
    PIECES: ClassVar[tuple[int, ...]] = (16, 8, 4, 1)
    # 0: sums of neighbouring channels are vectors and begin with the bias. Else every sum is by itself, in so many
    # parts (1: a general register), and gets its bias when it is complete.
    PARTIAL_SUMS: ClassVar[int] = 0
    # Numbers of the loops (see `known`) that are read at run time, since LLVM does worse for knowing them: with the
    # distance it finds what windows share and keeps that on the stack, with a count it unrolls loops of its own choice.
    HIDDEN: ClassVar[tuple[str, ...]] = ()
    # Whether padding is the zero point, which is folded into the bias; else the strip holds differences to it.
    FOLDED: ClassVar[bool] = True
    VECTOR_ROUNDING: ClassVar[rounding.Vectors | None] = None

    def __init__(self, problem: ConvWindow, tile: Tile) -> None:
        self.problem, self.tile, self.strip = problem, tile, Strip(problem)
        self.start = self.known(problem, tile)["first"]
        count, form = problem.out.shape[0], problem.epilogue
        I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "int8", 1)
        self.weights = self.declare_weights(count // tile.channels * self.block_taps)
        self.bias, self.scalars = (
            argument("bias", count, "int32", 4),
            argument("scalars", 1 + len(self.HIDDEN), "int32", 4),
        )
        self.numbers = rounding.declare(problem, self.VECTOR_ROUNDING)
        self.residual = argument("residual", form.residual.extent, form.residual.dtype, 1) if form.residual else None
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        self.scratch = self.x if self.is_direct(problem) else self.declare_scratch(self.room(problem, tile))

    @classmethod
    def takes(cls, problem: ConvWindow) -> bool:
        """Whether the instruction set has code for the problem: s8, one group, taps of a kernel row side by side."""
        is_run = problem.kernel[1] == 1 or problem.dilation[1] == 1
        return problem.x.dtype == "int8" and problem.groups == 1 and is_run

    @classmethod
    def is_exact(cls, weights: Array) -> bool:
        """Whether no sum overflows with these weights (channel, step, GROUP), whatever the operand."""
        return True

    @classmethod
    @abstractmethod
    def tiles(cls, problem: ConvWindow) -> tuple[Tile, ...]:
        """Tiles worth trying; the first is the default."""

    @classmethod
    def steps(cls, problem: ConvWindow) -> int:
        """Steps of a window."""
        return ceil(Strip(problem).window / cls.GROUP)

    @classmethod
    def is_direct(cls, problem: ConvWindow) -> bool:
        """Whether the operand is read where it lies, without a strip: a linear layer of one row, in whole steps."""
        return problem.is_pointwise and problem.out.shape[1:] == (1, 1) and problem.x.shape[0] % cls.GROUP == 0

    @classmethod
    def room(cls, problem: ConvWindow, tile: Tile) -> int:
        """Elements of scratch memory; the last window's last step may reach past the strip."""
        if cls.is_direct(problem):
            return 0
        ahead = ceil(tile.channels * cls.steps(problem) * cls.GROUP / 16) * 16 if tile.ahead else 0
        return ahead + ceil((Strip(problem).size + cls.GROUP) / 16) * 16

    @classmethod
    def known(cls, problem: ConvWindow, tile: Tile) -> dict[str, int]:
        """The numbers of the loops, by name, in elements of the strip: see HIDDEN."""
        strip = Strip(problem)
        return {
            "first": cls.room(problem, tile) - cls.room(problem, replace(tile, ahead=False)),
            "distance": strip.pixel,
            "turns": cls.steps(problem) // tile.unroll,
            "columns": strip.inside,
            "run": strip.inside * strip.channels // PIECE,
        }

    @property
    def block_taps(self) -> int:
        """Weights of a block of channels."""
        return self.tile.channels * self.steps(self.problem) * self.GROUP

    @classmethod
    def arranged(cls, problem: ConvWindow, blocks: Array) -> Array:
        """Weights (block, channel, step, GROUP) with the taps of each step in the order of the strip."""
        return blocks

    def declare_weights(self, elements: int) -> Any:
        """The weights argument."""
        return argument("weights", elements, "int8", 16)

    def declare_scratch(self, elements: int) -> Any:
        """The scratch argument."""
        return argument("scratch", elements, self.ELEMENT, 16)

    def emit(self) -> None:
        """Row by row: the strip, then all blocks of channels over all pixels."""
        problem, tile = self.problem, self.tile
        count, height, width = problem.out.shape
        self.zero = I.Bind(self.scalars[0])
        hidden = {name: I.Bind(self.scalars[1 + i]) for i, name in enumerate(self.HIDDEN)}
        self.loops = {**self.known(problem, tile), **hidden}
        self.prepare()
        has_strip = not self.is_direct(problem)
        if has_strip:
            edges(self.strip, self)
        with I.serial(0, height) as row:
            if has_strip:
                fill(self.strip, row, self)
            with I.serial(0, count // (tile.channels * tile.parts)) as block:
                if tile.ahead:
                    self.widen(block)
                with I.serial(0, ceil(width / tile.pixels)) as group:
                    first = group * tile.pixels
                    self._tile(row, block, I.Bind(I.min(first, width - tile.pixels) if width % tile.pixels else first))

    def prepare(self) -> None:
        """Bind what the whole function needs: here the zero point in a vector."""
        self.zeros = I.Bind(T.broadcast(T.cast(self.zero, "int8"), self.PIECES[0]))

    def pad(self, at: Any, count: int) -> None:
        """Write padding to the strip."""
        for start, size in self._pieces(count):
            few = [tirx.const(i, "int32") for i in range(size)]
            put(
                self.scratch,
                at + start,
                self.zeros if size == self.PIECES[0] else tirx.Shuffle([self.zeros], few),
                size,
            )

    def copy(self, at: Any, source: Any, count: int) -> None:
        """Copy elements of the operand to the strip."""
        for start, size in self._pieces(count):
            put(self.scratch, at + start, get(self.x, source + start, size), size)

    def _pieces(self, count: int) -> Iterator[tuple[int, int]]:
        """Starts and sizes of the accesses that make up a run of bytes."""
        at = 0
        while at < count:
            size = next(n for n in self.PIECES if n <= count - at)
            yield at, size
            at += size

    def widen(self, block: Any) -> None:
        """Put the weights of a block into scratch memory."""
        raise NotImplementedError(f"{self.NAME} widens no weights")

    @abstractmethod
    def multiply(self, acc: Any, sums: list[list[int]], taps: list[Any], weights: Any, step: int) -> None:
        """Add the products of one step to s32 `acc`, those of a pixel and channel to sum number `sums[pixel][channel]`.

        A turn's steps begin at `taps[pixel]` of the strip and at `weights`, both in elements.
        """

    def _tile(self, row: Any, block: Any, pixel: Any) -> None:
        tile = self.tile
        acc = I.alloc_buffer((tile.pixels * tile.channels * tile.parts * max(self.PARTIAL_SUMS, 1),), "int32")
        bases = [I.Bind(self.loops["first"] + pixel * self.loops["distance"])]
        for _ in range(1, tile.pixels):
            bases.append(I.Bind(bases[-1] + self.loops["distance"]))
        for part in range(tile.parts):
            self._part(acc, bases, block * tile.parts + part, part * tile.channels)
        channels = tile.channels * tile.parts
        sizes = () if self.problem.epilogue.table else (self.LANES * self.TOGETHER, self.LANES)
        lanes = next((size for size in sizes if channels % size == 0), 1)
        for p in range(tile.pixels):
            for c in range(0, channels, lanes):
                value = self.sums(acc, p * channels + c, block * channels + c, lanes)
                self._store(row, pixel + p, block * channels + c, value, lanes)

    def _part(self, acc: Any, bases: list[Any], block: Any, first: int) -> None:
        """The sums of a block of channels, from `first` on within the tile."""
        tile, across = self.tile, self.tile.channels * self.tile.parts
        lanes = self.LANES if tile.channels % self.LANES == 0 and not self.PARTIAL_SUMS else 1
        for c in range(0, tile.channels, lanes):
            for p in range(tile.pixels):
                at = p * across + first + c
                if size := self.PARTIAL_SUMS:
                    put(acc, at * size, rounding.spread(tirx.const(0, "int32"), size), size)
                else:
                    put(acc, at, get(self.bias, block * tile.channels + c, lanes), lanes)
        weights = I.Bind(0 if tile.ahead else block * self.block_taps)
        if tile.unroll == self.steps(self.problem):
            self._turn(acc, bases, weights, first)
        else:
            with I.serial(0, self.loops["turns"]) as turn:
                stride = tile.unroll * self.GROUP
                taps = [base + turn * stride for base in bases]
                self._turn(acc, taps, weights + turn * (stride * tile.channels), first)

    def _turn(self, acc: Any, taps: list[Any], weights: Any, first: int) -> None:
        across = self.tile.channels * self.tile.parts
        sums = [[p * across + first + c for c in range(self.tile.channels)] for p in range(self.tile.pixels)]
        for step in range(self.tile.unroll):
            self.multiply(acc, sums, taps, weights, step)

    def sums(self, acc: Any, at: int, channel: Any, lanes: int) -> Any:
        """The sums of neighbouring channels with their bias."""
        if not self.PARTIAL_SUMS:
            # LLVM keeps in registers what is written and read by vectors of the same size.
            vectors = [get(acc, at + i, min(self.LANES, lanes)) for i in range(0, lanes, self.LANES)]
            return vectors[0] if len(vectors) == 1 else joined(vectors, lanes)
        bias = get(self.bias, channel, lanes)
        if lanes == 1:
            return acc[at] + bias
        return joined([acc[at + i] for i in range(lanes)], lanes) + bias

    def _store(self, row: Any, pixel: Any, channel: Any, value: Any, lanes: int) -> None:
        problem, other = self.problem, None
        if self.residual is not None and problem.epilogue.residual is not None:
            _, down, across = problem.epilogue.residual.strides
            other = get(self.residual, row * down + pixel * across + channel, lanes)
            other = T.cast(other, f"int32x{lanes}" if lanes > 1 else "int32")
        _, down, across = problem.out.strides
        put(self.out, row * down + pixel * across + channel, self.numbers.elements(value, channel, lanes, other), lanes)


def get(buffer: Any, at: Any, lanes: int) -> Any:
    """`lanes` elements as a vector, one as a scalar."""
    return load(buffer, at, lanes) if lanes > 1 else buffer[at]


def put(buffer: Any, at: Any, value: Any, lanes: int) -> None:
    """Store what `get` loads."""
    I.buffer_store(buffer, value, [I.ramp(at, 1, lanes) if lanes > 1 else at])


def joined(parts: list[Any], lanes: int) -> Any:
    """The vector of `lanes` that scalars or shorter vectors make up."""
    return tirx.Shuffle(parts, places(0, lanes))


def places(first: int, count: int) -> list[Any]:
    """Indices of neighbours, for a shuffle."""
    return [tirx.const(first + i, "int32") for i in range(count)]


def balanced(width: int, most: int) -> int:
    """Pixels of a tile, so that as many tiles as tiles of `most` pixels compute the fewest twice."""
    return ceil(width / ceil(width / most))


def divisors(count: int, most: int) -> list[int]:
    """The divisors of `count` up to `most`, largest first."""
    return [n for n in range(min(count, most), 0, -1) if count % n == 0]


def template(body: type[ConvBody]) -> Template:
    """The template of an instruction set."""

    def choose(problem: ConvWindow, layer: Layer, numbers: Requantization, pick: Pick) -> Choice | None:
        if not body.takes(problem):
            return None
        shaped = chunked(problem)
        if not body.is_exact(runs(body, shaped, layer.weight)):
            return None
        return choice(body, shaped, layer, numbers, pick(body.NAME, shaped, body.tiles(shaped)))

    return choose


def choice(body: type[ConvBody], problem: ConvWindow, layer: Layer, numbers: Requantization, tile: Tile) -> Choice:
    """A template with a tile, and its constants."""
    packed: dict[str, Array] = {
        "weights": pack(body, problem, layer.weight, tile),
        "bias": folded_bias(layer) if body.FOLDED else layer.bias.astype(np.int32),
        "scalars": np.array([layer.zero, *(body.known(problem, tile)[name] for name in body.HIDDEN)], np.int32),
        **rounding.constants(problem, numbers),
    }
    return Choice(
        body.NAME,
        tile,
        lambda: kernel(body, problem, tile),
        packed,
        in_place=problem.out.shape[2] % tile.pixels == 0,
        lead=_lead(body, problem),
    )


def _lead(body: type[ConvBody], problem: ConvWindow) -> int | None:
    """See `Choice`: the strip holds all that a row of pixels reads."""
    if not problem.is_pointwise or body.is_direct(problem):
        return None
    return lead(problem, lambda row: (row + 1) * problem.stride[0])


def pack(body: type[ConvBody], problem: ConvWindow, weight: Array, tile: Tile) -> Array:
    """Weights (Co, C, kh, kw) in the order of the loops."""
    steps = runs(body, problem, weight)
    blocks = body.arranged(problem, steps.reshape(-1, tile.channels, *steps.shape[1:]))
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(-1)


def runs(body: type[ConvBody], problem: ConvWindow, weight: Array) -> Array:
    """Weights (Co, C, kh, kw) as (channel, step, GROUP), with zeros behind the last tap."""
    count, steps = len(weight), body.steps(problem)
    padded = np.zeros((count, steps * body.GROUP), np.int8)
    padded[:, : Strip(problem).window] = weight.transpose(0, 3, 2, 1).reshape(count, -1)
    return padded.reshape(count, steps, body.GROUP)


def kernel(body: type[ConvBody], problem: ConvWindow, tile: Tile) -> Kernel:
    """One task: the whole layer."""
    with prim_func("conv") as finish:
        body(problem, tile).emit()
    return Kernel(finish(), 1, body.room(problem, tile) * np.dtype(body.ELEMENT).itemsize)
