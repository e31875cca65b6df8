"""Kernels and tiles for this very CPU: `compile(tune=minutes)` measures candidates, and keeps what it found.

Standalone targets are tuned by counting instructions, see `fxquant.tools.emulate.tune`.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import fx

from fxquant.errors import StageError
from fxquant.stage import Stage, stage_of
from fxquant.target import Target
from fxquant.targets.kernels.choosing import Select
from fxquant.tools.tuning.database import Database, default_path
from fxquant.tools.tuning.search import tuned

__all__ = ["Database", "selection", "tuned"]


def selection(
    module: fx.GraphModule,
    target: Target,
    minutes: float,
    path: str | os.PathLike[str] | None,
    *,
    progress: bool = True,
) -> Select:
    """What the database at `path` (None: the cache's) says; with `minutes`, after a search that adds to it.

    Raises TargetError for a file that is no database, and for a search on a CPU that does not run the target.
    """
    where = Path(path) if path is not None else default_path(target)
    fresh = where is None or (minutes and not where.exists())
    known = Database(target) if fresh or where is None else Database.read(where, target)
    if minutes:
        if stage_of(module) is not Stage.INTEGER:
            raise StageError(f"compile needs an INTEGER graph, this one is {stage_of(module)}: quantize it first")
        tuned(module, target, minutes, known, progress=progress)
        if where is not None:
            known.write(where)
    return known.select
