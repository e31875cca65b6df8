"""Float islands through TVM's own PyTorch converter: an exported program becomes a few legalized PrimFuncs.

No float operator is written by hand here: Relax imports, legalizes and fuses, and what comes out is a list of steps
over flat buffers, with the kernels' ABI of `fxquant.targets.kernels.kernel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from torch.export import ExportedProgram
from tvm import relax, tirx
from tvm.relax.frontend.torch import from_exported_program

from fxquant.errors import LoweringError
from fxquant.targets.tvm_api import PrimFunc


@dataclass(frozen=True)
class Value:
    """A tensor between the steps of an island: an input by number, or the result of a step."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Step:
    """`kernel(task, operands..., result)`."""

    kernel: PrimFunc
    operands: tuple[Value, ...]
    result: Value


@dataclass(frozen=True)
class Island:
    """Steps in order, which value is the island's result, and the numbers of constant values."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    result: Value
    constants: Mapping[Value, np.ndarray[Any, Any]]


def import_island(program: ExportedProgram, what: str) -> Island:
    """Legalized steps of `program`, which has tensors as inputs and one tensor as output.

    Raises LoweringError, naming `what`, when TVM's converter or legalizer does not know an operator.
    """
    try:
        module = from_exported_program(program)
    except Exception as error:  # what it raises depends on the operator, and none of it is its caller's
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise LoweringError(f"{what} has no integer spelling, and TVM cannot compile it in float: {reason}") from error
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.LegalizeOps(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
    ]
    module = tvm.ir.transform.Sequential(passes)(module)
    return _Reader(module, what).read()


class _Reader:
    """The legalized main function as steps."""

    def __init__(self, module: Any, what: str) -> None:
        self.module, self.what = module, what
        self.values: dict[Any, Value] = {}
        self.constants: dict[Value, np.ndarray[Any, Any]] = {}

    def read(self) -> Island:
        """Every binding must be a call_tir, a tuple or an alias."""
        main = self.module["main"]
        inputs = tuple(self._value(var) for var in main.params)
        steps: list[Step] = []
        for block in main.body.blocks:
            for binding in block.bindings:
                step = self._binding(binding)
                if step is not None:
                    steps.append(step)
        return Island(inputs, tuple(steps), self._of(main.body.body), self.constants)

    def _value(self, var: Any) -> Value:
        kind = var.ty
        value = Value(str(var.name), tuple(int(n) for n in kind.shape), str(kind.dtype))
        self.values[var] = value
        return value

    def _of(self, value: Any) -> Value:
        """A known value, or a constant."""
        if value in self.values:
            return self.values[value]
        array = value.value.numpy()
        found = Value(f"constant{len(self.constants)}", tuple(array.shape), str(array.dtype))
        self.constants[found] = array
        return found

    def _binding(self, binding: Any) -> Step | None:
        value = binding.value
        if isinstance(value, tvm.ir.Call) and str(value.op) == str(tvm.ir.Op.get("relax.call_tir")):
            operands = tuple(self._of(a) for a in value.args[1])
            result = self._value(binding.var)
            return Step(_with_task(self.module[value.args[0]]), operands, result)
        if isinstance(value, tvm.ir.Tuple) and len(value) == 1:
            value = value[0]
        if value in self.values or isinstance(value, tvm.ir.expr.GenericConst):
            self.values[binding.var] = self._of(value)
            return None
        name = str(getattr(value, "op", type(value).__name__))
        raise LoweringError(f"{self.what} has no integer spelling, and TVM leaves {name} without code")


def _with_task(func: PrimFunc) -> PrimFunc:
    """The function with the task number in front, as every kernel has it; an island's kernel is one task."""
    task = tirx.Var("task", "int32")
    attributes = {"tirx.noalias": True}
    return tirx.PrimFunc([task, *func.params], func.body, func.ret_type).with_attrs(attributes).with_attr("s_tir", True)
