"""The memory that Python and compiled code share: one job block per team of threads, and the synchronization words.

A compiled network has these entry points, all plain C:

* `void run(int32 tid, int32 threads, int32 *sync, uint8 *arena, uint8 *scratch, const uint8 *weights, io pointers...)`
  computes one sample; threads of the team call it with their own `tid` and `scratch` and the same
  everything else. They take the work from counters in `sync` (zero at the start) and must not divide it by `tid`:
  any of them may come late or not at all. `run` reads and writes nothing but what it is given, and may assume nothing
  about what `arena` and `scratch` hold. The io pointers are those of inputs, of outputs, and one int64 for each of
  `Artifact.index_checks`, the same for all samples, into which it writes an index out of range where it meets one.
* `void prepare(const uint8 *stored, uint8 *resident)`, if the network wants it (`Artifact.resident_bytes`), is called
  once before all runs: it makes the `weights` of a run, in `resident`, of those in the file, `stored` (at any address).
* `void fxq_launch(void *block)` runs the job that the block describes, as thread 0, and returns when it is done.
* `void fxq_serve(void *block, int32 tid)` is the life of a worker thread, and `void fxq_stop(void *block)` ends it.

How much memory these take for granted stands beside them in the object: see `fxquant.runtime.needs`.

All offsets are in bytes. Words that different threads write stand on cache lines of their own.
"""

from __future__ import annotations

LINE = 64  # bytes in a cache line; also the alignment of arena, scratch and the weights of a run

# int32: number of the current job, its gate (workers inside, plus OPEN while more may enter), next sample to take
EPOCH, GATE, NEXT = 0, 64, 128
OPEN = 1 << 30
# pointer, pointer, int64 samples of the call, of these how many are dealt out whole, bytes of `sync`
RUN, WEIGHTS, SAMPLES, DEALT, SYNC_BYTES = 192, 200, 208, 216, 224
# int32: team size, 1 to end the workers, 1 while samples are dealt out whole, sample that all threads work on
THREADS, STOP, SPLIT, INDEX = 232, 236, 240, 244

# One pointer per input, output (to sample 0) and check, then for each the int64 bytes from one sample to the next.
PORTS = 256

# One record per thread, after the ports: int32 asleep, POSIX semaphore, then three pointers.
THREAD_BYTES = 64
ASLEEP, SEMAPHORE, ARENA, SCRATCH, SYNC = 0, 8, 40, 48, 56


def threads_offset(ports: int) -> int:
    """Where the thread records of a block with `ports` inputs, outputs and checks begin."""
    return -(-(PORTS + 16 * ports) // LINE) * LINE


def block_bytes(ports: int, threads: int) -> int:
    """Size of a job block."""
    return threads_offset(ports) + THREAD_BYTES * threads
