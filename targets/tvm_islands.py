"""Float islands through TVM's own PyTorch converter: an exported program becomes a few legalized PrimFuncs.

No loop over floats is written by hand here: Relax imports and legalizes, and what comes out is a list of steps over
flat buffers, with the kernels' ABI of `targets/kernels/contract/kernel.py`. Nothing of it is believed:
`fxquant.targets.islands` compares each island with torch before it is used.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from torch.export import ExportedProgram
from tvm import relax, tirx
from tvm.relax.frontend.torch import from_exported_program

from fxquant.errors import LoweringError
from fxquant.targets.tvm_api import PrimFunc
from fxquant.targets.tvm_operators import OPERATORS


@dataclass(frozen=True)
class Value:
    """A tensor between the steps of an island: an input, a constant, or a result of a step."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Step:
    """`kernel(task, operands..., results...)`; what nobody reads of the results is the kernel's own memory."""

    kernel: PrimFunc
    operands: tuple[Value, ...]
    results: tuple[Value, ...]


@dataclass(frozen=True)
class Island:
    """Steps in order, which values are the island's results, and the numbers of constant values."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    results: tuple[Value, ...]
    constants: Mapping[Value, np.ndarray[Any, Any]]


def import_island(program: ExportedProgram) -> Island:
    """Legalized steps of `program`, which has tensors as inputs and outputs.

    Raises LoweringError with the reason alone when TVM's converter or legalizer does not know an operator.
    """
    try:
        module = from_exported_program(program, run_ep_decomposition=False, custom_convert_map=OPERATORS)
        passes = [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.LegalizeOps(),
            relax.transform.FoldConstant(),
            relax.transform.DeadCodeElimination(),
        ]
        return _Reader(tvm.ir.transform.Sequential(passes)(module)).read()
    except LoweringError:
        raise
    except Exception as error:  # what it raises depends on the operator, and none of it is its caller's
        lines = str(error).strip().splitlines()
        raise LoweringError(f"TVM cannot compile it: {lines[-1] if lines else type(error).__name__}") from error


def text_of(island: Island) -> str:
    """An island as JSON, see `island_of_text`."""
    values: dict[Value, int] = {}
    every = (v for step in island.steps for v in (*step.operands, *step.results))
    for value in (*island.inputs, *island.constants, *every, *island.results):
        values.setdefault(value, len(values))
    steps = [
        [tvm.ir.save_json(s.kernel), [values[v] for v in s.operands], [values[v] for v in s.results]]
        for s in island.steps
    ]
    constants = {values[v]: b64encode(array.tobytes()).decode() for v, array in island.constants.items()}
    ends = [[values[v] for v in island.inputs], [values[v] for v in island.results]]
    return json.dumps([[[v.name, v.shape, v.dtype] for v in values], *ends, steps, constants])


def island_of_text(text: str) -> Island:
    """The island that `text_of` wrote."""
    listed, inputs, results, steps, constants = json.loads(text)
    values = [Value(name, tuple(shape), dtype) for name, shape, dtype in listed]

    def several(places: list[int]) -> tuple[Value, ...]:
        return tuple(values[i] for i in places)

    arrays = {
        values[int(i)]: np.frombuffer(b64decode(data), values[int(i)].dtype).reshape(values[int(i)].shape)
        for i, data in constants.items()
    }
    made = tuple(Step(tvm.ir.load_json(kernel), several(ins), several(outs)) for kernel, ins, outs in steps)
    return Island(several(inputs), made, several(results), arrays)


class _Reader:
    """The legalized main function as steps."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.values: dict[Any, tuple[Value, ...]] = {}
        self.constants: dict[Value, np.ndarray[Any, Any]] = {}

    def read(self) -> Island:
        """Every binding must be a call_tir, a tuple or an alias."""
        main = self.module["main"]
        inputs = tuple(self._new(var.name, var.ty) for var in main.params)
        self.values.update({var: (value,) for var, value in zip(main.params, inputs, strict=True)})
        steps: list[Step] = []
        for block in main.body.blocks:
            for binding in block.bindings:
                step = self._binding(binding)
                if step is not None:
                    steps.append(step)
        return Island(inputs, tuple(steps), self._of(main.body.body), self.constants)

    def _new(self, name: str, kind: Any) -> Value:
        return Value(str(name), tuple(int(n) for n in kind.shape), str(kind.dtype))

    def _of(self, value: Any) -> tuple[Value, ...]:
        """What is known as `value`: one tensor, or those of a tuple."""
        if value in self.values:
            return self.values[value]
        if isinstance(value, tvm.ir.Tuple):
            return tuple(v for field in value for v in self._of(field))
        if isinstance(value, relax.TupleGetItem):
            return (self._of(value.tuple_value)[value.index],)
        if isinstance(value, tvm.ir.expr.GenericConst):
            array = value.value.numpy()
            found = Value(f"constant{len(self.constants)}", tuple(array.shape), str(array.dtype))
            self.constants[found] = array
            return (found,)
        name = getattr(value, "op", None)
        raise LoweringError(f"TVM leaves {getattr(name, 'name', type(value).__name__)} without code")

    def _binding(self, binding: Any) -> Step | None:
        value = binding.value
        if not (isinstance(value, tvm.ir.Call) and str(value.op) == str(tvm.ir.Op.get("relax.call_tir"))):
            self.values[binding.var] = self._of(value)
            return None
        operands = tuple(v for a in value.args[1] for v in self._of(a))
        kinds = binding.var.ty
        kinds = list(kinds.fields) if isinstance(kinds, tvm.ir.TupleType) else [kinds]
        results = tuple(self._new(f"{binding.var.name}_{i}" if i else binding.var.name, k) for i, k in enumerate(kinds))
        self.values[binding.var] = results
        kernel, scratch = _as_kernel(self.module[value.args[0]])
        # Named after their step: two steps may call what is their own alike.
        own = (replace(v, name=f"{results[0].name}_{v.name}") for v in scratch)
        return Step(kernel, operands, (*results, *own))


def _as_kernel(func: PrimFunc) -> tuple[PrimFunc, tuple[Value, ...]]:
    """The function with the task number in front, as every kernel has it; an island's kernel is one task.

    What it allocates for itself becomes further results: in the arena it takes no room on anybody's stack.
    """
    own: list[Any] = []
    body = func.body
    if hasattr(body, "block"):
        own, body = list(body.block.alloc_buffers), body.block.body
    task = tirx.Var("task", "int32")
    kernel = tirx.PrimFunc([task, *func.params, *own], body, func.ret_type).with_attrs({"tirx.noalias": True})
    scratch = tuple(Value(b.name, tuple(int(n) for n in b.shape), str(b.dtype)) for b in own)
    return kernel.with_attr("s_tir", True), scratch
