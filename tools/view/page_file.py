"""The document as one HTML file: no network, no server, nothing from the model that could run."""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files

from jinja2 import Environment
from markupsafe import Markup

from fxquant.tools.view.document import Document

_FOLDER = files("fxquant.tools.view") / "page"
# In this order: each file uses those before it.
SCRIPTS = ("model.js", "layout.js", "draw.js", "charts.js", "details.js", "lists.js", "memory.js", "main.js")


def page(document: Document) -> str:
    """The file's text."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_text("page.html.j2"))
    script = "\n".join(_text(name) for name in SCRIPTS)
    parts = {"style": Markup(_text("style.css")), "script": Markup(script), "data": Markup(embedded(document))}
    return template.render(title=document.title, **parts)


def embedded(document: Document) -> str:
    """The JSON, compressed as Base64: stages repeat each other, and no text of a model can end the element it is in."""
    text = json.dumps(document.to_json(), separators=(",", ":"), allow_nan=False)
    # Without a time stamp: the same document gives the same page.
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
