"""`export(tune=True)`, `--tune`: every layer's tile, searched under emulation for the fewest instructions.

A network is built with the first tile of every layer's list, then with the second of each, and so on: one run counts
all layers at once, in the very code that they are used in. Counts are exact, so that the same search always finds the
same; what it found is kept by machine and kernel source, and a shape that was met before is not searched again.

    tiles/<target>-<digest>.json    in the cache of object code, see `fxquant.targets.object_cache`
"""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from torch import fx

from fxquant.atomic import write_file
from fxquant.errors import TargetError
from fxquant.progress import track
from fxquant.target import Target
from fxquant.targets import tvm_api
from fxquant.targets.kernels.contract.problem import ConvWindow
from fxquant.targets.kernels.convolution.strip.tiling import Pick, Tile, Tiling, problem_key
from fxquant.targets.object_cache import cache_folder
from fxquant.targets.standalone.export import standalone
from fxquant.targets.standalone.network import network
from fxquant.tools.emulate.programs import EmulationError, require
from fxquant.tools.emulate.run import emulate


@dataclass
class _Trial:
    """Picks the tile `number` of every list, of a shorter one the first, and remembers how long the lists are."""

    number: int
    lists: dict[str, int] = field(default_factory=dict)

    def pick(self, kernel: str, problem: ConvWindow, tiles: tuple[Tile, ...]) -> Tile:
        """The tile of this trial."""
        self.lists[problem_key(kernel, problem)] = len(tiles)
        return tiles[self.number if self.number < len(tiles) else 0]


def tuned(module: fx.GraphModule, target: Target, *, progress: bool = True) -> Tiling:
    """The best tile of every convolution and linear layer of a graph with integer ports.

    Raises TargetError for a target whose instructions nobody counts, EmulationError where its programs are missing, or
    where a tile's integers are not Python's.
    """
    if target.form not in ("static", "shared") or target.toolchain is None or not target.toolchain.emulator:
        raise TargetError(
            f"tiles are searched by counting instructions under emulation, and nobody counts those of {target.name}"
        )
    require(target)
    layers = _Trial(0)
    network(module, target, "net", layers.pick)
    path = _path(target)
    known = _read(path)
    missing = {key: count for key, count in layers.lists.items() if key not in known}
    trials = [
        _counted(module, target, _Trial(number).pick)
        for number in track(range(max(missing.values(), default=0)), f"tiles for {target.name}", progress)
    ]
    best = {
        key: min((trial.layers[key] for trial in trials[:count]), key=lambda found: found[0])[1]
        for key, count in missing.items()
    }
    if best and _counted(module, target, Tiling({**known, **best}).pick).total > trials[0].total:
        # Layers share registers and places with their neighbours: what is best alone was not best together.
        best = {key: trials[0].layers[key][1] for key in missing}
    if best:
        _write(path, {**known, **best})
    return Tiling({key: {**known, **best}[key] for key in layers.lists})


@dataclass(frozen=True)
class _Counts:
    """Instructions of all layers together, and with the tile for every problem; layers of equal shape add up."""

    total: int
    layers: dict[str, tuple[int, Tile]]


def _counted(module: fx.GraphModule, target: Target, pick: Pick) -> _Counts:
    """What a trial costs."""
    picked: list[tuple[str, Tile]] = []

    def remembered(kernel: str, problem: ConvWindow, tiles: tuple[Tile, ...]) -> Tile:
        picked.append((problem_key(kernel, problem), pick(kernel, problem, tiles)))
        return picked[-1][1]

    made = standalone(module, target, "net", marked=True, pick=remembered)
    run = emulate(made.files, made.name, made.report, target)
    if run.wrong or run.layers is None:
        raise EmulationError(
            f"{run.wrong} elements that these tiles compute for {target.name} differ from Python's: a bug in fxquant "
            f"or in the toolchain; report it: {[tile for _, tile in picked]}"
        )
    layers = zip(run.layers, made.report["layers"], strict=True)
    counts = [count for count, layer in layers if layer["tile"] is not None]
    found: dict[str, tuple[int, Tile]] = {}
    for (key, tile), count in zip(picked, counts, strict=True):
        found[key] = (found[key][0] + count if key in found else count, tile)
    return _Counts(sum(run.layers), found)


def _path(target: Target) -> Path | None:
    """Where tiles of this machine and these kernels are kept."""
    folder = cache_folder()
    if folder is None:
        return None
    sources = sorted(
        (f.name, f.read_bytes()) for f in files("fxquant.targets.kernels.compact").iterdir() if f.is_file()
    )
    digest = sha256(repr((tvm_api.version, target.isa, sorted(target.tvm.items()), sources)).encode()).hexdigest()[:12]
    return folder / "tiles" / f"{target.name}-{digest}.json"


def _read(path: Path | None) -> dict[str, Tile]:
    """What is known; a damaged file counts as none."""
    if path is None:
        return {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return {key: Tile(**tile) for key, tile in json.loads(path.read_text()).items()}
    return {}


def _write(path: Path | None, tiles: dict[str, Tile]) -> None:
    """Keep it, whole or not at all; a folder that cannot be written costs a warning."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {key: tile.to_json() for key, tile in sorted(tiles.items())}
        write_file(path, (json.dumps(found, indent=1) + "\n").encode())
    except OSError as error:
        warnings.warn(f"tiles are not kept: {path} cannot be written ({error})", stacklevel=2)
