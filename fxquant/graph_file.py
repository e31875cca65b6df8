"""Graphs in `torch.export` files (.pt2), read without ever loading a pickle.

`torch.export.load` unpickles what a file asks it to, loads shared libraries out of it, and evaluates its expressions.
So a file is not handed to torch: its records are read here, those that are plain data are checked and packed anew in
memory, and anything else is refused by name. Example inputs, which torch pickles, are left out.
"""

from __future__ import annotations

import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram

from fxquant.errors import GraphFileError

_DATA = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/(weights/weight_\d+|constants/tensor_\d+)"
    r"|data/(weights/model_weights|constants/model_constants)_config\.json|extra/[\w.]+"
)
_EXAMPLES = "data/sample_inputs/model.pt"
_OPERATOR = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|_operator\.\w+")
# What sizes are written in. Torch evaluates this text as Python: so nothing but these functions may be called.
_EXPRESSION = re.compile(r"(?!.*__)(?!.*\)\s*\()[\w\s+\-*/%(),<>=&|~']*")
_CALL = re.compile(r"(\w+)\s*\(")
_FUNCTIONS = frozenset(
    "Symbol Integer Rational Add Mul Pow Mod Min Max Abs FloorDiv CleanDiv CeilDiv PythonMod Eq Ne Lt Le Gt Ge "
    "And Or Not Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan".split()
)


def write_program(program: ExportedProgram, path: str | os.PathLike[str], extra: dict[str, str]) -> None:
    """Write an exported program with named texts beside it; GraphFileError if that fails."""
    try:
        with _without_torch_warnings():
            torch.export.save(program, path, extra_files=extra)
    except (OSError, RuntimeError) as error:
        raise GraphFileError(f"{os.fspath(path)} cannot be written: {error}") from error


def read_program(path: str | os.PathLike[str]) -> tuple[ExportedProgram, dict[str, str]]:
    """The exported program in a file and the texts beside it.

    Raises GraphFileError for a missing, damaged or foreign file, and for one that holds anything but plain data.
    """
    name = os.fspath(path)
    records = _records(name)
    extra = {key.removeprefix("extra/"): value.decode() for key, value in records.items() if key.startswith("extra/")}
    try:
        with _without_torch_warnings():
            program = torch.export.load(_packed(records))
    except Exception as error:  # whatever torch's parsers meet in a damaged file
        raise GraphFileError(f"{name} cannot be read as a torch.export program: {error}") from error
    return program, extra


def _records(name: str) -> dict[str, bytes]:
    """The records of the file, without the archive's own folder, each of them checked."""
    try:
        with zipfile.ZipFile(name) as archive:
            found = {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}
    except FileNotFoundError as error:
        raise GraphFileError(f"there is no file {name}") from error
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise GraphFileError(f"{name} is not a .pt2 file: {error}") from error
    found.pop(_EXAMPLES, None)
    foreign = [record for record in found if not _DATA.fullmatch(record)]
    if foreign or "models/model.json" not in found:
        what = f"it holds {foreign[0]!r}" if foreign else "it holds no model"
        raise GraphFileError(f"{name} is not an exported graph of plain data: {what}")
    for record, content in found.items():
        if record.endswith(".json"):
            try:
                _check(json.loads(content), f"{name}, {record}")
            except (ValueError, RecursionError) as error:
                raise GraphFileError(f"{name} is damaged: {record} is not JSON ({error})") from error
    return found


def _check(data: Any, where: str) -> None:
    """Refuse pickles, foreign operators and expressions that are more than arithmetic, wherever they stand."""
    if isinstance(data, list):
        for item in data:
            _check(item, where)
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        if key == "use_pickle" and value:
            raise GraphFileError(f"{where} asks for a pickle; fxquant never loads one")
        if key == "target" and "inputs" in data and not _OPERATOR.fullmatch(str(value)):
            raise GraphFileError(f"{where} calls {value!r}, which is not an operator")
        if key == "expr_str" and not _is_arithmetic(str(value)):
            raise GraphFileError(f"{where} has the size {value!r}, which is not arithmetic")
        _check(value, where)


def _is_arithmetic(text: str) -> bool:
    return bool(_EXPRESSION.fullmatch(text)) and _FUNCTIONS.issuperset(_CALL.findall(text))


def _packed(records: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for record, content in {**records, _EXAMPLES: b""}.items():
            archive.writestr(f"graph/{record}", content)
    buffer.seek(0)
    return buffer


@contextmanager
def _without_torch_warnings() -> Iterator[None]:
    """Torch's own deprecations, met while it copies its own program, are not the user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
