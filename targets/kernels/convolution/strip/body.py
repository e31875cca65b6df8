"""Convolution, the same for every instruction set: output rows, groups, blocks of channels, tiles of registers.

    void f(int32 task, x, weights, bias, scalars, [multiplier, numbers, [table]], [residual], out, scratch)

What a row reads of the operand is laid out as a strip (see `strip`), in which the taps of a window are one run; weights
stand in the order in which tiles meet them. An instruction set says how a few taps of a few pixels and channels are
multiplied and summed: see `ConvBody`, and its subclasses in `dsp`, `mve`, `neon`, `dotprod`, `smmla` and `rvv`.

    weights   s8 [block of channels][step][channel of the block][GROUP taps], or of fewer bits, each block packed by
              itself: widened in scratch memory once per row, or in registers
    scalars   the operand's zero point, then the numbers that LLVM must not know (`HIDDEN`)
    scratch   [weights of one block, where they are widened ahead] | strip | [those of fewer bits, as bytes]; no strip
              where the operand is read directly
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any, ClassVar

import numpy as np

from fxquant.targets.kernels.contract.kernel import Declined
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.convolution.strip.tile import Tile
from fxquant.targets.kernels.epilogue import rounding
from fxquant.targets.kernels.parts.params import Param, declare
from fxquant.targets.kernels.parts.strip import PIECE, Strip, edges, fill
from fxquant.targets.kernels.parts.sums import Places, Sums, Vectors
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.pieces import dealt
from fxquant.targets.kernels.words.tir import argument, get, put
from fxquant.targets.tvm_api import I, T, tirx

Array = np.ndarray[Any, Any]


class ConvBody(ABC):
    """One function while it is being built; a subclass is an instruction set."""

    # The kernel's name; taps of a step; what the strip is made of; how sums stand in registers; how many times the
    # lanes of sums are rounded and stored together, where a tile has so many channels.
    NAME: ClassVar[str]
    GROUP: ClassVar[int]
    ELEMENT: ClassVar[str] = "int8"
    SUMS: ClassVar[Sums] = Vectors()
    TOGETHER: ClassVar[int] = 1
    # Bytes that one access moves, largest first.
    PIECES: ClassVar[tuple[int, ...]] = (16, 8, 4, 1)
    # Numbers of the loops (see `known`) that are read at run time, since LLVM does worse for knowing them: with the
    # distance it finds what windows share and keeps that on the stack, with a count it unrolls loops of its own choice.
    HIDDEN: ClassVar[tuple[str, ...]] = ()
    # Whether padding is the zero point, which is folded into the bias; else the strip holds differences to it.
    FOLDED: ClassVar[bool] = True
    VECTOR_ROUNDING: ClassVar[rounding.Vectors | None] = None
    # Bytes of weights of fewer bits that are widened at once.
    LANES: ClassVar[int] = 16

    def __init__(self, problem: ConvProblem, tile: Tile) -> None:
        self.problem, self.tile, self.strip = problem, tile, Strip(problem)
        self.start, self.sums = self.known(problem, tile)["first"], self.SUMS
        form = problem.epilogue
        self.task = I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "int8", 1)
        self.weights, self.bias, self.scalars = declare(self.params(problem, tile)).values()
        self.numbers = rounding.declare(problem, self.VECTOR_ROUNDING)
        self.residual = argument("residual", form.residual.extent, form.residual.dtype, 1) if form.residual else None
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        self.scratch = self.x
        if room := self.room(problem, tile):
            self.scratch = self.declare_scratch(room)
        if self.widens_rows(problem, tile):
            self.packed, self.weights = self.weights, self.declare_wide()
        if self.is_direct(problem):
            self.scratch = self.x

    @classmethod
    def declines(cls, problem: ConvProblem) -> Declined | None:
        """Why there is no code for the problem: operands are s8, taps of a kernel row lie side by side."""
        if problem.x.dtype != "int8":
            return Declined(cls.NAME, f"{problem.x.dtype} operand")
        is_run = problem.kernel[1] == 1 or problem.dilation[1] == 1
        return None if is_run else Declined(cls.NAME, "dilated along a row")

    @classmethod
    def overflows(cls, weights: Array) -> str:
        """Why a sum could overflow with these weights (channel, step, GROUP); "" if none can, whatever the operand."""
        return ""

    @classmethod
    @abstractmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """Tiles worth trying; the first is the default."""

    @classmethod
    def steps(cls, problem: ConvProblem) -> int:
        """Steps of a window."""
        return ceil(Strip(problem).window / cls.GROUP)

    @classmethod
    def is_direct(cls, problem: ConvProblem) -> bool:
        """Whether the operand is read where it lies, without a strip: a linear layer of one row, in whole steps."""
        return problem.is_pointwise and problem.out.shape[1:] == (1, 1) and problem.depth % cls.GROUP == 0

    @classmethod
    def room(cls, problem: ConvProblem, tile: Tile) -> int:
        """Elements of scratch memory; the last window's last step may reach past the strip."""
        return cls.strip_room(problem, tile) + cls.wide_room(problem, tile)

    @classmethod
    def strip_room(cls, problem: ConvProblem, tile: Tile) -> int:
        """The same without weights of fewer bits."""
        if cls.is_direct(problem):
            return 0
        ahead = ceil(cls.block_room(problem, tile) / 16) * 16 if tile.ahead else 0
        return ahead + ceil((Strip(problem).size + cls.GROUP) / 16) * 16

    @classmethod
    def stored(cls, problem: ConvProblem) -> Stored:
        """How weights lie in memory."""
        return Stored(problem.weight_bits, cls.LANES)

    @classmethod
    def block_room(cls, problem: ConvProblem, tile: Tile) -> int:
        """Weights of a block of channels, in whole chunks where they have fewer bits."""
        taps = tile.channels * cls.steps(problem) * cls.GROUP
        return taps if problem.weight_bits == 8 else cls.stored(problem).room(taps)

    @classmethod
    def enlarged(cls, problem: ConvProblem) -> int:
        """Bits by which sums are too large until they are complete: weights may stand high in their bytes."""
        return 0

    @classmethod
    def fits_chunks(cls, problem: ConvProblem, tile: Tile) -> bool:
        """Whether the weights of a turn are whole chunks, or those of a block are a turn."""
        weights = tile.unroll * tile.channels * cls.GROUP
        return weights % cls.stored(problem).chunk == 0 or tile.unroll == cls.steps(problem)

    @classmethod
    def widens_rows(cls, problem: ConvProblem, tile: Tile) -> bool:
        """Whether weights of fewer bits become bytes in scratch memory, once per row and block."""
        return problem.weight_bits < 8

    @classmethod
    def wide_room(cls, problem: ConvProblem, tile: Tile) -> int:
        """Elements of scratch memory for them."""
        return tile.parts * cls.block_room(problem, tile) if cls.widens_rows(problem, tile) else 0

    def declare_wide(self) -> Any:
        """Weights as bytes, behind the strip."""
        room, first = self.wide_room(self.problem, self.tile), self.strip_room(self.problem, self.tile)
        place = I.Bind(T.address_of(self.scratch[first]))
        return I.decl_buffer((room,), "int8", data=place, align=16)

    @classmethod
    def known(cls, problem: ConvProblem, tile: Tile) -> dict[str, int]:
        """The numbers of the loops, by name, in elements of the strip: see HIDDEN."""
        strip = Strip(problem)
        return {
            "first": cls.strip_room(problem, tile) - cls.strip_room(problem, replace(tile, ahead=False)),
            "distance": strip.pixel,
            "turns": cls.steps(problem) // tile.unroll,
            "columns": strip.inside,
            "run": strip.inside * strip.channels // PIECE,
        }

    @classmethod
    def params(cls, problem: ConvProblem, tile: Tile) -> list[Param]:
        """The layer's constants."""
        count = problem.out.shape[0]

        def bias(layer: Layer) -> Array:
            found = (layer.folded_bias(problem.x) if cls.FOLDED else layer.bias).astype(np.int32)
            return found << cls.enlarged(problem)

        def scalars(layer: Layer) -> Array:
            known = cls.known(problem, tile)
            return np.array([layer.zero, *(known[name] for name in cls.HIDDEN)], np.int32)

        blocks, taps = count // tile.channels, tile.channels * cls.steps(problem) * cls.GROUP
        values = partial(cls.in_order, problem, tile)
        is_packed = problem.weight_bits < 8
        return [
            cls.stored(problem).param(blocks, taps, values, 16)
            if is_packed
            else cls.weights_param(blocks * taps, values),
            Param("bias", count, "int32", bias, align=4),
            Param("scalars", 1 + len(cls.HIDDEN), "int32", scalars, align=4),
        ]

    @classmethod
    def in_order(cls, problem: ConvProblem, tile: Tile, layer: Layer) -> Array:
        """Weights in the order of the loops."""
        steps = cls.runs(problem, layer.weight)
        blocks = cls.arranged(problem, steps.reshape(-1, tile.channels, *steps.shape[1:]))
        return blocks.transpose(0, 2, 1, 3)

    @classmethod
    def runs(cls, problem: ConvProblem, weight: Array) -> Array:
        """Weights (Co, C, kh, kw) as (channel, step, GROUP), with zeros behind the last tap."""
        count, steps = len(weight), cls.steps(problem)
        padded = np.zeros((count, steps * cls.GROUP), np.int8)
        padded[:, : Strip(problem).window] = weight.transpose(0, 3, 2, 1).reshape(count, -1)
        return padded.reshape(count, steps, cls.GROUP)

    @property
    def block_taps(self) -> int:
        """Weights of a block of channels, as they are counted in memory."""
        return self.block_room(self.problem, self.tile)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of weights of fewer bits."""
        return self.block_taps // self.stored(self.problem).count

    @classmethod
    def arranged(cls, problem: ConvProblem, blocks: Array) -> Array:
        """Weights (block, channel, step, GROUP) with the taps of each step in the order of the strip."""
        return blocks

    @classmethod
    def weights_param(cls, elements: int, values: Callable[..., Array]) -> Param:
        """The weights argument."""
        return Param("weights", elements, "int8", values, align=16)

    def declare_scratch(self, elements: int) -> Any:
        """The scratch argument."""
        return argument("scratch", elements, self.ELEMENT, 16)

    def emit(self) -> int:
        """Row by row: the strip, then all blocks of channels over all pixels. Returns how many tasks there are."""
        problem, tile = self.problem, self.tile
        rows, blocks, tasks = self._dealt()
        self.zero = I.Bind(self.scalars[0])
        hidden = {name: I.Bind(self.scalars[1 + i]) for i, name in enumerate(self.HIDDEN)}
        self.loops = {**self.known(problem, tile), **hidden}
        self.prepare()
        if not self.is_direct(problem):
            edges(self.strip, self)
        with I.serial(*rows) as row:
            if problem.groups == 1:
                self._row(row, 0, blocks)
            else:
                with I.serial(0, problem.groups) as group:
                    self._row(row, group, blocks)
        return tasks

    def _dealt(self) -> tuple[Sequence[Any], Sequence[Any], int]:
        """Rows and blocks of channels of a task from where to where, and how many tasks there are."""
        problem = self.problem
        rows, blocks = problem.out.shape[1], self._blocks
        if problem.pieces == 1:
            return (0, rows), (0, blocks), 1
        own_rows, own_blocks, tasks = dealt(self.task, rows, 1 if problem.groups > 1 else blocks, problem.pieces)
        return own_rows, (0, blocks) if problem.groups > 1 else own_blocks, tasks

    @property
    def _blocks(self) -> int:
        """Blocks of channels of a group, in the parts that are stored together."""
        return self.problem.count // (self.tile.channels * self.tile.parts)

    def _row(self, row: Any, group: Any, own: Sequence[Any]) -> None:
        """A row of one group, or a task's `own` blocks of channels of it."""
        problem, tile, width = self.problem, self.tile, self.problem.out.shape[2]
        first, blocks = group * problem.depth, self._blocks
        base = self.loops["first"] + (first if self.is_direct(problem) else 0)
        if not self.is_direct(problem):
            fill(self.strip, row, first, self)
        with I.serial(*own) as inner:
            block = I.Bind(group * blocks + inner) if problem.groups > 1 else inner
            if tile.ahead:
                self.widen(block)
            elif self.widens_rows(problem, tile):
                self.widen_bytes(block)
            with I.serial(0, ceil(width / tile.pixels)) as tiles:
                start = tiles * tile.pixels
                pixel = I.Bind(I.min(start, width - tile.pixels) if width % tile.pixels else start)
                self._tile(row, block, pixel, base + pixel * self.loops["distance"])

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

    def widen_bytes(self, block: Any) -> None:
        """Put weights of fewer bits into scratch memory, as bytes: those of all parts of a block."""
        elements = self.tile.parts * self.block_taps
        first = block * (self.tile.parts * self.block_bytes)
        self.stored(self.problem).widen(self.packed, first, elements, self.store_wide)

    def store_wide(self, at: Any, part: Any) -> None:
        """One vector of weights, as bytes."""
        put(self.weights, at, part, self.LANES)

    @abstractmethod
    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """Add the products of one step to s32 `acc`, those of a pixel and channel to what is at `sums[pixel][channel]`.

        A turn's steps begin at `taps[pixel]` of the strip and at `weights`, both in elements.
        """

    def _tile(self, row: Any, block: Any, pixel: Any, base: Any) -> None:
        """Pixels from `pixel` on, whose first taps are at `base`, by the channels of a block."""
        tile, form = self.tile, self.sums
        channels = tile.channels * tile.parts
        acc = I.alloc_buffer((form.room(tile.pixels, channels),), "int32")
        places = form.places(tile.pixels, channels)
        bases = [I.Bind(base)]
        for _ in range(1, tile.pixels):
            bases.append(I.Bind(bases[-1] + self.loops["distance"]))
        for part in range(tile.parts):
            mine = slice(part * tile.channels, (part + 1) * tile.channels)
            self._part(acc, bases, block, part, [pixel[mine] for pixel in places])
        lanes = 1 if self.problem.epilogue.table else form.together(channels)
        lanes *= self.TOGETHER if channels % (lanes * self.TOGETHER) == 0 and lanes > 1 else 1
        for p in range(tile.pixels):
            for c in range(0, channels, lanes):
                value = form.complete(acc, places[p][c : c + lanes], self.bias, block * channels + c)
                self._store(row, pixel + p, block * channels + c, value, lanes)

    def _part(self, acc: Any, bases: list[Any], block: Any, part: int, sums: Places) -> None:
        """The sums of a part of a block of channels."""
        tile, number = self.tile, block * self.tile.parts + part
        self.sums.begin(acc, sums, self.bias, number * tile.channels)
        if self.widens_rows(self.problem, tile):
            weights = I.Bind(part * self.block_taps)
        else:
            weights = I.Bind(0 if tile.ahead else number * self.block_taps)
        if tile.unroll == self.steps(self.problem):
            self._turn(acc, bases, weights, sums)
        else:
            with I.serial(0, self.loops["turns"]) as turn:
                stride = tile.unroll * self.GROUP
                taps = [base + turn * stride for base in bases]
                self._turn(acc, taps, weights + turn * (stride * tile.channels), sums)

    def _turn(self, acc: Any, taps: list[Any], weights: Any, sums: Places) -> None:
        for step in range(self.tile.unroll):
            self.multiply(acc, sums, taps, weights, step)

    def _store(self, row: Any, pixel: Any, channel: Any, value: Any, lanes: int) -> None:
        problem, other = self.problem, None
        if self.residual is not None and problem.epilogue.residual is not None:
            _, down, across = problem.epilogue.residual.strides
            other = get(self.residual, row * down + pixel * across + channel, lanes)
            other = T.cast(other, f"int32x{lanes}" if lanes > 1 else "int32")
        _, down, across = problem.out.strides
        put(self.out, row * down + pixel * across + channel, self.numbers.elements(value, channel, lanes, other), lanes)


def balanced(width: int, most: int) -> int:
    """Pixels of a tile, so that as many tiles as tiles of `most` pixels compute the fewest twice."""
    return ceil(width / ceil(width / most))


def divisors(count: int, most: int) -> list[int]:
    """The divisors of `count` up to `most`, largest first."""
    return [n for n in range(min(count, most), 0, -1) if count % n == 0]
