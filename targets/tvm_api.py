"""The one module that knows TVM's names: TVM renames its APIs between releases, so nothing else imports it.

Everything here is about *plain C* code: functions over raw pointers, no TVM runtime, no allocation, no global state.
The object file that comes out calls nothing but `memcpy`, `memset`, `memmove` and the compiler's own helpers.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from typing import Any, TypeAlias

import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType, StringImm
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target as TVMTarget
from tvm.target import codegen as llvm
from tvm.tirx.buffer import is_buffer_var
from tvm.tirx.script import builder as I

from fxquant.errors import TargetError

__all__ = [
    "I32",
    "I",
    "IRBuilder",
    "PrimFunc",
    "T",
    "build_object",
    "intrinsic",
    "returned_unless_zero",
    "tirx",
    "version",
    "with_llvm_ir",
]

# TVM has no annotations: to a type checker its functions are like all else of it.
PrimFunc: TypeAlias = Any
version: str = tvm.__version__
I32: Any = PrimType("int32")


def intrinsic(name: str, dtype: str, *args: Any) -> Any:
    """Call the LLVM intrinsic `name` (for example "llvm.x86.avx2.pmadd.wd") with a result of TIR type `dtype`."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)


def with_llvm_ir(func: PrimFunc, text: str) -> PrimFunc:
    """Link LLVM IR `text` into the module of `func`, for the few things TIR cannot say (atomics)."""
    return func.with_body(tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", StringImm(text), func.body))


def returned_unless_zero(symbol: str, pointer: Any) -> Any:
    """Call `i32 symbol(ptr, ptr pointer, i32, ptr)` of imported LLVM IR: what it gives, if not 0, the caller returns.

    TIR returns nothing but 0 by itself: this is how a packed call passes its error on. A symbol is called once.
    """
    return tirx.call_cpacked_lowered(symbol, pointer, 0, 0)


def _with_plain_abi(func: PrimFunc, _module: Any, _context: Any) -> PrimFunc:
    """Buffer parameters become raw typed pointers, so that the function has a plain C signature."""
    params, bound = [], []
    for param in func.params:
        if is_buffer_var(param):
            kind = PointerType(param.ty.dtype, param.ty.storage_scope or "global")
            pointer = tvm.ir.Var(param.name + "_ptr", kind)
            params.append(pointer)
            bound.append(tirx.DeclBuffer(param, data=pointer))
        else:
            params.append(param)
    plain = tirx.PrimFunc(params, tirx.SeqStmt([*bound, func.body]), func.ret_type, func.attrs)
    return plain.with_attr("calling_conv", 1)


def _lower(module: Any) -> Any:
    """The pass list of TVM's own s_tir pipeline without packed calls and runtime workspace.

    Nor with CompactBufferAllocation: kernels allocate what they use, and it took a fifth of the time to find that out.
    """
    s, x = s_tir.transform, tirx.transform
    passes = [
        s.CanonicalizeLoop(),
        s.LowerInitBlock(),
        s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(),
        s.LowerMatchBuffer(),
        s.StmtSimplify(),
        s.AnnotateIrregularLoop(),
        s.LowerOpaqueBlock(),
        x.FlattenBuffer(),
        x.NarrowDataType(32),
        s.LoopPartition(),
        x.VectorizeLoop(True),
        x.StorageRewrite(),
        s.HoistIfThenElse(),
        x.UnrollLoop(),
        s.RenormalizeSplitPattern(),
        x.StmtSimplify(),
        x.RemoveNoOp(),
        s.RewriteUnsafeSelect(),
        x.CommonSubexprElim(),
        x.VerifyMemory(),
        x.prim_func_pass(_with_plain_abi, opt_level=0),
        x.LowerIntrin(),
    ]
    with tvm.transform.PassContext(config={}):
        return tvm.ir.transform.Sequential(passes)(module)


def function_text(function: PrimFunc) -> str:
    """All of a function as text: equal for equal functions, in every process."""
    text: str = tvm.ir.save_json(function)
    return text


@lru_cache(maxsize=1024)
def function_digest(function: PrimFunc) -> str:
    """Of the text of a function; that of the same object is computed once."""
    return sha256(function_text(function).encode()).hexdigest()


def _without_type_aliasing(target: Mapping[str, Any]) -> dict[str, Any]:
    """TVM tells LLVM that accesses through buffers of different names never meet, which is true within a kernel only.

    Once two kernels are inlined into their caller, the first one's result and the second one's operand are the same
    memory by two names, and LLVM moves the load before the store. That the arguments of one kernel are apart is said
    by `noalias`, which inlining respects.
    """
    if target["kind"] != "llvm":
        return dict(target)
    return {**target, "cl-opt": [*target.get("cl-opt", ()), "-enable-tbaa:bool=false"]}


def _require_known(target: Mapping[str, Any], tvm_target: Any) -> None:
    """Raise TargetError for a CPU or feature that LLVM does not know: it would take a generic one without a word."""
    triple, cpu = str(target.get("mtriple", "")), str(target.get("mcpu", "generic"))
    if not llvm.llvm_is_valid_cpu(cpu, triple):
        known = sorted(map(str, llvm.llvm_get_cpu_archlist(TVMTarget({"kind": "llvm", "mtriple": triple}))))
        near = ", ".join(get_close_matches(cpu, known, 5) or known)
        raise TargetError(f"LLVM knows no mcpu {cpu!r} for the mtriple {triple!r}; among those it knows: {near}")
    enabled = set(map(str, llvm.llvm_get_cpu_features(tvm_target)))
    unknown = [name for name in target.get("mattr", ()) if name.startswith("+") and name[1:] not in enabled]
    if unknown:
        raise TargetError(f"LLVM knows no feature {unknown[0]!r} (mattr) for the mtriple {triple!r}")


def build_object(functions: Mapping[str, PrimFunc], target: Mapping[str, Any]) -> Any:
    """Compile `functions` (symbol -> PrimFunc over flat buffers) for a TVM target dictionary.

    Returns TVM's module; `.write_to_file("k.o")` writes an object, `.inspect_source("asm")` shows assembly, and for a
    target of kind "c" `.inspect_source()` is the C text. Raises TargetError for a CPU or feature that LLVM lacks.
    """
    try:
        tvm_target = TVMTarget(_without_type_aliasing(target))
    except Exception as error:
        raise TargetError(f"TVM takes no target {dict(target)}: {str(error).strip().splitlines()[-1]}") from error
    if target["kind"] == "llvm":
        _require_known(target, tvm_target)
    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    module = tirx.transform.BindTarget(tvm_target.with_host(tvm_target))(tvm.IRModule(named))
    build = tvm.get_global_func("target.build." + tvm_target.kind.name)
    return build(_lower(module), tvm_target)
