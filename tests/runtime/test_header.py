"""What a header says is checked value by value, and against the code: a file that fits its checksum may still lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from fxquant.errors import AlteredError, ArtifactError, ObjectCodeError
from fxquant.runtime import CompiledModel, Port, header, load, read, write
from tests.runtime.forging import Header, forged, header_of, mutants, section
from tests.runtime.objects import mirror, pair, prepared

PORT = {"name": "z", "dtype": "int32", "shape": [1, 8], "scale": None, "zero_point": None, "qmin": None, "qmax": None}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(mirror(), tmp_path_factory.mktemp("good") / "mirror.fxq").read_bytes()


def setting(*path: Any) -> Callable[[Header], None]:
    """Put the last of `path` where the rest of it leads."""
    *way, key, value = path

    def change(found: Any) -> None:
        for step in way:
            found = found[step]
        found[key] = value

    return change


HOSTILE: dict[str, tuple[Callable[[Header], Any], str]] = {
    "a field less": (lambda h: h.pop("batched"), "lacks, or has and should not have: 'batched'"),
    "a field more": (setting("extra", 1), "'extra'"),
    "name": (setting("name", "a\nb"), "name is 'a"),
    "name's length": (setting("name", "x" * 2000), "not a text of up to 1000"),
    "target": (setting("target", []), "target of model 'mirror' is a list of 0"),
    "versions": (setting("versions", {"tvm": 1}), "version of tvm of model 'mirror' is 1"),
    "report": (setting("report", None), "report of model 'mirror' is None"),
    "batched": (setting("batched", 1), "batched of model 'mirror' is 1, not true or false"),
    "features": (setting("cpu_features", "avx2"), "cpu_features is 'avx2', not a list"),
    "feature": (setting("cpu_features", [7]), "a CPU feature of model 'mirror' is 7"),
    "machine": (setting("machine", 62), "machine of model 'mirror' is 62"),
    "outputs": (setting("outputs", []), "has no output"),
    "outputs' type": (setting("outputs", 3), "outputs is 3, not a list"),
    "number of inputs": (setting("inputs", [PORT] * 2000), "number of inputs of model 'mirror' is 2000"),
    "same names": (setting("inputs", [PORT, PORT]), "two inputs called 'z'"),
    "a port's field": (lambda h: h["inputs"][0].pop("dtype"), "a port of inputs lacks, .*'dtype'"),
    "dtype": (setting("inputs", 0, "dtype", "object"), "dtype of port 'x' is 'object'; known are bool, uint8"),
    "dtype's type": (setting("inputs", 0, "dtype", ["int32"]), "dtype of port 'x' is a list of 1"),
    "shape": (setting("inputs", 0, "shape", 8), "shape of a port of inputs is 8, not a list"),
    "negative shape": (setting("inputs", 0, "shape", 1, -16), "a dimension of port 'x' is -16"),
    "real shape": (setting("inputs", 0, "shape", 1, 16.0), "a dimension of port 'x' is 16.0"),
    "shape's size": (setting("inputs", 0, "shape", [1, 1 << 35, 1 << 35]), "size in bytes of port 'x'"),
    "rank": (setting("inputs", 0, "shape", [1] * 99), "number of dimensions of port 'x' is 99"),
    "batch": (setting("inputs", 0, "shape", [2, 16, 32]), r"x: int32\[2, 16, 32\] of a batched model must have 1"),
    "scale": (setting("outputs", 0, "scale", 0.0), "scale of port 'y' is 0.0, not a positive number"),
    "infinite scale": (setting("outputs", 0, "scale", float("inf")), "scale of port 'y' is inf"),
    "scale alone": (setting("inputs", 0, "scale", 1.0), "zero_point of port 'x' is None"),
    "zero point": (setting("outputs", 0, "zero_point", 1 << 31), "zero_point of port 'y' is 2147483648"),
    "range": (setting("outputs", 0, "qmax", -129), "qmax of port 'y' is -129, not an integer from -128"),
    "range of dtype": (setting("outputs", 0, "qmin", -(1 << 40)), "qmin of port 'y'"),
    "sections": (setting("sections", {"code": [0, 0]}), "sections lacks, or has and should not have: 'weights'"),
    "a section": (setting("sections", "code", [64]), "section code has 1 numbers"),
    "a section's place": (setting("sections", "code", [64, 64]), "start of section code is 64, not an integer from"),
    "a section's size": (setting("sections", "weights", 1, 1 << 60), "size of section weights"),
    "sections that overlap": (lambda h: setting("sections", "weights", h["sections"]["code"])(h), "start of section w"),
    "alignment": (lambda h: setting("sections", "code", 0, h["sections"]["code"][0] + 1)(h), "not at a multiple of 64"),
    "bytes behind": (setting("sections", "weights", 1, 8), "the sections end at"),
    "arena's sign": (setting("arena_bytes", -1), "arena_bytes of model 'mirror' is -1, not an integer from 0"),
    "arena's size": (setting("arena_bytes", 1 << 60), "arena_bytes"),
    "scratch": (setting("scratch_bytes", "256"), "scratch_bytes of model 'mirror' is '256'"),
    "sync words": (setting("sync_words", 1 << 30), "sync_words"),
    "resident": (setting("resident_bytes", True), "resident_bytes of model 'mirror' is True"),
    "integers of any length": (setting("arena_bytes", 10**1000), "arena_bytes of .* an integer of 3322 bits"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_header_says_is_refused_with_its_name(good: bytes, tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    path = tmp_path / "m.fxq"
    path.write_bytes(forged(good, change))
    with pytest.raises(AlteredError, match=rf"m\.fxq lacks or garbles a field: .*{message}"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "it is not JSON"),
        (b"[]", "the header is a list of 0, not an object"),
        (b"\xff", "it is not JSON"),
        ("{}".encode("utf-16"), "it is not JSON"),
        (b'{"a": 1, "a": 2}', "it has a field twice"),
        (b"[" * 100_000, "nested 100000 deep, of 64 at most"),
        (b'{"a":' * 65, "nested 65 deep"),
        (rb'["\\\"[",' + b"[" * 65, "nested 66 deep"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "it is not JSON"),
    ],
    ids=lambda x: repr(x)[:20],
)
def test_texts_that_are_no_header(good: bytes, tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "m.fxq"
    path.write_bytes(forged(good, text=text))
    with pytest.raises(AlteredError, match=message):
        read(path)


def test_a_header_too_long_to_parse(good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.fxq"
    path.write_bytes(good)
    monkeypatch.setattr(header, "MOST_BYTES", 100)
    with pytest.raises(AlteredError, match=r"the header has .* bytes, of 100 at most"):
        read(path)
    with pytest.raises(ArtifactError, match="of 100 at most; shorten the report"):
        write(mirror(), path)


def test_brackets_in_texts_are_no_depth(tmp_path: Path) -> None:
    report = {"source": ['x["[' * 100, "\\" * 7 + '"' + "[" * 100, "{" * 100 + "\\"]}
    assert read(write(mirror(report=report), tmp_path / "m.fxq")).report == report


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ArtifactError, match="nested 73 deep"):
        write(mirror(report={"deep": deep}), tmp_path / "m.fxq")
    with pytest.raises(ArtifactError, match="name is 'a"):
        write(mirror(name="a\nb"), tmp_path / "m.fxq")
    assert not list(tmp_path.iterdir())


def test_impossible_artifacts_are_refused() -> None:
    with pytest.raises(ArtifactError, match="no output"):
        mirror(outputs=())
    with pytest.raises(ArtifactError, match=r"x: int8\[2, 3\] of a batched model"):
        mirror(inputs=(Port("x", "int8", (2, 3)),))
    with pytest.raises(ArtifactError, match="arena_bytes"):
        mirror(arena_bytes=-1)
    with pytest.raises(ArtifactError, match="float32 and has a scale; only integers have one"):
        Port("x", "float32", (1,), 0.5, 0, 0, 1)


LIES: dict[str, tuple[Callable[[Header], Any], str]] = {
    "no inputs": (setting("inputs", []), "number of inputs is 0, but the object code was compiled for 1"),
    "an output more": (lambda h: h["outputs"].append(PORT | {"shape": [1, 1]}), "number of outputs is 2, .* for 1"),
    "a smaller input": (setting("inputs", 0, "shape", 2, 31), "dimension 2 of input 0 is 31, .* compiled for 32"),
    "another shape": (setting("outputs", 0, "shape", [1, 32, 16]), "dimension 1 of output 0 is 32"),
    "another rank": (setting("outputs", 0, "shape", [1, 512]), "number of dimensions of output 0 is 2, .* for 3"),
    "another dtype": (setting("inputs", 0, "dtype", "float32"), "dtype number of input 0 is 10, .* compiled for 6"),
    "no batch": (setting("batched", False), "batched is 0, .* compiled for 1"),
    "fewer CPU features": (setting("cpu_features", []), "checksum of cpu_features"),
    "a small arena": (setting("arena_bytes", 64), "arena_bytes is 64, but the object code was compiled for 2048"),
    "no scratch": (setting("scratch_bytes", 0), "scratch_bytes is 0, .* compiled for 256"),
    "few sync words": (setting("sync_words", 1), "sync_words is 1, .* compiled for 64"),
    "nothing to expand": (setting("resident_bytes", 64), "no symbol 'prepare'"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_header_that_lies_about_its_code_is_refused(good: bytes, tmp_path: Path, case: str) -> None:
    change, message = LIES[case]
    path = tmp_path / "m.fxq"
    path.write_bytes(forged(good, change))
    with pytest.raises(ObjectCodeError, match=rf"m\.fxq: .*{message}"):
        load(path, threads=1)


def test_code_and_weights_belong_together() -> None:
    code = mirror().code
    with pytest.raises(ObjectCodeError, match="weight_bytes is 4, but the object code was compiled for 128"):
        CompiledModel(mirror(code=code, weights=bytes(4)))
    with pytest.raises(ObjectCodeError, match="resident_bytes is 64, but the object code was compiled for 128"):
        CompiledModel(prepared(code=prepared().code, resident_bytes=64))
    unmarked = code.replace(b".fxq.needs\0", b".fxq.heeds\0")
    with pytest.raises(ObjectCodeError, match=r"has 0 sections \.fxq\.needs, not one"):
        CompiledModel(mirror(code=unmarked))


CHILD = """
import sys
from pathlib import Path
from fxquant.errors import ArtifactError
from fxquant.runtime import load
outcomes = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        with load(path, threads=1) as model:
            repr(model), model.report
        outcome = "loaded"
    except ArtifactError as error:
        assert str(path) in str(error) and len(str(error)) < 1000, error
        outcome = "refused"
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(outcomes["loaded"], outcomes["refused"])
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_no_mutant_does_harm(tmp_path: Path, seed: int) -> None:
    """Files with a right checksum and anything else wrong are loaded, by a process that must live on, or refused."""
    data = write((mirror, pair)[seed - 1](), tmp_path / "whole").read_bytes()
    folder = tmp_path / "mutants"
    folder.mkdir()
    for number, (kind, mutant) in enumerate(islice(mutants(data, seed), 300)):
        Path(folder, f"{number}{kind}.fxq").write_bytes(mutant)
    command = [sys.executable, "-c", CHILD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    loaded, refused = map(int, done.stdout.split())
    assert loaded + refused == 300 and refused > 150


def test_a_forged_file_without_a_lie_is_good(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.fxq"
    path.write_bytes(forged(good, setting("name", "other")))
    with load(path, threads=1) as model:
        assert model.name == "other"
    assert section(forged(good), "code") == section(good, "code")
    assert json.dumps(header_of(good)["report"]) == json.dumps(mirror().report)
