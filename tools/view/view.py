"""`fxquant.view`: anything fxquant makes, as one HTML file."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import fx

from fxquant.atomic import write_file
from fxquant.errors import ArtifactWriteError, FxquantError
from fxquant.target import Target
from fxquant.tools.compare.records import Comparison
from fxquant.tools.view.build import run_of
from fxquant.tools.view.document import Document, Run
from fxquant.tools.view.dot import dot
from fxquant.tools.view.page_file import page
from fxquant.tools.view.recorder import Recorder


class View:
    """A document, ready to be written or shown in a notebook."""

    def __init__(self, document: Document) -> None:
        self.document = document

    @property
    def html(self) -> str:
        """The page."""
        return page(self.document)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .html, .json or .dot, by the name's end. Raises ArtifactWriteError; a file that was there stays."""
        at = Path(path)
        writers = {".html": lambda: self.html, ".htm": lambda: self.html, ".json": self._json, ".dot": self._dot}
        if at.suffix not in writers:
            raise FxquantError(f"{at.name} ends in none of {', '.join(writers)}: the name says what is written")
        text = writers[at.suffix]()
        try:
            write_file(at, text.encode())
        except OSError as error:
            raise ArtifactWriteError(f"cannot write {at}: {error.strerror or error}") from error
        return at

    def _json(self) -> str:
        return json.dumps(self.document.to_json(), indent=1, allow_nan=False) + "\n"

    def _dot(self) -> str:
        return "".join(map(dot, self.document.runs))

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;height:720px;border:1px solid #8888" sandbox="allow-scripts allow-downloads"'
        return f'<iframe {frame} srcdoc="{html.escape(self.html)}"></iframe>'


def view(
    subject: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
    model: Any = None,
    data: Any | Iterable[Any] | None = None,
    comparison: Comparison | None = None,
    targets: Sequence[str | Target] = (),
    progress: bool = True,
) -> View:
    """Look at a graph of any stage, a `Recorder` (a whole pipeline run), a compiled model, or several of these by name.

    With `data` (and the float `model`, which a recording knows) every layer's error is measured; `comparison` brings
    errors that were measured before. `targets` adds the memory plans of these targets. With a `path` (.html, .json or
    .dot) the file is written. A mapping from labels to graphs makes one page that compares them.
    """
    options = {"model": model, "data": data, "targets": targets, "progress": progress}
    if isinstance(subject, Mapping):
        if comparison is not None:
            raise FxquantError("a comparison is of one graph, and several are viewed: give data and the model instead")
        runs = tuple(_run(one, label=str(name), comparison=None, **options) for name, one in subject.items())
    else:
        runs = (_run(subject, label="", comparison=comparison, **options),)
    if not runs:
        raise FxquantError("nothing to view: the mapping is empty")
    found = View(Document(title or " / ".join(run.label for run in runs), runs))
    if path is not None:
        found.save(path)
    return found


def _run(subject: Any, *, label: str, **options: Any) -> Run:
    from fxquant.runtime.model import CompiledModel
    from fxquant.tools.view.compiled import compiled_run

    if isinstance(subject, (Run, CompiledModel)):
        given = [name for name in ("model", "data", "comparison") if options[name] is not None]
        if given or options["targets"]:
            unused = ", ".join([*given, *(["targets"] if options["targets"] else [])])
            raise FxquantError(f"{unused}: for a graph or a Recorder; what is compiled or built is what it is")
        return subject if isinstance(subject, Run) else compiled_run(subject.artifact, label)
    if not isinstance(subject, (fx.GraphModule, Recorder)):
        kind = type(subject).__name__
        raise FxquantError(f"view takes a GraphModule, a Recorder or a compiled model, not a {kind}: trace it first")
    return run_of(subject, label=label, **options)
