"""Four thousand nodes: the page opens at once and stays smooth, with modules and without."""

from __future__ import annotations

from typing import Any

import pytest

from fxquant.tools.view.analysis import critical_path
from fxquant.tools.view.document import Document, Node, Run, Stage, Value
from fxquant.tools.view.view import View
from tests.tools.view.conftest import Opened

COUNT = 4400
DRAWN = """async () => {
  while (!performance.getEntriesByName("drawn").length) await new Promise(requestAnimationFrame);
  return performance.getEntriesByName("drawn")[0].startTime;
}"""
# Frames while panning or zooming, by wheel events as a hand makes them.
FRAMES = """async (zooming) => {
  const canvas = document.getElementById("canvas"), times = [];
  for (let i = 0; i < 60; i++) {
    const at = performance.now();
    const wheel = {deltaY: i < 30 ? 60 : -60, ctrlKey: zooming, clientX: 300, clientY: 300, cancelable: true};
    canvas.dispatchEvent(new WheelEvent("wheel", wheel));
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - at);
  }
  return 1000 * times.length / times.reduce((a, b) => a + b);
}"""


def node(name: str, inputs: tuple[str, ...], module: str) -> Node:
    value = Value(-1.0, 3.0, 4 / 255, -64, -128, 127, 8, "minmax over 1000 values")
    facts = dict.fromkeys(("constants", "originals", "aliases", "multipliers", "passes"), ())
    return Node(
        id=name, kind="call", operation="fxq.requantize", inputs=inputs, module=module, source="net.py:1 x = f(x)",
        dtype="int8", shape=("N", 64, 56, 56), bytes=200704, macs=1000, value=value, weight=None, is_float=False,
        feeds="", fused_into="", plan="", why="", **facts,
    )  # fmt: skip


def large(modules: bool) -> View:
    """Blocks of three convolutions with a shortcut, a concat of the last eight blocks now and then."""
    nodes: list[Node] = [node("x", (), "")]
    blocks = ["x"]
    while len(nodes) < COUNT:
        number = len(blocks)
        place = f"stage{number // 128}.block{number % 128}" if modules else ""
        names = [f"conv_{number}_{part}" for part in range(3)]
        sources = [tuple(blocks[-8:]) if number % 16 == 0 else (blocks[-1],), *((name,) for name in names[:2])]
        nodes += [node(name, inputs, place) for name, inputs in zip(names, sources, strict=True)]
        nodes.append(node(f"add_{number}", (names[2], blocks[-1]), place))
        blocks.append(f"add_{number}")
    stage = Stage("made", "INTEGER", tuple(range(len(nodes))))
    return View(Document("large", (Run("large", tuple(nodes), (stage,), {}, critical_path(nodes)),)))


@pytest.mark.parametrize("modules", [True, False], ids=["modules", "flat"])
def test_it_opens_in_under_two_seconds_and_moves_smoothly(modules: bool, opened: Opened) -> None:
    view = large(modules)
    assert len(view.document.runs[0].nodes()) > 4000
    # From the start of navigation to the first picture; the best of three, as for frames.
    pages = [opened(view) for _ in range(3)]
    assert min(page.evaluate(DRAWN) for page in pages) < 2000
    page = pages[-1]
    shown = len(page.evaluate("window.fxquant.shown()"))
    assert shown <= 300 if modules else shown > 4000
    for everything in (False, True):
        if everything:
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press("u")
            assert len(page.evaluate("window.fxquant.shown()")) > 4000
        assert best_of(page, False) > 30 and best_of(page, True) > 30


def best_of(page: Any, zooming: bool) -> float:
    """Frames per second; the best of three, since the machine may be busy with something else."""
    return max(float(page.evaluate(FRAMES, zooming)) for _ in range(3))


def test_the_whole_of_it_is_drawn_in_a_frame(opened: Opened) -> None:
    page = opened(large(False))
    page.evaluate("""() => { for (let i = 0; i < 40; i++) document.getElementById("canvas").dispatchEvent(
        new WheelEvent("wheel", {deltaY: 100, ctrlKey: true, clientX: 300, clientY: 300, cancelable: true})); }""")
    spent = page.evaluate("""() => { const times = []; for (let i = 0; i < 9; i++) { const at = performance.now();
        window.fxquant.draw(); times.push(performance.now() - at); } return times.sort((a, b) => a - b)[4]; }""")
    assert spent < 33


def test_search_and_jump(opened: Opened) -> None:
    page = opened(large(True))
    page.fill("#search", "conv_1000_2")
    page.press("#search", "Enter")
    assert page.evaluate("window.fxquant.state.selected") == "conv_1000_2"
    place = page.evaluate("window.fxquant.position('conv_1000_2')")
    assert 0 < place["x"] < 910 and 60 < place["y"] < 768
