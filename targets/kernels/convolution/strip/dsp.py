"""Cortex-M cores with the DSP extension (M4, M7, M33): two 16-bit products per `smlad`.

The strip holds s16 differences to the zero point, and weights of a block of channels are widened once per row of
pixels: then four products cost two loads' halves and two `smlad`. A layer of few pixels widens its weights on the fly,
one of a single pixel (fully connected) the operand too, where it lies: there is nobody to share the widened one with.

`sxtb16` widens bytes 0 and 2, and after a rotation 1 and 3: so s16 elements stand in the order 0 2 1 3 in every group
of four. Where a pixel's channels do not fill such groups, the operand keeps its order and the weights are stored in
that order instead.

Weights of fewer bits stay at the upper end of the bytes that a mask makes of them, where `sxtb16` finds them times 16
(2 bits: 64): sums are so many times too large, which is proven to fit, and what completes a sum takes it off again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from fxquant.targets.kernels.contract.kernel import Declined
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.strip.body import Array, ConvBody, divisors
from fxquant.targets.kernels.convolution.strip.tile import Tile
from fxquant.targets.kernels.parts.sums import Enlarged, Places
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.tir import argument, bits, load
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

ORDER = (0, 2, 1, 3)
# Fewer pixels per row than this, and widening weights ahead does not pay.
LEAST_PIXELS = 4
WORD = 4


class Words:
    """Weights of fewer bits, in words of as many chunks as an instruction masks."""

    def __init__(self, buffer: Any, stored: Stored) -> None:
        self.buffer, self.stored = buffer, stored
        self._loaded: dict[int, Any] = {}

    def begin(self) -> None:
        """Forget what was loaded: other weights come."""
        self._loaded = {}

    def four(self, first: Any, number: int) -> Any:
        """Four bytes: group `number` of those from element `first` on, each 2^(8 - size) times too large."""
        count = self.stored.count
        word, part = divmod(number, count)
        if word not in self._loaded:
            at = I.shift_right(first, tirx.const(count.bit_length() - 1, "int32")) + word * WORD
            self._loaded[word] = I.Bind(bits(load(self.buffer, at, WORD), "int32"))
        found = self._loaded[word]
        moved = I.shift_left(found, tirx.const(part * self.stored.size, "int32")) if part else found
        return I.Bind(T.bitwise_and(moved, tirx.const(_upper(self.stored.size), "int32")))


def _upper(size: int) -> int:
    """A word with the upper bits of each byte set, as s32."""
    byte = 256 - (1 << (8 - size))
    return int.from_bytes(bytes([byte]) * WORD, "little", signed=True)


def _enlarged(problem: ConvProblem) -> int:
    return 8 - problem.weight_bits


class DspBody(ConvBody):
    """A step is two pairs of taps."""

    NAME: ClassVar[str] = "dsp"
    GROUP: ClassVar[int] = 4
    LANES: ClassVar[int] = WORD
    ELEMENT: ClassVar[str] = "int16"
    HIDDEN: ClassVar[tuple[str, ...]] = ("first", "distance", "columns", "run")
    FOLDED: ClassVar[bool] = False

    @classmethod
    def is_direct(cls, problem: ConvProblem) -> bool:
        """Operands are widened into a strip."""
        return False

    @classmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """Two by two fills the registers, unless much would be computed twice at the end of a row."""
        count, width = problem.count, problem.out.shape[2]
        steps, channels = cls.steps(problem), divisors(count, 2)[0]
        narrow = Tile(1, channels, divisors(steps, 4)[0])
        # What LLVM makes of a loop jumps with its length: these counted least over the MLPerf Tiny networks.
        unroll = 9 if steps % 9 == 0 and width >= LEAST_PIXELS else divisors(steps, 2)[0]
        if width < LEAST_PIXELS:
            found: tuple[Tile, ...] = (Tile(1, channels, unroll), narrow)
            if problem.weight_bits == 8 or (found := tuple(t for t in found if cls.fits_chunks(problem, t))):
                return found
            return (replace(narrow, ahead=True),)
        ahead = [
            Tile(pixels, channels, n, ahead=True)
            for pixels in (2, 1)
            for n in dict.fromkeys((unroll, *divisors(steps, 2), *divisors(steps, 9)[:2]))
        ]
        return tuple(sorted(ahead, key=lambda tile: tile.pixels == 2 and width % 2 and width < 2 * LEAST_PIXELS))

    @classmethod
    def enlarged(cls, problem: ConvProblem) -> int:
        """See the module."""
        return _enlarged(problem)

    @classmethod
    def widens_rows(cls, problem: ConvProblem, tile: Tile) -> bool:
        """To 16 bits, by `widen`, or in registers."""
        return False

    @classmethod
    def in_words(cls, problem: ConvProblem) -> bool:
        """Whether pixels begin at words: loads of two words then become one `ldrd`."""
        return problem.depth % cls.GROUP == 0

    @classmethod
    def arranged(cls, problem: ConvProblem, blocks: Array) -> Array:
        """The order of `sxtb16`, unless the strip has it."""
        return blocks if cls.in_words(problem) else blocks[..., list(ORDER)]

    @property
    def step(self) -> int:
        """s16 elements per element of the scratch buffer."""
        return 2 if self.in_words(self.problem) else 1

    def declare_scratch(self, elements: int) -> Any:
        """As words where pixels begin at words."""
        if self.step == 2:
            return argument("scratch", elements // 2, "int32", 4)
        return argument("scratch", elements, "int16", 2)

    def prepare(self) -> None:
        """The zero point to subtract, twice in a word."""
        self.sums = Enlarged(shift=self.enlarged(self.problem)) if self.problem.weight_bits < 8 else self.SUMS
        self.words = Words(self.weights, self.stored(self.problem))
        minus = I.Bind(-self.zero)
        self.minus_pair = I.Bind(T.bitwise_or(I.shift_left(minus, 16), T.bitwise_and(minus, 0xFFFF)))

    def pad(self, at: Any, count: int) -> None:
        """Zeros."""
        with I.serial(0, count // self.step) as i:
            I.buffer_store(self.scratch, tirx.const(0, self.scratch.dtype), [(self.start + at) // self.step + i])

    def copy(self, at: Any, source: Any, count: int) -> None:
        """Widened differences to the zero point."""
        if not self.in_words(self.problem):
            with I.serial(0, count) as i:
                value = T.cast(self.x[source + i], "int32") - self.zero
                I.buffer_store(self.scratch, T.cast(value, "int16"), [self.start + at + i])
            return
        with I.serial(0, count // self.GROUP) as i:
            four = I.Bind(bits(load(self.x, source + i * self.GROUP, self.GROUP), "int32"))
            for half in (0, 1):
                pair = intrinsic("llvm.arm.sxtab16", "int32", self.minus_pair, _rotated(four, half))
                self._store_pair(self.start + at + i * self.GROUP + 2 * half, pair)

    def widen(self, block: Any) -> None:
        """The weights of a block as s16, at the beginning of the scratch memory."""
        count = self.words.stored.count
        if count > 1:
            with I.serial(0, self.block_taps // (self.GROUP * count)) as i:
                self.words.begin()
                for part in range(count):
                    four = self.words.four(block * self.block_taps + i * (self.GROUP * count), part)
                    for half in (0, 1):
                        self._store_pair((i * count + part) * self.GROUP + 2 * half, _widened(four, half))
            return
        with I.serial(0, self.block_taps // self.GROUP) as i:
            four = I.Bind(bits(load(self.weights, block * self.block_taps + i * self.GROUP, self.GROUP), "int32"))
            for half in (0, 1):
                self._store_pair(i * self.GROUP + 2 * half, _widened(four, half))

    def _store_pair(self, at: Any, pair: Any) -> None:
        if self.step == 2:
            I.buffer_store(self.scratch, pair, [at // 2])
        else:
            I.buffer_store(self.scratch, bits(pair, "int16x2"), [I.ramp(at, 1, 2)])

    def _pair(self, at: Any) -> Any:
        if self.step == 2:
            return I.Bind(self.scratch[at // 2])
        return I.Bind(bits(load(self.scratch, at, 2), "int32"))

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """Two `smlad` per pixel and channel."""
        tile, group = self.tile, self.GROUP
        factors = [self._factors(weights, step * tile.channels + c, step == c == 0) for c in range(tile.channels)]
        for p in range(tile.pixels):
            pair = [self._pair(taps[p] + step * group + 2 * half) for half in (0, 1)]
            for c, at in enumerate(sums[p]):
                for half in (0, 1):
                    total = intrinsic("llvm.arm.smlad", "int32", pair[half], factors[c][half], acc[at])
                    I.buffer_store(acc, total, [at])

    def _factors(self, first: Any, number: int, is_new: bool) -> list[Any]:
        at = first + number * self.GROUP
        if self.tile.ahead:
            return [self._pair(at + 2 * half) for half in (0, 1)]
        if self.problem.weight_bits < 8:
            return _of_few_bits(self.words, first, number, is_new)
        four = I.Bind(bits(load(self.weights, at, self.GROUP), "int32"))
        return [I.Bind(_widened(four, half)) for half in (0, 1)]


def _of_few_bits(words: Words, first: Any, number: int, is_new: bool) -> list[Any]:
    if is_new:
        words.begin()
    four = words.four(first, number)
    return [I.Bind(_widened(four, half)) for half in (0, 1)]


class DspRowBody(ConvBody):
    """A layer of one pixel: the zero point is in the bias, and everything is widened on the fly."""

    NAME: ClassVar[str] = "dsp-row"
    GROUP: ClassVar[int] = 4
    LANES: ClassVar[int] = WORD
    # LLVM would unroll once more, into more registers than there are.
    HIDDEN: ClassVar[tuple[str, ...]] = ("turns",)

    @classmethod
    def declines(cls, problem: ConvProblem) -> Declined | None:
        """What is not read directly."""
        reason = super().declines(problem) or (None if cls.is_direct(problem) else Declined(cls.NAME))
        if reason is None and not cls.tiles(problem):
            reason = Declined(cls.NAME, f"no turn has whole words of weights of {problem.weight_bits} bits")
        return reason

    @classmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """Four sums, and weights of one channel at a time."""
        steps = cls.steps(problem)
        found = (Tile(1, channels, unroll) for channels in divisors(problem.count, 4) for unroll in divisors(steps, 4))
        return tuple(tile for tile in found if problem.weight_bits == 8 or cls.fits_chunks(problem, tile))

    @classmethod
    def enlarged(cls, problem: ConvProblem) -> int:
        """See the module."""
        return _enlarged(problem)

    @classmethod
    def widens_rows(cls, problem: ConvProblem, tile: Tile) -> bool:
        """In registers."""
        return False

    def prepare(self) -> None:
        """Nothing is padded."""
        self.sums = Enlarged(shift=self.enlarged(self.problem)) if self.problem.weight_bits < 8 else self.SUMS
        self.words = Words(self.weights, self.stored(self.problem))

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """Two `smlad` per channel."""
        group = self.GROUP
        pair = self._wide(self.x, taps[0] + step * group)
        for c, at in enumerate(sums[0]):
            number = step * self.tile.channels + c
            if self.problem.weight_bits < 8:
                factors = _of_few_bits(self.words, weights, number, step == c == 0)
            else:
                factors = self._wide(self.weights, weights + number * group)
            for half in (0, 1):
                total = intrinsic("llvm.arm.smlad", "int32", pair[half], factors[half], acc[at])
                I.buffer_store(acc, total, [at])

    def _wide(self, buffer: Any, at: Any) -> list[Any]:
        four = I.Bind(bits(load(buffer, at, self.GROUP), "int32"))
        return [I.Bind(_widened(four, half)) for half in (0, 1)]


def _rotated(four: Any, half: int) -> Any:
    """The word itself, or its bytes 1 and 3 in the places of 0 and 2; LLVM folds the rotation into `sxtb16`."""
    return intrinsic("llvm.fshr.i32", "int32", four, four, tirx.const(8, "int32")) if half else four


def _widened(four: Any, half: int) -> Any:
    return intrinsic("llvm.arm.sxtb16", "int32", _rotated(four, half))
