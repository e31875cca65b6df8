"""Named tensors with facts about them, as one safetensors file that says when it was altered.

    metadata    "fxquant": a line "SHA256 KIND VERSION" such as "5d2f... graph 1", then the facts as JSON
    tensors     as safetensors has them: a table of names, dtypes, shapes and offsets, then bare bytes

The digest is over kind, version, facts, and the tensors with their names. It guards against accidents, not against
malice: what is read is plain data of any content, and its reader checks that. Nothing in such a file can run, any
reader of safetensors sees its tensors, and equal content gives equal bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fxquant.atomic import write_file

_ENTRY = "fxquant"
# What safetensors itself allows for its header.
_LONGEST_HEADER = 100_000_000
_KNOWN = {b"PK\x03\x04": "a zip archive, perhaps of torch.export", b"\x89FXQ": "a compiled model", b"\x80": "a pickle"}


class TensorFileError(Exception):
    """The content cannot be what it should be; the text completes 'FILE is'."""


def write_tensors(
    path: str | os.PathLike[str], kind: str, version: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write the file, or leave what was there: OSError. TensorFileError if the facts are too long for the format."""
    write_file(path, packed(kind, version, json.dumps(facts, allow_nan=False, separators=(",", ":")), tensors))


def packed(kind: str, version: int, facts: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a file, its digest made anew; `facts` is JSON."""
    # Copies: tensors may share memory, or lie in it in another order.
    own = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    text = f"{kind} {version}\n{facts}"
    try:
        # One entry: safetensors writes several in any order.
        return safetensors.torch.save(own, {_ENTRY: f"{_digest(text, own)} {text}"})
    except SafetensorError as error:
        raise TensorFileError(f"too large for its format ({error})") from error


def read_tensors(path: str | os.PathLike[str], kind: str, version: int) -> tuple[Any, dict[str, Tensor]]:
    """Facts and tensors of a file of this kind, of this version or an older one.

    Raises TensorFileError for a file that is anything else, and OSError where it cannot be read.
    """
    with Path(path).open("rb") as file:
        start = file.read(9)
        _recognize(start, os.fstat(file.fileno()).st_size, kind)
        data = start + file.read()
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        digest, _, text = header["__metadata__"][_ENTRY].partition(" ")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        raise TensorFileError(f"no {kind} of fxquant, or is damaged ({_first_line(error)})") from error
    form, _, facts = text.partition("\n")
    _require_version(form, kind, version)
    if _digest(text, tensors) != digest:
        raise TensorFileError("not as it was written (its checksum does not fit)")
    for name, tensor in tensors.items():
        if tensor.dtype is torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise TensorFileError(f"damaged: {name} holds truth values that are neither true nor false")
    return parsed(facts), tensors


def parsed(text: str) -> Any:
    """Strict JSON: no NaN, and an error of ours for whatever is wrong with it."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"damaged: its facts are not JSON ({_first_line(error)})") from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and elements, in the order of the names."""
    found = sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().contiguous().reshape(-1)
        found.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return found.hexdigest()


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return sha256(f"{digest_of(tensors)} {text}".encode()).hexdigest()


def _recognize(start: bytes, size: int, kind: str) -> None:
    """Refuse what is obviously something else before all of it is read."""
    header = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:] != b"{" or header > _LONGEST_HEADER:
        other = next((f"{other}, " for magic, other in _KNOWN.items() if start.startswith(magic)), "")
        raise TensorFileError(f"{other}no {kind} of fxquant")
    if header + 8 > size:
        raise TensorFileError(f"no {kind} of fxquant, or is damaged: it ends within its header")


def _require_version(form: str, kind: str, version: int) -> None:
    name, _, number = form.partition(" ")
    if name != kind or not number.isdecimal() or len(number) > 9:
        raise TensorFileError(f"no {kind} of fxquant")
    if int(number) > version:
        raise TensorFileError(f"of version {number}, and this fxquant reads up to {version}: update fxquant")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not allowed")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
