"""Kernels and tiles by measurement: what a search found is kept, and used where the same layer is met again.

compile(tune=minutes)    times layers on this very CPU             ticks.py
export(tune=True)        counts instructions under emulation       instructions.py
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from torch import fx

from fxquant.errors import ArtifactWriteError, StageError, TargetError
from fxquant.stage import Stage, stage_of
from fxquant.target import Target
from fxquant.targets.kernels.choosing import Choose
from fxquant.tools.tuning.database import Database, default_path
from fxquant.tools.tuning.instructions import Instructions
from fxquant.tools.tuning.search import tuned
from fxquant.tools.tuning.ticks import Ticks

__all__ = ["Database", "counted", "timed", "tuned"]


def timed(
    module: fx.GraphModule,
    target: Target,
    minutes: float,
    path: str | os.PathLike[str] | None,
    *,
    progress: bool = True,
) -> Choose:
    """What the database at `path` (None: the cache's) says; with `minutes`, after a search that adds to it.

    Raises TargetError for a file that is no database, and for a search on a CPU that does not run the target.
    """
    where = Path(path) if path is not None else default_path(target)
    known = Database(target) if where is None or (minutes and not where.exists()) else Database.read(where, target)
    if minutes:
        if stage_of(module) is not Stage.INTEGER:
            raise StageError(f"compile needs an INTEGER graph, this one is {stage_of(module)}: quantize it first")
        if not 0 < minutes < 24 * 60:
            raise TargetError(f"tune takes minutes, more than none and less than a day, not {minutes}")
        tuned(Ticks(module, target), known, seconds=60 * minutes, progress=progress)
        if where is not None:
            known.write(where)
    return known.choose


def counted(module: fx.GraphModule, target: Target, *, progress: bool = True) -> Choose:
    """The candidates of the fewest instructions, for a graph with integer ports; those of the cache are not searched.

    Raises what `Instructions` does. A cache that is damaged counts as none, and one that cannot be written warns.
    """
    meter, where, known = Instructions(module, target), default_path(target), Database(target)
    if where is not None and where.exists():
        try:
            known = Database.read(where, target)
        except TargetError:
            known = Database(target)
    tuned(meter, known, progress=progress)
    if where is not None:
        try:
            known.write(where)
        except ArtifactWriteError as error:
            warnings.warn(f"tiles are not kept: {error}", stacklevel=2)
    return known.choose
