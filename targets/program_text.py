"""A program as text, one line per call: what it reads and writes, and where that lies in which buffer."""

from __future__ import annotations

from collections.abc import Iterator

from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.program import Call, Overwrite, Program


def text(program: Program) -> str:
    """The ports, then every call: `result = kernel(operands) # label`.

        input x: float32[1,3,8,8]
        q = fxq_quantize_0(x: float32[1,3,8,8], scale: constant 4 B, ...)  # quantize_default

    A value is `buffer: dtype[shape]`, with `strides(...)` unless it is row-major, `+offset` where it does not begin
    with its buffer, and `bias` where memory holds another number. A result that may lie over an operand says so.
    """
    return "".join(f"{line}\n" for line in _lines(program))


def _lines(program: Program) -> Iterator[str]:
    for tensor in program.inputs:
        yield f"input {_tensor(tensor)}"
    for call in program.calls:
        yield call_text(program, call)
    for tensor in program.outputs:
        yield f"output {_tensor(tensor)}"


def call_text(program: Program, call: Call) -> str:
    """One call."""
    results = [a for a in call.arguments if a is call.result]
    operands = ", ".join(_value(a) for a in call.arguments if a is not call.result)
    kernel = program.kernels.get(call.symbol)
    tasks = f" tasks {kernel.tasks}" if kernel is not None else ""
    overs = "".join(map(_over, call.overwrites))
    made = ", ".join(map(_value, results)) or "nothing"
    return f"{made} = {call.symbol}({operands}){tasks}{overs}  # {call.label}"


def _over(over: Overwrite) -> str:
    return f" over {over.operand.buffer.name}" + ("" if over.lead is None else f" from {over.lead} B before")


def _value(value: Tensor | Buffer) -> str:
    if isinstance(value, Tensor):
        return _tensor(value)
    dtype = "" if value.data is None else f" {value.data.dtype}"
    origin = "" if value.expands is None else f" from {value.expands.stored.bytes} B"
    return f"{value.name}: {value.kind}{dtype} {value.bytes} B{origin}"


def _tensor(tensor: Tensor) -> str:
    spec = tensor.spec
    parts = [f"{tensor.buffer.name}: {spec.dtype}[{','.join(map(str, spec.shape))}]"]
    if spec.strides != _row_major(spec.shape):
        parts.append(f"strides({','.join(map(str, spec.strides))})")
    if tensor.offset:
        parts.append(f"{tensor.offset:+d}")
    if spec.bias:
        parts.append(f"bias {spec.bias}")
    if tensor.buffer.kind != "arena":
        parts.append(tensor.buffer.kind)
    return " ".join(parts)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
