"""A network as one C99 file: TVM writes the kernels, the calls and the constants are written here.

Everything but the functions of the interface is static, and the only headers are the model's own, stdint.h, stdbool.h
and string.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fxquant.errors import LoweringError
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.planner import weight_blob
from fxquant.targets.program import Call
from fxquant.targets.standalone.header import alignments, ctype, parameters
from fxquant.targets.standalone.network import Entry, Network, functions
from fxquant.targets.standalone.status import Status, tests_c
from fxquant.targets.tvm_api import build_object

_NUMBERS_PER_LINE = 24
# The code is generated: kernels of one form have the same parameters, used or not.
_QUIET = """#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
"""
# What C leaves to the compiler and this code relies on. Not every compiler says its byte order: `_run` asks again.
_ASSUMED = """\
/* The machine is little-endian; the compiler's conversions to signed types wrap, its right shifts keep the sign. */
#if (defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) || defined(__BIG_ENDIAN__) || defined(__ARMEB__)
#error "the constants are little-endian: this code does not run on a big-endian machine"
#endif
typedef char assumed_of_signed_integers[(int32_t)UINT32_C(0xFFFFFFFE) == -2 && (-2 >> 1) == -1 ? 1 : -1];
"""
_EXPORTED = re.compile(r'#ifdef __cplusplus\nextern "C"\n#endif\nTVM_DLL ')
_FLOAT = re.compile(r"\b(float|double)\b")


def c_source(net: Network, *, marked: bool = False) -> str:
    """The text of <name>.c. Raises LoweringError where a kernel needs floating point: C libraries round differently."""
    kernels = {name: func for name, func in functions(net).items() if not name.endswith("_layers")}
    text = build_object(kernels, {"kind": "c"}).inspect_source()
    _, _, body = text.partition("#include <stdbool.h>\n")
    body = _EXPORTED.sub("static ", body).replace("void* __tvm_ffi__library_ctx = NULL;\n", "")
    if _FLOAT.search(body):
        raise LoweringError(
            f"{net.name}: a float operation has no C sources; keep the model integer, or emit a library"
        )
    includes = _QUIET + f'#include "{net.name}.h"\n\n#include <stdbool.h>\n#include <string.h>\n'
    mark = f"void {net.name}_mark(int32_t layer);\n" if marked else ""
    return "\n".join([includes + mark, _ASSUMED, _constants(net), body.strip(), "", *_functions(net, marked)])


def _functions(net: Network, marked: bool) -> list[str]:
    return [_function(net, entry, marked) for entry in net.entries]


def _constants(net: Network) -> str:
    """Read-only bytes, aligned like the widest number in them."""
    blob = weight_blob(net.program, net.plan) or b"\0"
    rows = (blob[i : i + _NUMBERS_PER_LINE] for i in range(0, len(blob), _NUMBERS_PER_LINE))
    body = ",\n".join("  " + ",".join(map(str, row)) for row in rows)
    return f"static const union {{ uint8_t at[{len(blob)}]; int64_t align; }} constants = {{{{\n{body}\n}}}};\n"


def _function(net: Network, entry: Entry, marked: bool) -> str:
    ports = [p for p, port in zip(alignments(entry), entry.ports, strict=True) if port is not entry.label]
    lines = [
        f"int {entry.symbol(net.name)}({_parameters(entry)}) {{",
        "  static const uint16_t one = 1;",
        f"  if (*(const uint8_t *)&one != 1) return {net.name.upper()}_{Status.BAD_BYTE_ORDER.name};",
        *tests_c(net.name, ports, [kind for kind in entry.regions if net.region_bytes(kind)]),
        *_label(net, entry),
    ]
    is_marked = marked and entry.suffix == "run"
    for layer, call in enumerate(entry.calls):
        lines += [f"  {net.name}_mark({layer});"] if is_marked else []
        # A module may be called anything; nothing of it ends the comment.
        lines += [f"  /* {call.label.replace('*/', '* /')} */", *_call(net, entry, call)]
    return "\n".join([*lines, "  return 0;", "}", ""])


def _parameters(entry: Entry) -> str:
    """The label by the name `label`: its place is a pointer's."""
    names = [name for name, _ in alignments(entry)]
    if entry.label is not None:
        names[entry.ports.index(entry.label)] = "label"
    return parameters(entry, names)


def _label(net: Network, entry: Entry) -> Iterator[str]:
    if entry.label is not None:
        classes, refuses = net.program.learning.classes, f"{net.name.upper()}_{Status.BAD_LABEL.name}"
        yield f"  if (label < 0 || label >= {classes}) return {refuses};"
        yield f"  const int32_t *in{entry.inputs.index(entry.label)} = &label;"


def _call(net: Network, entry: Entry, call: Call) -> Iterator[str]:
    symbol, tasks = f"{net.name}_{call.symbol.removeprefix('fxq_')}", net.program.kernels[call.symbol].tasks
    kinds = [ctype(str(p.dtype)) for p in net.program.kernels[call.symbol].func.params[1:]]
    arguments = ", ".join(f"({kind} *){_address(net, entry, a)}" for kind, a in zip(kinds, call.arguments, strict=True))
    if tasks == 1:
        yield f"  {symbol}(0, {arguments});"
        return
    yield f"  for (int32_t task = 0; task < {tasks}; ++task) {symbol}(task, {arguments});"


def _address(net: Network, entry: Entry, argument: Tensor | Buffer) -> str:
    buffer = argument.buffer if isinstance(argument, Tensor) else argument
    within = argument.byte_offset if isinstance(argument, Tensor) else 0
    for number, port in enumerate(entry.inputs):
        if port.buffer is buffer:
            return f"((const uint8_t *)in{number} + {within})"
    for number, port in enumerate(entry.outputs):
        if port.buffer is buffer:
            return f"((uint8_t *)out{number} + {within})"
    region = "constants.at" if buffer.kind == "constant" else buffer.kind
    return f"({region} + {net.plan.offset(buffer) + within})"
