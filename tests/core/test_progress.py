"""Long work shows how far it is where somebody looks: in a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import rich.progress

from fxquant.progress import track, working


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bars were shown for."""
    found: list[str] = []

    def noted(items: Any, what: str, *rest: Any, **more: Any) -> Any:
        found.append(what)
        return items

    monkeypatch.setattr(rich.progress, "track", noted)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return found


def test_nobody_looks(shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with working("thinking") as update:
        update("still thinking")
    assert list(track([1, 2], "counting")) == [1, 2] and not shown
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_a_bar(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert list(track([1, 2], "counting")) == [1, 2] and shown == ["counting"]
    assert list(track([1, 2], "in silence", show=False)) == [1, 2] and shown == ["counting"]


def test_a_terminal_shows_a_bar(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track(iter("ab"), "reading")) == ["a", "b"] and shown == ["reading"]
