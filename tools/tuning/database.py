"""What a search found, as a file that can be shipped: {versions: {problem: candidate}}.

Versions are those of TVM, of LLVM's code for the instruction set and of the kernels' own source: what was measured with
others says nothing here, stays in the file, and is told.
"""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from fxquant.atomic import write_file
from fxquant.errors import ArtifactWriteError, TargetError
from fxquant.target import Target
from fxquant.targets import tvm_api
from fxquant.targets.kernels.choosing import Offer
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.targets.object_cache import cache_folder

FORMAT = "fxquant tiles 1"


class Database:
    """The candidates for one target, and those for others that came with them in the same file."""

    def __init__(self, target: Target) -> None:
        self.version = f"{target.isa} {_digest(target)}"
        self._all: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._own)

    @property
    def _own(self) -> dict[str, Any]:
        return self._all.setdefault(self.version, {})

    def get(self, offer: Offer) -> Candidate | None:
        """What was found for a problem, if it is still on offer: a tile that is not may not be exact."""
        with suppress(KeyError, TypeError):
            found = offer.candidate(self._own[offer.key])
            return found if found in offer.all() else None
        return None

    def put(self, offer: Offer, candidate: Candidate) -> None:
        """Remember the best candidate."""
        self._own[offer.key] = candidate.to_json()

    def choose(self, offer: Offer) -> Candidate:
        """What was found, else what the cost model likes best."""
        return self.get(offer) or offer.first()

    @staticmethod
    def read(path: str | os.PathLike[str], target: Target) -> Database:
        """The database of a file; TargetError for a file that is missing, damaged or foreign.

        One that was made for other versions or instruction sets warns, and knows nothing.
        """
        found = Database(target)
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            kept = data["tiles"] if data.get("format") == FORMAT else None
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise TargetError(f"{os.fspath(path)} is no database of tiles ({error}); make one with tune") from error
        if not isinstance(kept, dict) or not all(isinstance(tiles, dict) for tiles in kept.values()):
            raise TargetError(f"{os.fspath(path)} is no database of tiles, or of another format; make one with tune")
        found._all = kept
        if kept and not found._own:
            known = ", ".join(version for version in kept if version != found.version)
            warnings.warn(
                f"{os.fspath(path)} has tiles for {known}, and none for {found.version}: none is used", stacklevel=2
            )
        return found

    def write(self, path: str | os.PathLike[str]) -> None:
        """Whole or not at all. Raises ArtifactWriteError where it cannot be written."""
        where = Path(path)
        kept = {version: dict(sorted(tiles.items())) for version, tiles in self._all.items() if tiles}
        try:
            where.parent.mkdir(parents=True, exist_ok=True)
            write_file(where, (json.dumps({"format": FORMAT, "tiles": kept}, indent=1) + "\n").encode())
        except OSError as error:
            raise ArtifactWriteError(f"cannot write the tiles to {where}: {error.strerror or error}") from error


def default_path(target: Target) -> Path | None:
    """Where this machine's findings are kept: beside the cache of object code, or nowhere if that is off."""
    folder = cache_folder()
    return None if folder is None else folder / "tiles" / f"{target.name}.json"


def _digest(target: Target) -> str:
    """Of all that decides how fast a kernel is, but the CPU itself."""
    room = Path(str(files("fxquant.targets.kernels")))
    sources = [(file.relative_to(room).as_posix(), file.read_bytes()) for file in sorted(room.rglob("*.py"))]
    return sha256(repr((tvm_api.version, sorted(target.tvm.items()), sources)).encode()).hexdigest()[:12]
