"""The header of an `.fxq` file: JSON with the fields of `Artifact` and where each section lies, checked value by value.

    {"name": ..., "inputs": [{"name": ..., "shape": [...], ...}], ..., "sections": {"code": [start, size], ...}}

Nothing of it is believed: every field must be there, of its type and within its bounds, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fxquant.errors import ArtifactError
from fxquant.runtime import check
from fxquant.runtime.artifact import WEIGHT_ALIGN, Artifact, IndexCheck, Port

if TYPE_CHECKING:
    from fxquant.runtime.memory import Bytes

SECTIONS = ("code", "weights")

# What a report of a large network takes, several times over; parsing more would take seconds.
MOST_BYTES, DEEPEST = 1 << 25, 64

_FIELDS = {f.name for f in fields(Artifact)} - set(SECTIONS)
_PORT_FIELDS, _CHECK_FIELDS = ({f.name for f in fields(kind)} for kind in (Port, IndexCheck))


def encode(artifact: Artifact, sections: Mapping[str, tuple[int, int]]) -> bytes:
    """The header of `artifact`, whose sections lie at these (start, size); ArtifactError for what JSON cannot say."""
    header = {f.name: getattr(artifact, f.name) for f in fields(artifact) if f.name in _FIELDS}
    header |= {key: [asdict(entry) for entry in header[key]] for key in ("inputs", "outputs", "index_checks")}
    try:
        text = json.dumps(header | {"sections": sections}, default=dict, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"target, versions or report of model {artifact.name!r} is not plain JSON data: {error}"
        ) from error
    _require_modest(text)
    return text


def decode(text: bytes, file: Bytes, start: int) -> Artifact:
    """The artifact that the header `text` of `file` describes; `ArtifactError` names the field that is wrong.

    Sections lie behind `start`, where the header ends, one after the other and up to the end of `file`.
    """
    header = _object("the header", _parsed(text), _FIELDS | {"sections"})
    bodies = _sections(header.pop("sections"), file, start)
    header |= {key: tuple(_port(key, port) for port in _list(key, header[key])) for key in ("inputs", "outputs")}
    checks = _list("index_checks", header["index_checks"])
    header["index_checks"] = tuple(IndexCheck(**_object("a check of indices", one, _CHECK_FIELDS)) for one in checks)
    header["cpu_features"] = tuple(_list("cpu_features", header["cpu_features"]))
    return Artifact(**header, code=bodies["code"].tobytes(), weights=bodies["weights"])


def _parsed(text: bytes) -> Any:
    _require_modest(text)
    try:
        return json.loads(text.decode(), object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"it is not JSON: {error}") from error


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ArtifactError("it has a field twice")
    return found


def _require_modest(text: bytes) -> None:
    """Few enough bytes to parse, and nested so little that no parser's recursion ends in trouble."""
    if len(text) > MOST_BYTES:
        raise ArtifactError(f"the header has {len(text)} bytes, of {MOST_BYTES} at most; shorten the report")
    # Without escapes, a byte lies in a string if the number of quotes before it is odd.
    plain = np.frombuffer(text.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    outside = np.cumsum(plain == ord('"'), dtype=np.int32) % 2 == 0
    marks = plain[outside]
    steps = np.isin(marks, (ord("["), ord("{"))).astype(np.int32) - np.isin(marks, (ord("]"), ord("}")))
    depth = int(steps.cumsum().max(initial=0))
    if depth > DEEPEST:
        raise ArtifactError(f"the header is nested {depth} deep, of {DEEPEST} at most; make the report plainer")


def _sections(table: Any, file: Bytes, start: int) -> dict[str, Bytes]:
    """The bodies of the sections: in order, aligned, apart, with zeros between, and with nothing behind them."""
    table, end, bodies = _object("sections", table, set(SECTIONS)), start, {}
    for name in SECTIONS:
        place = _list(f"section {name}", table[name])
        if len(place) != 2:
            raise ArtifactError(f"section {name} has {len(place)} numbers, not a start and a size")
        begin = check.whole(f"start of section {name}", place[0], end, len(file))
        size = check.count(f"size of section {name}", place[1], len(file) - begin)
        if begin % WEIGHT_ALIGN or file[end:begin].any():
            raise ArtifactError(f"section {name} starts at {begin}, not at a multiple of {WEIGHT_ALIGN} behind zeros")
        bodies[name], end = file[begin : begin + size], begin + size
    if end != len(file):
        raise ArtifactError(f"the sections end at {end}, and the file has {len(file)} bytes")
    return bodies


def _port(key: str, value: Any) -> Port:
    values = _object(f"a port of {key}", value, _PORT_FIELDS)
    return Port(**{**values, "shape": tuple(_list(f"shape of a port of {key}", values["shape"]))})


def _object(what: str, value: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArtifactError(f"{what} is {check.shown(value)}, not an object")
    if value.keys() != names:
        odd = ", ".join(check.shown(name) for name in sorted(value.keys() ^ names)[:5])
        raise ArtifactError(f"{what} lacks, or has and should not have: {odd}")
    return value


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ArtifactError(f"{what} is {check.shown(value)}, not a list")
    return value
