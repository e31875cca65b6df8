"""Performing: the demo and the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxquant.commands.output import Json, emit, show


def demo(
    folder: Annotated[Path, typer.Option("--output", "-o", help="Where the script and the model are left.")] = Path("."),
    as_json: Json = False,
) -> None:
    """Train, quantize, compile and run a small CNN on real images of digits, in seconds, without a download."""
    from fxquant.tools.demo import run_demo

    found = run_demo(folder)
    emit(found.to_json()) if as_json else show(found)
