"""Files of several artifacts: the one that fits is loaded, the others are told, and what is no such list is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fxquant
from fxquant.errors import AlteredError, ArtifactError, NewerFormatError, UnsignedError, WrongMachineError
from fxquant.runtime import several, storage
from fxquant.runtime.artifact import Artifact
from fxquant.runtime.host import host_machine
from tests.runtime.objects import mirror

KEY = b"0123456789abcdef"


@pytest.fixture(scope="module")
def here() -> Artifact:
    """One that runs on this machine."""
    return mirror()


def elsewhere(artifact: Artifact, *features: str) -> Artifact:
    """The same for CPUs that this one is not."""
    return replace(artifact, machine="vax", cpu_features=features)


def test_the_first_that_fits_is_loaded(here: Artifact, tmp_path: Path) -> None:
    path = storage.write(elsewhere(here, "a"), tmp_path / "net.fxq", here, elsewhere(here), key=KEY)
    assert [a.machine for a in storage.read_all(path)] == ["vax", host_machine(), "vax"]
    assert storage.read(path, any_host=True).cpu_features == ("a",)
    with fxquant.load(path, trusted=KEY) as net:
        x = np.ones(net.inputs[0].shape, net.inputs[0].dtype)
        assert np.array_equal(net(x), fxquant.CompiledModel(here)(x))
    with pytest.raises(UnsignedError):
        storage.read(storage.write(here, tmp_path / "other.fxq", here), trusted=KEY)


def test_what_there_is_is_told_where_nothing_fits(here: Artifact, tmp_path: Path) -> None:
    path = storage.write(elsewhere(here, "a", "b"), tmp_path / "net.fxq", elsewhere(here))
    with pytest.raises(WrongMachineError, match=r"has code for vax \(a, b\), vax \(any CPU\), and none for this"):
        fxquant.load(path)


def test_a_damaged_list_is_refused(here: Artifact, tmp_path: Path) -> None:
    path = storage.write(here, tmp_path / "net.fxq", here)
    whole = path.read_bytes()
    head = len(several.MAGIC)
    lists = {
        "no parts": whole[: head + 4] + bytes(4) + whole[head + 8 :],
        "too many": whole[: head + 4] + b"\xff" * 4 + whole[head + 8 :],
        "an offset within the list": whole[: head + 8] + bytes(8) + whole[head + 16 :],
        "a length beyond the file": whole[: head + 16] + b"\xff" * 8 + whole[head + 24 :],
        "cut in the list": whole[: head + 12],
        "cut in the last part": whole[:-8],
        "the magic alone": whole[:head],
    }
    for name, text in lists.items():
        path.write_bytes(text)
        with pytest.raises(AlteredError):
            pytest.fail(f"{name} was loaded: {fxquant.load(path)}")
    path.write_bytes(whole[:head] + (several.FORMAT + 1).to_bytes(4, "little") + whole[head + 4 :])
    with pytest.raises(NewerFormatError, match="update fxquant"):
        fxquant.load(path)
    # A flipped bit anywhere is found, but in the padding between parts, which nobody reads.
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            found = storage.read_all(path)
        except ArtifactError:
            continue
        assert not whole[at] and [a.code for a in found] == [here.code, here.code], at
