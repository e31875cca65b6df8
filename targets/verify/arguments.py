"""Whether a call's arguments are what its kernel's parameters take, and what of their memory the kernel may touch."""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.errors import MemorySafetyError
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.planner import Grain, Plan
from fxquant.targets.program import Call
from fxquant.targets.verify.accesses import Memory, Tables
from fxquant.targets.verify.known import Facts
from fxquant.targets.verify.reach import Allowed

NOTHING = (0, -1)


@dataclass(frozen=True)
class Argument:
    """An argument beside the parameter that takes it; what the kernel does with it."""

    parameter: Memory
    value: Tensor | Buffer
    is_loaded: bool
    is_stored: bool

    @property
    def buffer(self) -> Buffer:
        """The memory that it is in."""
        return self.value.buffer if isinstance(self.value, Tensor) else self.value

    @property
    def offset(self) -> int:
        """Bytes from the buffer's start to the element that the kernel's pointer is at."""
        return self.value.byte_offset if isinstance(self.value, Tensor) else 0


def paired(call: Call, kernel: Kernel, facts: Facts) -> list[Argument]:
    """The arguments with their parameters, whose number, names and types agree; without a hosted kernel's scratch."""
    parameters = facts.parameters
    missing = len(parameters) - len(call.arguments)
    if missing != bool(kernel.scratch) and missing != 0:
        raise MemorySafetyError(f"it takes {len(parameters)} arguments and gets {len(call.arguments)}")
    found = [
        Argument(parameter, value, position in facts.loaded, position in facts.stored)
        for position, (parameter, value) in enumerate(zip(parameters, call.arguments, strict=False))
    ]
    for argument in found:
        _require_type(argument)
    _require_order(call, found)
    return found


def _require_type(argument: Argument) -> None:
    wanted, value = argument.parameter.dtype, argument.value
    if isinstance(value, Tensor):
        held = value.spec.dtype
    elif value.data is not None and value.data.itemsize > 1:
        held = str(value.data.dtype)
    else:
        return  # bytes, which kernels may load as words
    if held != wanted:
        raise MemorySafetyError(f"{_named(argument)} holds {held}, and the kernel takes {wanted}")


def _require_order(call: Call, arguments: list[Argument]) -> None:
    by_name = {argument.parameter.name: argument for argument in arguments}
    for name, buffer in call.packed.items():
        if name not in by_name:
            raise MemorySafetyError(f"{buffer.name} is packed for a parameter {name}, which the kernel does not have")
        if by_name[name].value is not buffer:
            raise MemorySafetyError(f"{_named(by_name[name])} is given where {buffer.name} is packed for it")


def _named(argument: Argument) -> str:
    return f"argument {argument.parameter.name} ({argument.buffer.name})"


def require_places(arguments: list[Argument], plan: Plan, grain: Grain) -> None:
    """Views lie in their buffers, and pointers where the kernel's loads want them."""
    for argument in arguments:
        value, buffer = argument.value, argument.buffer
        if isinstance(value, Tensor):
            low, high = value.spec.span
            first, last = argument.offset + low * value.itemsize, argument.offset + (high + 1) * value.itemsize
            if value.spec.size and not 0 <= first <= last <= buffer.bytes:
                raise MemorySafetyError(
                    f"{_named(argument)} is a view of bytes {first} to {last - 1}, and its buffer has {buffer.bytes}"
                )
        is_planned = buffer.kind in ("arena", "constant", "state")
        place = argument.offset + (plan.offset(buffer) if is_planned else 0)
        # A caller's memory is aligned to its elements, planned memory to the grain.
        align = min(argument.parameter.align, grain.align if is_planned else argument.parameter.itemsize)
        if place % align:
            raise MemorySafetyError(f"{_named(argument)} is at byte {place}, which is no multiple of {align}")


def allowed(arguments: list[Argument], kernel: Kernel, facts: Facts, grain: Grain) -> dict[int, Allowed]:
    """By position: what may be read and written of each argument, in elements from the kernel's pointer.

    Everything in the buffer and the slack behind it may be read, but a view only be written where it has elements.
    """
    found = dict(enumerate(_own(argument, grain) for argument in arguments))
    if len(arguments) < len(facts.parameters):  # the private memory of a thread
        scratch = facts.parameters[-1]
        whole = (0, kernel.scratch // scratch.itemsize - 1)
        found[len(arguments)] = Allowed(whole, whole)
    return found


def _own(argument: Argument, grain: Grain) -> Allowed:
    buffer, size = argument.buffer, argument.parameter.itemsize
    slack = 0 if buffer.kind in ("input", "output") else grain.slack
    read = (-(argument.offset // size), (buffer.bytes + slack - argument.offset) // size - 1)
    if buffer.kind not in ("arena", "output", "state"):
        return Allowed(read, NOTHING)
    if isinstance(argument.value, Tensor):
        return Allowed(read, argument.value.spec.span)
    return Allowed(read, (0, buffer.bytes // size - 1))


def tables(arguments: list[Argument]) -> Tables:
    """The integers of constants, by position: what is looked up in them is bounded by what they hold."""
    found = {}
    for position, argument in enumerate(arguments):
        data = argument.buffer.data
        if data is not None and str(data.dtype) == argument.parameter.dtype and data.dtype.kind in "iu":
            found[position] = data.reshape(-1)[argument.offset // data.itemsize :]
    return found
