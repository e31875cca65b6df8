"""Altered files by the thousand: does anything but an error of fxquant's own come of loading them?

    python benchmarks/mutate.py --kind graph --count 30000
    python benchmarks/mutate.py --kind artifact --seconds 60 --json found.json      run again, it goes on

Files are cut, flipped, spliced and filled with hostile values (`mutants.py`); most are signed anew, so that it is not
the checksum that refuses them. Another process loads each, and uses what it loaded. A fault is

    crash   the process died              raw     another exception than an FxquantError
    hang    2 seconds of work, or 20 in   wrong   a file that was not signed anew gives another result
            which nothing is heard of it

A file that is signed anew may load and be another model; "failed in use" counts those of which torch says so when they
run. Machine code is not altered, for an artifact may do what it likes: of it, only what says how to load it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.mutants import FILES
from fxquant.atomic import write_file
from fxquant.errors import FxquantError
from fxquant.progress import track

FAULTS = ("crash", "hang", "raw", "wrong")
HANG_SECONDS = 2.0
# Of the clock: the machine may be busy.
PATIENCE = 20.0


def work(kind: str, folder: Path) -> None:
    """A worker: for each seed of standard input, a line of JSON that says what came of its file."""
    warnings.simplefilter("ignore")
    files = FILES[kind]()
    originals = [path.read_bytes() for path in sorted(folder.glob("original*"))]
    results = []
    for number, content in enumerate(originals):
        path = folder / "tried"
        path.write_bytes(content)
        results.append(files.load(path, number)())
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.process_time()
        found = _tried(files, originals, results, folder, line.strip())
        seconds = time.process_time() - start
        if seconds > HANG_SECONDS:
            found |= {"verdict": "hang", "detail": f"{seconds:.1f} s of work"}
        print(json.dumps(found), flush=True)


def _tried(files: Any, originals: list[bytes], results: list[str], folder: Path, seed: str) -> dict[str, str]:
    chance = random.Random(seed)
    number = chance.randrange(len(originals))
    mutant = files.mutant(originals[number], chance)
    path = folder / "tried"
    path.unlink(missing_ok=True)  # a new file: what is mapped stays whole
    path.write_bytes(mutant.content)
    found = {"what": mutant.what}
    try:
        run = files.load(path, number)
    except FxquantError as error:
        return {**found, "verdict": "refused", "detail": str(error)[:300]}
    except BaseException as error:
        return {**found, "verdict": "raw", "detail": f"{type(error).__name__}: {error}"[:300]}
    if not mutant.runs:
        return {**found, "verdict": "loaded"}
    try:
        same = run() == results[number]
    except Exception as error:
        fine = mutant.signed or isinstance(error, FxquantError)
        return {
            **found,
            "verdict": "failed in use" if fine else "raw",
            "detail": f"{type(error).__name__}: {error}"[:300],
        }
    return {**found, "verdict": "same" if same else "changed" if mutant.signed else "wrong"}


class Worker:
    """A process that tries files, started anew when it dies or hangs."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.command = [sys.executable, __file__, "--worker", kind, str(folder)]
        self.process: subprocess.Popen[str] | None = None

    def tried(self, seed: str) -> dict[str, str]:
        """What came of the file of a seed."""
        if self.process is None:
            self.process = self._started()
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{seed}\n")
            self.process.stdin.flush()
            line = self._line(PATIENCE)
        except BrokenPipeError:
            line = ""
        if line is None:
            self.stop()
            return {"verdict": "hang", "detail": f"more than {PATIENCE:.0f} s"}
        if not line:
            status = self.process.wait()
            self.process = None
            return {"verdict": "crash", "detail": signal.Signals(-status).name if status < 0 else f"status {status}"}
        found: dict[str, str] = json.loads(line)
        return found

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _started(self) -> subprocess.Popen[str]:
        # Memory that is freed or was never written holds a pattern, so that results which depend on it differ.
        surroundings = {**os.environ, "MALLOC_PERTURB_": "165", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=surroundings
        )
        if self._line(120.0) != "ready\n":
            raise SystemExit(f"the originals do not load: {' '.join(self.command)} says why")
        return self.process

    def _line(self, seconds: float) -> str | None:
        """The next line; empty if the process died, None if it took too long."""
        assert self.process is not None and self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None


def mutate(
    kind: str, seeds: Iterator[int] | range, first: str, state: dict[str, Any], keep: Callable[[], None]
) -> None:
    """Try the files of the seeds, counting verdicts and noting faults in `state`; `keep` is called now and then."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        for number, content in enumerate(FILES[kind]().originals()):
            (Path(folder) / f"original{number:02}").write_bytes(content)
        worker, kept = Worker(kind, Path(folder)), time.monotonic()
        try:
            for number in seeds:
                seed = f"{first}:{kind}:{number}"
                found = worker.tried(seed)
                if found["verdict"] == "hang":  # or others had the machine: a hang hangs again
                    found = worker.tried(seed)
                counts = state["counts"].setdefault(kind, {})
                counts[found["verdict"]] = counts.get(found["verdict"], 0) + 1
                if found["verdict"] in FAULTS:
                    state["faults"].append({"seed": seed, **found})
                state["next"][kind] = number + 1
                if time.monotonic() - kept > 5:
                    keep()
                    kept = time.monotonic()
        finally:
            worker.stop()
            keep()


def _limited(numbers: range, seconds: float | None, what: str) -> Iterator[int]:
    end = None if seconds is None else time.monotonic() + seconds
    for number in track(numbers, what):
        if end is not None and time.monotonic() > end:
            return
        yield number


def _summary(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{number:,} {verdict}" for verdict, number in ordered) or "nothing yet"


def main() -> int:
    """Alter, load, tell; exit status 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=FILES, help="may be repeated; all of them if not given")
    parser.add_argument("--count", type=int, default=10_000, help="files of each kind")
    parser.add_argument("--seconds", type=float, help="for each kind, at most")
    parser.add_argument("--seed", default="0", help="begins the seed of every file")
    parser.add_argument("--json", type=Path, help="results; if it is there, the run goes on where it stopped")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker[0], Path(given.worker[1]))
        return 0
    state: dict[str, Any] = {"seed": given.seed, "counts": {}, "next": {}, "faults": []}
    if given.json is not None and given.json.exists():
        state = json.loads(given.json.read_text())

    def keep() -> None:
        if given.json is not None:
            write_file(given.json, (json.dumps(state, indent=1) + "\n").encode())

    for kind in given.kind or FILES:
        rest = range(state["next"].get(kind, 0), given.count)
        mutate(kind, _limited(rest, given.seconds, f"altering {kind}s"), state["seed"], state, keep)
        print(f"{kind}: {_summary(state['counts'].get(kind, {}))}")
    for fault in state["faults"][:50]:
        print(f"  {fault['verdict']}, seed {fault['seed']}: {fault.get('what', '')}: {fault.get('detail', '')}")
    return 1 if state["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
