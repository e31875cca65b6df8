"""An object in a process of its own, asked for one thing at a time through a pipe."""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from fxquant.errors import FxquantError

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class RemoteError(FxquantError):
    """What was asked of another process failed there; the message is the error's own."""


class Remote:
    """`factory(*arguments)` in a new process; `call` runs one of its methods and waits for the answer.

    The process is spawned, not forked, so it has only what it imports itself. It ends with `close`, or with its parent.
    """

    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        """Raises RemoteError if the factory does."""
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of `object.method(*arguments)`; RemoteError if it raised or if the process died."""
        try:
            self._pipe.send((method, arguments))
        except OSError:
            raise self._dead() from None
        return self._answer()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.is_alive()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Frozen by `freeze`, the process runs in this block only."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.freeze()

    def freeze(self) -> None:
        """Stop the process where it is: threads that spin in wait of work would take the CPU from others."""
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.alive and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def _answer(self) -> Any:
        try:
            good, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        if not good:
            raise RemoteError(value)
        return value

    def _dead(self) -> RemoteError:
        self._process.join(5)
        return RemoteError(f"its process died with exit code {self._process.exitcode}")


def _serve(pipe: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # A frozen process would not notice by the closed pipe that its parent is gone.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Standard output belongs to the parent: libraries that print must not end up in its JSON.
    os.dup2(2, 1)
    served: Any = None
    request: tuple[str, tuple[Any, ...]] | None = None
    while True:
        try:
            if request is None:
                served, value = factory(*arguments), None
            else:
                value = getattr(served, request[0])(*request[1])
            answer = (True, value)
        except Exception as error:
            answer = (False, _message(error))
        try:
            pipe.send(answer)
            request = pipe.recv()
        except (EOFError, OSError):
            return


def _message(error: Exception) -> str:
    """One line, with the place for errors that are not meant for users."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if isinstance(error, FxquantError):
        return text
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({where.filename.rpartition('/')[2]}:{where.lineno})"
