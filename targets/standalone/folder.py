"""The files of a standalone model, rendered and written all at once or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fxquant.errors import ArtifactWriteError
from fxquant.targets.standalone.header import PortFacts


def render(template: str, facts: Mapping[str, Any]) -> str:
    """One of the templates in `files/` with these facts."""
    environment = Environment(
        loader=PackageLoader("fxquant.targets.standalone", "files"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["loader_fact"] = loader_fact
    return environment.get_template(template).render(facts)


def loader_fact(port: PortFacts) -> dict[str, Any]:
    """What the Python loader knows of a port."""
    facts = asdict(port)
    return {
        "name": facts.pop("label"),
        "channels_last": facts.pop("is_channels_last"),
        **facts,
    }


def write_folder(out: Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files into the folder `out`, which is made; what it held under these names is replaced.

    They are first written beside it, so that a full disk leaves what was there. Raises ArtifactWriteError.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_dir():
            raise ArtifactWriteError(f"{out} is a file: name a folder")
        fresh = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
        try:
            for name, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                (fresh / name).write_bytes(data)
            out.mkdir(exist_ok=True)
            for name in files:
                os.replace(fresh / name, out / name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise ArtifactWriteError(f"cannot write {out}: {error.strerror or error}") from error
