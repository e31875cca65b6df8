"""The problems of all other operations: what is read and written, and what is compiled into a kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fxquant.targets.kernels.contract.epilogue import Epilogue, Rounded
from fxquant.targets.kernels.contract.kernel import TensorSpec


@dataclass(frozen=True)
class Matmul:
    """The product of the last two axes, batched over the others, which `a` and `b` have like `out`.

    `drop` are the bits that exact sums lose, rounded, so that 32 bits hold them. `about_zero`: the zero point of `a`
    is 0.
    """

    a: TensorSpec
    b: TensorSpec
    out: TensorSpec
    epilogue: Epilogue
    drop: int = 0
    about_zero: bool = False


@dataclass(frozen=True)
class Softmax:
    """Over the last axis; `table` are the powers."""

    x: TensorSpec
    table: TensorSpec
    out: TensorSpec


@dataclass(frozen=True)
class LogSum:
    """The logarithm of softmax's sum, over the last axis; `fraction` are the bits that scores have more."""

    x: TensorSpec
    table: TensorSpec
    out: TensorSpec
    fraction: int


@dataclass(frozen=True)
class Norm:
    """Over the last axis, `epsilon` and `half` as the primitives have them; about zero, or about each row's mean."""

    x: TensorSpec
    out: TensorSpec
    epsilon: int
    half: int
    about_zero: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers a kernel reads: qmin, qmax, and about zero the zero point."""
        return 3 if self.about_zero else 2


@dataclass(frozen=True)
class Recurrence:
    """All steps of one direction of a recurrent layer: gates (N, T, rows), states (N or 1, H), results (N, T, H).

    With `projects` the hidden states of an LSTM are sums of fewer values.
    `relu` is an Elman network with it, `rnn` one with tanh. `out` are hidden states, `cells` the cell states of an
    LSTM.
    """

    kind: Literal["lstm", "gru", "rnn", "relu"]
    gates: TensorSpec
    hidden: TensorSpec
    cell: TensorSpec | None
    out: TensorSpec | None
    cells: TensorSpec | None
    reverse: bool
    projects: bool = False

    @property
    def depth(self) -> int:
        """Values of the hidden state."""
        return self.hidden.shape[-1]

    @property
    def size(self) -> int:
        """Units."""
        return self.rows // self.gates_of_unit

    @property
    def rows(self) -> int:
        """Gates of all units."""
        return self.gates.shape[-1]

    @property
    def gates_of_unit(self) -> int:
        """Rows of the weights for each unit."""
        return {"lstm": 4, "gru": 3}.get(self.kind, 1)

    @property
    def room(self) -> int:
        """Elements of the scratch memory."""
        return 2 * self.depth + self.size * (self.keeps_state + self.projects)

    @property
    def keeps_state(self) -> bool:
        """Whether there is a state of 16 bits that steps add to."""
        return self.kind in ("lstm", "gru")


@dataclass(frozen=True)
class Gate:
    """An image (C, H, W) times a factor for each of its channels (C, 1, 1)."""

    x: TensorSpec
    gate: TensorSpec
    out: TensorSpec
    epilogue: Epilogue


@dataclass(frozen=True)
class Rescale:
    """A requantize or an add: one or two operands and their common shift.

    `saturates`: the clamp is to the whole range of the result's type.
    """

    inputs: tuple[TensorSpec, ...]
    out: TensorSpec
    shift: int
    saturates: bool


@dataclass(frozen=True)
class Pixels:
    """An image (C, H, W) of float32 to integers; with `inverse` by x * (1 / scale), as scales of run time are."""

    x: TensorSpec
    out: TensorSpec
    inverse: bool = False


@dataclass(frozen=True)
class Round:
    """A tensor of float32 to the integers of a scale of run time."""

    x: TensorSpec
    out: TensorSpec


@dataclass(frozen=True)
class Resample:
    """x (C, H, W) u8 to out (C, OH, OW), both with channel stride 1; the residual of the epilogue is like the output.

    Weights are s32 and not negative; the product of the sums of both axes times 255 is below 2^31.
    """

    x: TensorSpec
    out: TensorSpec
    epilogue: Epilogue = field(default_factory=Rounded)

    @property
    def length(self) -> int:
        """Elements of a row of the result."""
        return self.out.shape[0] * self.out.shape[2]

    @property
    def is_dense(self) -> bool:
        """Whether the pixels of a row of the result, and of the residual, lie side by side."""
        views = [self.out] if self.epilogue.residual is None else [self.out, self.epilogue.residual]
        return all(view.strides[2] == self.out.shape[0] for view in views)
