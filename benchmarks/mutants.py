"""Altered files, and what is done with each: the part of `benchmarks/mutate.py` that knows what is in a file.

A class per kind of file gives the `originals`, a `mutant` of one of them, and `load`, which loads a file as a user does
and returns what runs it.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

_OBSERVERS = ("minmax", "percentile:99.9", "mse", "entropy", "mean_std", "moving_average")
_DEEP = "<deep>"
_NUMBERS = (0, 1, -1, 2, 127, 255, 65536, 2**31 - 1, 2**31, 2**40, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**300)
_REALS = (0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"))
_TEXTS = ("", "x", "x" * 5000, "\n__import__('os')", "__class__", "é\x00", "forward", "object", "O", "float32", "int8")
_NAMES = ("aten.from_file.default", "aten.save.default", "fxq.conv.default", "operator.mul", "../../x", _DEEP)
_TREES = ([], {}, [[]], [None], {"node": "x"}, {"float": "nan"}, {"x": 1}, ["*", "n0", 2**40])
_HOSTILE: tuple[Any, ...] = (None, True, False, *_NUMBERS, *_REALS, *_TEXTS, *_NAMES, *_TREES)
_SIGNS = ("[", " ", "{", '{"a":')


@dataclass(frozen=True)
class Mutant:
    """An altered file: its content, what was done, whether it was signed anew, whether what is loaded may be run."""

    content: bytes
    what: str
    signed: bool
    runs: bool = True


def altered_bytes(data: bytes, chance: random.Random) -> Mutant:
    """Cut, flipped, overwritten, longer, shorter, or another file altogether; not signed."""
    at, much = chance.randrange(len(data) + 1), chance.choice((1, 2, 8, 64, 1000))
    noise = chance.randbytes(much)
    what = chance.choice(("cut", "flip", "flip", "flip", "overwrite", "insert", "remove", "append", "zeros", "foreign"))
    if what == "flip":
        flipped = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return Mutant(bytes(flipped), what, signed=False)
    contents = {
        "cut": data[:at],
        "overwrite": data[:at] + noise + data[at + much :],
        "insert": data[:at] + noise + data[at:],
        "remove": data[:at] + data[at + much :],
        "append": data + noise,
        "zeros": data[:at] + bytes(much) + data[at + much :],
        "foreign": chance.choice(
            (b"", b"PK\x03\x04" + noise, b"\x7fELF" + noise, b"\x80\x02}q\x00", noise, data[::-1])
        ),
    }
    return Mutant(contents[what], what, signed=False)


def altered_json(tree: Any, chance: random.Random) -> tuple[str, str]:
    """JSON text with one to three of its values replaced, removed, repeated or exchanged; and what was done."""
    tree, told = copy.deepcopy(tree), []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        told.append(_alter_place(tree, chance))
    text = json.dumps(tree)
    depth = chance.choice((20, 500, 100_000))
    return text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth), "; ".join(told)


def _alter_place(tree: Any, chance: random.Random) -> str:
    places = list(_places(tree))
    if not places:
        return "nothing is left"
    holder, key = chance.choice(places)
    old = holder[key]
    how = chance.choice(("hostile", "hostile", "near", "remove", "repeat", "graft", "add"))
    if how == "near" and type(old) in (int, float):
        holder[key] = old + chance.choice((-1, 1, 2, -128, 1000)) if chance.random() < 0.7 else -old
    elif how == "remove":
        del holder[key]
        return f"without {key}"
    elif how == "repeat" and isinstance(holder, list):
        holder.insert(chance.randrange(len(holder) + 1), copy.deepcopy(old))
    elif how == "graft":
        other, there = chance.choice(places)
        holder[key] = copy.deepcopy(other[there])
    elif how == "add" and isinstance(old, dict):
        old[chance.choice(("x", "name", "call", "args", ""))] = chance.choice(_HOSTILE)
    else:
        holder[key] = copy.deepcopy(chance.choice(_HOSTILE))
    return f"{key}: {str(old)[:40]} -> {str(holder[key])[:40]}"


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


class TensorFile:
    """Graphs and checkpoints: safetensors files with facts."""

    kind: str
    version: int

    def mutant(self, data: bytes, chance: random.Random) -> Mutant:
        """One altered file."""
        how = chance.random()
        if how < 0.2:
            return altered_bytes(data, chance)
        if how < 0.3:
            return self._with_header(data, chance)
        facts, tensors = self._opened(data)
        if how < 0.85:
            text, what = altered_json(facts, chance)
        else:
            text, what = json.dumps(facts), self._alter_tensor(tensors, chance)
        return Mutant(self._packed(text, tensors), what, signed=True)

    def _with_header(self, data: bytes, chance: random.Random) -> Mutant:
        """The table of tensors altered, or its length."""
        length = int.from_bytes(data[:8], "little")
        text, what = altered_json(json.loads(data[8 : 8 + length]), chance)
        if chance.random() < 0.1:
            text, what = chance.choice(_SIGNS) * chance.choice((1000, 1_000_000)), "header of one sign"
        size = len(text.encode()) if chance.random() < 0.9 else chance.choice((0, 1, 2**31, 2**63, 99_999_999))
        return Mutant(size.to_bytes(8, "little") + text.encode() + data[8 + length :], what, signed=False)

    def _opened(self, data: bytes) -> tuple[Any, dict[str, Any]]:
        import safetensors.torch

        length = int.from_bytes(data[:8], "little")
        facts = json.loads(data[8 : 8 + length])["__metadata__"]["fxquant"].partition("\n")[2]
        return json.loads(facts), safetensors.torch.load(data)

    def _packed(self, text: str, tensors: dict[str, Any]) -> bytes:
        from fxquant.tensor_file import packed

        return packed(self.kind, self.version, text, tensors)

    def _alter_tensor(self, tensors: dict[str, Any], chance: random.Random) -> str:
        import torch

        name = chance.choice(sorted(tensors))
        old = tensors[name]
        size = old.numel() * old.element_size()
        noise = torch.frombuffer(bytearray(chance.randbytes(max(size, 1))), dtype=torch.uint8)[:size]
        how = chance.choice(("dtype", "shape", "remove", "rename", "noise", "extreme", "empty"))
        if how in ("remove", "rename"):
            del tensors[name]
        changed = {
            "dtype": lambda: old.to(chance.choice((torch.float32, torch.int64, torch.bool, torch.int8, torch.float16))),
            "shape": lambda: old.reshape(chance.choice(((-1,), (1, -1), (-1, 1), (1, 1, -1)))),
            "noise": lambda: noise.view(old.dtype).reshape(old.shape) if size else old,
            "extreme": lambda: (
                torch.full_like(noise, chance.choice((0, 1, 0x7F, 0x80, 0xFF))).view(old.dtype).reshape(old.shape)
            ),
            "empty": lambda: old.new_empty((0,)),
        }
        if how == "rename":
            tensors[chance.choice(("x", "a.b.c", "forward", "__class__", name + "/x", ""))] = old
        elif how != "remove":
            tensors[name] = changed[how]()
        return f"tensor {name}: {how}"


class Graphs(TensorFile):
    """INTEGER graphs: two convolutions, an island, a residual addition."""

    kind, version = "graph", 1

    def originals(self) -> list[bytes]:
        """The file that is altered."""
        import fxquant

        with tempfile.TemporaryDirectory() as folder:
            fxquant.save_graph(self._quantized, Path(folder) / "graph.fxgraph")
            return [(Path(folder) / "graph.fxgraph").read_bytes()]

    @cached_property
    def _inputs(self) -> Any:
        import torch

        torch.manual_seed(0)
        return torch.randn(3, 2, 6, 6)

    @cached_property
    def _quantized(self) -> Any:
        import fxquant

        x, model = self._inputs, network()
        return fxquant.quantize(fxquant.trace(model, x), [x], progress=False)

    def load(self, path: Path, number: int) -> Callable[[], str]:
        """Load it, and look at it as `report` does; what is given runs it."""
        import torch

        import fxquant

        module = fxquant.load_graph(path)
        str(fxquant.report(module).to_json())

        def run() -> str:
            with torch.no_grad():
                found = module(self._inputs)
            return _digest([t.numpy() for t in (found if isinstance(found, tuple) else (found,))])

        return run


class Checkpoints(TensorFile):
    """What observers of each kind had seen after two inputs of three."""

    kind, version = "calibration", 1

    def originals(self) -> list[bytes]:
        """One file for each kind of observer."""
        return [self._saved(observed) for observed in self._observed]

    @cached_property
    def _observed(self) -> list[Any]:
        import fxquant

        graph = fxquant.trace(network(), self._data[0])
        return [fxquant.prepare(graph, self._recipe(number)) for number in range(len(_OBSERVERS))]

    @cached_property
    def _data(self) -> list[Any]:
        import torch

        torch.manual_seed(0)
        return [torch.randn(2, 2, 6, 6) for _ in range(3)]

    def _recipe(self, number: int) -> dict[str, Any]:
        return {"activation": {"observer": _OBSERVERS[number]}}

    def _saved(self, observed: Any) -> bytes:
        import fxquant

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint"
            fxquant.calibrate(copy.deepcopy(observed), self._data[:2], checkpoint=path)
            return path.read_bytes()

    def load(self, path: Path, number: int) -> Callable[[], str]:
        """Resume, and see the last input."""
        import fxquant
        from fxquant.graph import text

        observed = copy.deepcopy(self._observed[number])
        fxquant.calibrate(observed, self._data, checkpoint=path)
        converted = fxquant.convert(observed)
        return lambda: sha256(text(converted).encode()).hexdigest()


class Artifacts:
    """Compiled models."""

    def originals(self) -> list[bytes]:
        """A small network for this machine."""
        import fxquant

        graph = Graphs()._quantized
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.fxq"
            with fxquant.compile(graph, against_float=False) as net:
                net.save(path)
            return [path.read_bytes()]

    def mutant(self, data: bytes, chance: random.Random) -> Mutant:
        """One altered file."""
        how = chance.random()
        if how < 0.2:
            return altered_bytes(data, chance)
        header = json.loads(data[64 : 64 + int.from_bytes(data[12:16], "little")])
        code, weights = (data[start : start + size] for start, size in header["sections"].values())
        if how < 0.75:
            return self._packed(header, code, weights, chance.randrange(1 << 30))
        if how < 0.8:
            return self._packed(header, code, altered_bytes(weights or b"x", chance).content, None)
        return self._packed(header, altered_object(code, chance), weights, None)

    def _packed(self, header: dict[str, Any], code: bytes, weights: bytes, seed: int | None) -> Mutant:
        """The file, signed; with a seed its header altered, which may be longer then."""
        from fxquant.runtime import storage

        room = 64
        while True:
            start = -(-(64 + room) // 64) * 64
            second = -(-(start + len(code)) // 64) * 64
            header["sections"] = {"code": [start, len(code)], "weights": [second, len(weights)]}
            what = "code or weights"
            text = json.dumps(header)
            if seed is not None:
                text, what = altered_json(_without_report(header, seed), random.Random(seed))
            if len(text.encode()) <= start - 64:
                break
            room = len(text.encode())
        body = text.encode().ljust(start - 64, b"\0") + code.ljust(second - start, b"\0") + weights
        prefix = struct.pack("<8sIIQ", storage.MAGIC, storage.FORMAT, len(text.encode()), 64 + len(body))
        digest = sha256(prefix + bytes(8) + body).digest()
        return Mutant(prefix + digest + bytes(8) + body, what, signed=True, runs=seed is not None)

    def load(self, path: Path, number: int) -> Callable[[], str]:
        """Load it; what is given runs it on inputs that the original takes."""
        import numpy as np

        import fxquant

        net = fxquant.load(path, 2)
        x = np.random.default_rng(0).standard_normal((3, 2, 6, 6), dtype=np.float32)

        def run() -> str:
            found = net(x)
            return _digest(found if isinstance(found, (tuple, list)) else [found])

        return run


def _without_report(header: dict[str, Any], seed: int) -> dict[str, Any]:
    """Most of a header is its report, which would draw most of the alterations."""
    return {**header, "report": {}} if seed % 8 else header


def altered_object(code: bytes, chance: random.Random) -> bytes:
    """An ELF object with hostile numbers where it says how it is to be loaded: not in the code itself."""
    altered = bytearray(code)
    offset, count = struct.unpack_from("<Q", code, 40)[0], struct.unpack_from("<H", code, 60)[0]
    tables = [(0, 64), (offset, 64 * count)]
    for number in range(count):
        _, kind, _, _, start, size = struct.unpack_from("<IIQQQQ", code, offset + 64 * number)
        if kind in (2, 3, 4):  # symbols, names, relocations
            tables.append((start, size))
    for _ in range(chance.choice((1, 1, 2, 4))):
        start, size = chance.choice([table for table in tables if table[1] >= 8])
        width = chance.choice((1, 2, 4, 8))
        at = start + chance.randrange((size - width) // width + 1) * width
        number = chance.choice((0, 1, 2, 0x7F, 0xFF, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1))
        number = number if chance.random() < 0.5 else int.from_bytes(altered[at : at + width], "little") + 1
        altered[at : at + width] = (number % 256**width).to_bytes(width, "little")
    return bytes(altered)


def network() -> Any:
    """A small network with what a graph file can hold: constants, an island, a free batch, several results."""
    import torch
    from torch import Tensor, nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.last = nn.Linear(144, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(self.first(x))
            y = torch.softmax(torch.sigmoid(self.second(y)) + y, 1)
            return self.last(y.reshape(y.shape[0], -1)).softmax(-1), y

    torch.manual_seed(0)
    return Net().eval()


FILES: dict[str, Any] = {"graph": Graphs, "checkpoint": Checkpoints, "artifact": Artifacts}


def _digest(arrays: Any) -> str:
    found = sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()
