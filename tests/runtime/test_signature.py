"""Whom a file is from: signed with a secret, and refused without it before anything in it is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fxquant.errors import AlteredError, ArtifactError, UnsignedError, WrongKeyError
from fxquant.runtime import CompiledModel, header, load, read, storage, write
from tests.runtime.forging import forged
from tests.runtime.objects import COLUMNS, ROWS, mirror, mirrored

KEY, OTHER = b"k" * 32, b"o" * 32


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    return CompiledModel(mirror(), threads=1).save(tmp_path / "signed.fxq", key=KEY)


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the header was looked at")

    monkeypatch.setattr(header, "decode", refuse)


def test_a_signed_file_is_loaded_with_its_key_and_without(signed: Path) -> None:
    x = np.ones((2, ROWS, COLUMNS), np.int32)
    for trusted in (KEY, None):
        with load(signed, threads=1, trusted=trusted) as model:
            np.testing.assert_array_equal(model(x), mirrored(x))


@pytest.mark.usefixtures("no_parser")
def test_another_key_is_refused_first(signed: Path) -> None:
    with pytest.raises(WrongKeyError, match=r"signed\.fxq is signed with another key than the given one"):
        load(signed, trusted=OTHER)


@pytest.mark.usefixtures("no_parser")
def test_an_unsigned_file_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UnsignedError, match=r"m\.fxq is not signed, and only files signed with the given key"):
        read(write(mirror(), tmp_path / "m.fxq"), trusted=KEY)


@pytest.mark.usefixtures("no_parser")
def test_who_changes_a_signed_file_cannot_sign_it(signed: Path) -> None:
    """A change with a fitting checksum, and the old signature: moved to a changed file, or under a new checksum."""
    data, seal = signed.read_bytes(), signed.read_bytes()[-32:]
    assert write(mirror(name="other"), signed, key=OTHER).read_bytes()[-32:] != seal
    stolen = signed.read_bytes()[:-32] + seal
    checksum = storage._checksum(stolen[:64], [stolen[64:]]).digest()
    signed.write_bytes(stolen[:24] + checksum + stolen[56:])
    with pytest.raises(WrongKeyError):
        read(signed, trusted=KEY)
    signed.write_bytes(forged(data, lambda header: header.update(name="other")))
    with pytest.raises(UnsignedError):
        read(signed, trusted=KEY)


@pytest.mark.parametrize("trusted", [KEY, None])
def test_every_flipped_byte_of_a_signed_file_is_noticed(signed: Path, trusted: bytes | None) -> None:
    good = signed.read_bytes()
    for place in [*range(64), *range(64, len(good) - 32, 97), *range(len(good) - 32, len(good))]:
        signed.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        with pytest.raises(ArtifactError):
            read(signed, trusted=trusted)
    signed.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(AlteredError, match="checksum"):
        read(signed, trusted=trusted)


@pytest.mark.parametrize(
    ("key", "message"), [(b"short", "has 5 bytes"), ("k" * 32, "bytes, not a str"), (bytearray(32), "not a bytearray")]
)
def test_what_is_no_key(signed: Path, key: Any, message: str) -> None:
    before = signed.read_bytes()
    with pytest.raises(WrongKeyError, match=message):
        write(mirror(), signed, key=key)
    with pytest.raises(WrongKeyError, match=message):
        read(signed, trusted=key)
    assert signed.read_bytes() == before and len(list(signed.parent.iterdir())) == 1


def test_signing_keeps_the_rest_as_it_is(signed: Path, tmp_path: Path) -> None:
    plain = write(mirror(), tmp_path / "plain.fxq").read_bytes()
    assert signed.read_bytes()[64:-32] == plain[64:]
    assert json.dumps(read(signed, trusted=KEY).report) == json.dumps(mirror().report)
