"""What TIR cannot say, as LLVM IR: atomics, the layers' task counters, and the thread team that runs a network.

`spmd_functions(needs)` go into the object beside a network's `run`; see `fxquant.runtime.abi` for the entry points
and the layout of the job block. With them goes the record of `fxquant.runtime.needs`. `run` itself may call

* `fxq_grab(int32 *counter) -> int32`: the number of the next task of a layer,
* `fxq_done(int32 *counter)`: one more task of a layer is finished,
* `fxq_join(int32 *counter, int32 tasks)`: returns once `tasks` tasks are; the caller then sees what they wrote.

`tasks` spells a layer with them. A layer ends when its tasks are done, not when all threads have met: so a thread may
come late or not at all. With a barrier, beside other busy processes, every layer can wait milliseconds for a worker
that is off its core; so it takes as long as with one thread.

The team lives in compiled code because a hand-over through Python would need the interpreter lock once per worker and
job: tens of microseconds on an idle machine, milliseconds beside a busy Python thread. Waiting is pause instructions
and now and then `sched_yield`; a worker without a job soon sleeps on a semaphore.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fxquant.runtime import abi
from fxquant.runtime.needs import SECTION, Needs
from fxquant.targets.hosted.team import TEAM
from fxquant.targets.tvm_api import I, IRBuilder, PrimFunc, T, with_llvm_ir

# Pauses (some 20 us) before an idle worker sleeps: they bridge the Python between two calls. And before a thread that
# waits for the task of another offers its core: not sooner, because the kernel may take it away for a whole time slice.
_SPINS = 1000

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

_PRIMITIVES = """
declare i32 @sched_yield()
declare i32 @sem_wait(ptr)
declare i32 @sem_post(ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
{declare_pause}

define i32 @fxq_grab(ptr %counter) nounwind {{
  %old = atomicrmw add ptr %counter, i32 1 monotonic
  ret i32 %old
}}

define void @fxq_done(ptr %counter) nounwind {{
  %ignored = atomicrmw add ptr %counter, i32 1 release
  ret void
}}

; Wait until *%word has become %value; every {spins} pauses let others have the core.
define internal void @fxq_ir_join(ptr %word, i32 %value) nounwind {{
entry:
  br label %look
look:
  %waited = phi i32 [ 1, %entry ], [ %more, %pause ], [ 1, %yield ]
  %now = load atomic i32, ptr %word acquire, align 4
  %there = icmp eq i32 %now, %value
  br i1 %there, label %done, label %wait
wait:
  %short = icmp ult i32 %waited, {spins}
  br i1 %short, label %pause, label %yield
pause:
  {pause}
  %more = add i32 %waited, 1
  br label %look
yield:
  %ignored = call i32 @sched_yield()
  br label %look
done:
  ret void
}}
"""


def spmd_functions(needs: Needs, machine: str = "x86_64") -> dict[str, PrimFunc]:
    """What a network whose `run` is made for these `needs` has beside it, by symbol; the needs are recorded with it."""
    pointers = len(needs.inputs) + len(needs.outputs)
    block = {"block": ("uint8", abi.threads_offset(pointers) + abi.THREAD_BYTES)}
    launch = _wrapper("fxq_launch", block)
    return {
        "fxq_launch": with_llvm_ir(launch, _spmd_ir(pointers, machine) + _record_ir(needs)),
        "fxq_serve": _wrapper("fxq_serve", block | {"tid": None}),
        "fxq_stop": _wrapper("fxq_stop", block),
        "fxq_join": _wrapper("fxq_join", {"counter": ("int32", 1), "tasks": None}),
    }


@contextmanager
def tasks(sync: Any, layer: int, count: int) -> Iterator[Any]:
    """Inside a `run` under construction: the block is what one task of a layer does, its value the task's number.

    `sync` is the int32 buffer of synchronization words; layer number `layer` uses words 2 * layer and 2 * layer + 1.
    """
    counter, finished = T.address_of(sync[2 * layer]), T.address_of(sync[2 * layer + 1])
    task = I.alloc_buffer((1,), "int32")
    I.buffer_store(task, T.call_extern("int32", "fxq_grab", counter), [0])
    with I.While(task[0] < count):
        yield task[0]
        I.evaluate(T.call_extern("void", "fxq_done", finished))
        I.buffer_store(task, T.call_extern("int32", "fxq_grab", counter), [0])
    I.evaluate(T.call_extern("void", "fxq_join", finished, T.int32(count)))


def _wrapper(symbol: str, params: Mapping[str, tuple[str, int] | None]) -> PrimFunc:
    """A function that does what its namesake in the IR does: TVM inlines all imported IR and exports none of it."""
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name(symbol)
            arguments: list[Any] = []
            for name, memory in params.items():
                if memory is None:
                    arguments.append(I.arg(name, I.int32()))
                else:
                    arguments.append(T.address_of(I.arg(name, I.buffer((memory[1],), memory[0]))[0]))
            I.evaluate(T.call_extern("void", symbol.replace("fxq_", "fxq_ir_"), *arguments))
    return builder.get()


def _record_ir(needs: Needs) -> str:
    """A constant that no code reads: without `llvm.compiler.used` it would be removed."""
    words = ", ".join(f"i64 {word}" for word in needs.words.values())
    return f"""
@fxq_needs = internal constant [{len(needs.words)} x i64] [{words}], section "{SECTION}", align 8
@llvm.compiler.used = appending global [1 x ptr] [ptr @fxq_needs], section "llvm.metadata"
"""


def _spmd_ir(pointers: int, machine: str) -> str:
    declare_pause, pause = _PAUSE[machine]
    steps = []
    for port in range(pointers):
        steps += [
            f"  %base{port}.p = getelementptr i8, ptr %block, i64 {abi.PORTS + 8 * port}",
            f"  %base{port} = load ptr, ptr %base{port}.p",
            f"  %step{port}.p = getelementptr i8, ptr %block, i64 {abi.PORTS + 8 * (pointers + port)}",
            f"  %step{port} = load i64, ptr %step{port}.p",
            f"  %offset{port} = mul i64 %step{port}, %index",
            f"  %port{port} = getelementptr i8, ptr %base{port}, i64 %offset{port}",
        ]
    names = {name: value for name, value in vars(abi).items() if name.isupper()}
    return (_PRIMITIVES + TEAM).format(
        **names,
        spins=_SPINS,
        declare_pause=declare_pause,
        pause=pause,
        records=abi.threads_offset(pointers),
        load_ports="\n".join(steps),
        pass_ports="".join(f", ptr %port{port}" for port in range(pointers)),
    )
