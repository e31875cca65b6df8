"""The files of a standalone model, rendered and written all at once or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fxquant.atomic import write_folder
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


def write_files(out: Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files into the folder `out`, which is made, all or none; what it held under these names is replaced.

    See `fxquant.atomic.write_folder`. Raises ArtifactWriteError.
    """
    contents = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
    try:
        write_folder(out, contents)
    except OSError as error:
        raise ArtifactWriteError(f"cannot write {out}: {error.strerror or error}") from error
