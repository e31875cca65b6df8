"""The `fxquant` program. Commands import torch and TVM when they run, so that help and completion answer at once."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fxquant.commands import look, perform, road, run, see
from fxquant.errors import FxquantError

DEBUG = "--debug"


class Commands(TyperGroup):
    """Shows our own errors as one message instead of a traceback; `--debug` may stand anywhere."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move `--debug` to the front, where the program's own options are read."""
        if DEBUG in args:
            args = [DEBUG, *(a for a in args if a != DEBUG)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an FxquantError prints `error: ...` and ends with status 1."""
        try:
            return super().invoke(ctx)
        except FxquantError as error:
            if ctx.params.get("debug"):
                raise
            # The convention of no-color.org, which click leaves to its callers.
            said = f"error: {error}"
            typer.echo(said if os.environ.get("NO_COLOR") else typer.style(said, fg="red"), err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="fxquant",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: the decorated one takes twice as long to appear.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Quantize PyTorch models to integers and compile them to machine code that gives the same integers.",
)

app.command()(road.trace)
app.command()(road.quantize)
app.command("compile")(road.compile_)
app.command()(run.run)
app.command()(look.report)
app.command()(see.view)
app.command()(see.inspect)
app.command()(see.compare)
app.command()(look.passes)
app.command()(look.targets)
app.command()(perform.demo)
app.command()(perform.bench)
app.command()(look.version)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"fxquant {version('fxquant')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """The entry point of the `fxquant` script."""
    app(prog_name="fxquant")
