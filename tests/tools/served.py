"""What the tests serve from another process; it starts fast, since it imports neither torch nor pytest."""

from __future__ import annotations

import os

from fxquant.errors import FxquantError


class Served:
    """An object that answers, complains, or takes its process with it."""

    def __init__(self, fails: bool) -> None:
        """ValueError if it shall fail."""
        if fails:
            raise ValueError("no start\nand more")

    def number(self) -> int:
        """Of the process."""
        return os.getpid()

    def add(self, a: int, b: int) -> int:
        """The sum, and some noise."""
        print("not on the parent's standard output")
        return a + b

    def complain(self) -> None:
        """An error that is meant for users."""
        raise FxquantError("say it")

    def die(self) -> None:
        """End the process."""
        os._exit(3)
