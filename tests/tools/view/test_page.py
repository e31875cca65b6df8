"""The page in a real browser: every panel by clicks and keys, and what it shows against the JSON twin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import fxquant
from fxquant.tools.view.document import Document, Node, Run
from fxquant.tools.view.view import View
from tests.tools.view.conftest import Opened


def panel(page: Any) -> str:
    found: str = page.inner_text("#panel")
    return found


def shown_facts(page: Any) -> dict[str, str]:
    """The first table of facts in the panel."""
    rows = page.eval_on_selector_all(
        "#panel table.facts tr",
        "rows => rows.map((r) => [r.children[0].textContent, r.children[1].textContent])",
    )
    return {name: text for name, text in reversed(rows)}


def tab(page: Any, name: str) -> None:
    page.click(f'[data-tab="{name}"]')


def data_rows(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all("#panel tr[data-id]", "rows => rows.map((row) => row.dataset.id)")
    return found


@pytest.mark.parametrize("network", ["resnet8", "unet", "densenet"])
def test_every_node_shows_what_its_twin_says(network: str, opened: Opened, request: pytest.FixtureRequest) -> None:
    view: View = request.getfixturevalue(network)
    run = view.document.runs[0]
    page = opened(view)
    for node in run.nodes()[:: max(1, len(run.nodes()) // 12)]:
        page.evaluate("id => window.fxquant.select(id)", node.id)
        facts = shown_facts(page)
        assert facts["id"] == node.id
        assert facts["operation"] == node.operation
        if node.value is not None:
            assert float(facts["scale"]) == pytest.approx(node.value.scale, rel=1e-5)
            assert int(facts["zero point"]) == node.value.zero_point
            assert facts["range"] == node.value.reason or facts["range"].startswith("[")
            assert node.value.reason in panel(page)
        if node.id in run.measured:
            assert facts["local SQNR"].startswith(f"{run.measured[node.id]['local_db']:.1f} dB")
            assert facts["cumulative SQNR"].startswith(f"{run.measured[node.id]['cumulative_db']:.1f} dB")
            assert page.locator("svg.histogram rect").count() >= 64
            assert page.locator("svg.histogram line.clip").count() == 2
            assert page.locator("svg.histogram rect.alternative").count() == 5
        if node.source:
            assert node.source in panel(page)
        if node.weight is not None:
            assert page.locator("svg.channels rect").count() == len(node.weight.low)


@pytest.mark.parametrize("network", ["resnet8", "unet", "densenet"])
def test_every_panel_opens_on_every_network(network: str, opened: Opened, request: pytest.FixtureRequest) -> None:
    view: View = request.getfixturevalue(network)
    (run,) = view.document.runs
    page = opened(view)
    tab(page, "worst")
    assert len(data_rows(page)) == min(25, len(run.measured) or sum(node.bytes > 0 for node in run.nodes()))
    page.fill("#search", "requantize")
    expected = [n.id for n in run.nodes() if "requantize" in n.operation]
    assert data_rows(page) == expected
    page.press("#search", "Enter")
    assert page.evaluate("window.fxquant.state.selected") == expected[0]
    tab(page, "diff")
    assert page.locator("#panel table >> nth=0 >> tr[data-id]").count() == len(run.stages)
    page.click("#panel table >> nth=0 >> tr[data-id] >> nth=0")
    assert page.evaluate("window.fxquant.state.stage") == 0
    assert page.inner_text("#totals").startswith(f"{len(run.stages[0].nodes)} nodes")
    tab(page, "compare")
    assert "Choose a run" in panel(page)
    tab(page, "memory")
    assert page.locator("svg.arena").count() == len(run.memory)
    tab(page, "node")
    page.click("#fit")
    page.click("#critical")
    assert page.get_attribute("#critical", "aria-pressed") == "true"


def test_a_click_on_the_canvas_selects_the_node_there(opened: Opened, resnet8: View) -> None:
    page = opened(resnet8)
    assert "Click a node" in panel(page)
    convolution = next(node for node in resnet8.document.runs[0].nodes() if node.id == "blocks.0.body.0.0")
    place = page.evaluate("id => window.fxquant.position(id)", convolution.id)
    page.mouse.click(place["x"], place["y"])
    assert page.evaluate("window.fxquant.state.selected") == convolution.id
    assert shown_facts(page)["inputs"] == ", ".join(convolution.inputs)
    page.click(f'#panel button.link[data-to="{convolution.inputs[0]}"]')
    assert page.evaluate("window.fxquant.state.selected") == convolution.inputs[0]
    assert "rounded by" in panel(page)


def test_a_click_on_an_edge_shows_what_flows_there(opened: Opened, resnet8: View) -> None:
    page = opened(resnet8)
    run = resnet8.document.runs[0]
    by_id = {node.id: node for node in run.nodes()}
    edge = next(e for e in page.evaluate("window.fxquant.edges()") if by_id[e["from"]].multipliers)
    page.mouse.click(edge["x"], edge["y"])
    facts, node = shown_facts(page), by_id[edge["from"]]
    assert facts["from"] == node.id
    assert facts["type"] == f"{node.dtype}[{', '.join(map(str, node.shape))}]"
    assert facts["clipped"].endswith("%")
    assert node.multipliers[0].relative_error < 1e-6
    assert f"{node.multipliers[0].relative_error:.2e}"[:4] in facts["relative error"]


def test_multipliers_are_told_with_their_error(resnet8: View) -> None:
    nodes = resnet8.document.runs[0].nodes()
    by_id = {node.id: node for node in nodes}
    found = [(m, node) for node in nodes for m in node.multipliers]
    assert len(found) > 8
    for multiplier, node in found:
        # The mean's divisor is in the multiplier, too: its exact value is not among the graph's scales.
        assert multiplier.is_bound == any(by_id[name].operation == "fxq.sum_pool" for name in node.inputs)
        assert 0 <= multiplier.relative_error <= 0.5 / multiplier.integer_low * 1.0001
        assert multiplier.low == pytest.approx(multiplier.integer_low * 2.0 ** (multiplier.shift - 32))


def test_the_worst_come_first(opened: Opened, resnet8: View) -> None:
    page = opened(resnet8)
    tab(page, "worst")
    measured = resnet8.document.runs[0].measured
    expected = sorted(measured, key=lambda name: measured[name]["local_db"])[:25]
    assert data_rows(page) == expected
    page.select_option("#colour", "bytes")
    tab(page, "worst")
    page.click("#panel tr[data-id] >> nth=2")
    assert page.evaluate("window.fxquant.state.selected") == expected[2]


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ("conv", lambda n, m: any("conv" in alias for alias in n.aliases)),
        ("blocks.1:add", lambda n, m: "blocks.1:add" in n.originals),
        ("conv2d_3", lambda n, m: "conv2d_3" in n.aliases),
        ("high>2.5", lambda n, m: n.value is not None and n.value.high > 2.5),
        ("local<36", lambda n, m: n.id in m and m[n.id]["local_db"] < 36),
        ("requantize range>=3 bits=8", lambda n, m: "requantize" in n.operation and n.value.high - n.value.low >= 3),
    ],
)
def test_search(query: str, holds: Callable[[Node, Any], bool], opened: Opened, resnet8: View) -> None:
    run = resnet8.document.runs[0]
    expected = [node.id for node in run.nodes() if holds(node, run.measured)]
    assert 0 < len(expected) < len(run.nodes())
    page = opened(resnet8)
    page.keyboard.press("/")
    page.keyboard.type(query)
    assert data_rows(page) == expected
    page.keyboard.press("Enter")
    assert page.evaluate("window.fxquant.state.selected") == expected[0]


def test_the_slider_walks_through_the_passes_and_keeps_the_selection(opened: Opened, resnet8: View) -> None:
    run = resnet8.document.runs[0]
    names = [stage.name for stage in run.stages]
    assert names[0] == "trace" and names[-1] == "PackWeights" and len(names) == 24
    page = opened(resnet8)
    page.evaluate("window.fxquant.select('x')")
    page.evaluate("document.activeElement.blur()")
    for place in range(len(names) - 2, -1, -1):
        page.keyboard.press("[")
        stage = run.stages[place]
        assert stage.name in page.inner_text("#stage-name") and stage.stage in page.inner_text("#stage-name")
        assert page.inner_text("#totals").startswith(f"{len(stage.nodes)} nodes")
        assert page.evaluate("window.fxquant.state.selected") == "x"


def test_the_difference_of_two_passes(opened: Opened, resnet8: View) -> None:
    run = resnet8.document.runs[0]
    names = [stage.name for stage in run.stages]
    before, now = ({n.id: n for n in run.nodes(names.index(name))} for name in ("InsertQDQ", "FoldQDQ"))
    page = opened(resnet8)
    page.fill("#stage", str(names.index("FoldQDQ")))
    page.select_option("#diff", str(names.index("InsertQDQ")))

    def said(kind: str) -> str:
        text: str = page.inner_text(f'#panel p[data-kind="{kind}"]')
        return text

    assert said("added").startswith(f"added {len(set(now) - set(before))}:")
    assert said("removed").startswith(f"removed {len(set(before) - set(now))}:")
    fused = {name for name in set(now) & set(before) if set(now[name].originals) - set(before[name].originals)}
    assert said("fused").startswith(f"fused {len(fused)}:") and "stem.0" in fused
    rewired = [n for n in set(now) & set(before) - fused if now[n].inputs != before[n].inputs]
    assert said("rewired").startswith(f"rewired {len(rewired)}:")
    assert run.stages[0].output_db == 300.0
    errors = [stage.output_db for stage in run.stages]
    assert errors[names.index("FoldBatchNorm")] > 80 > errors[-1] > 10  # type: ignore[operator]
    assert "exact" in panel(page) and f"{errors[-1]:.1f}"[:3] in panel(page)


def test_the_slider_tells_what_a_pass_fused_planned_and_ranged(opened: Opened, resnet8: View) -> None:
    run = resnet8.document.runs[0]
    names = [stage.name for stage in run.stages]
    page = opened(resnet8)
    tab(page, "diff")

    def said(name: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """How many of each kind, and what was fused into what, by the pass that the slider stands on."""
        page.fill("#stage", str(names.index(name)))
        words = page.eval_on_selector_all("#panel p[data-kind] b", "all => all.map((b) => b.textContent)")
        counts = {kind: int(count.rstrip(": ")) for kind, count in (text.split(" ") for text in map(str.strip, words))}
        cells = "rows => rows.map((row) => [...row.children].map((cell) => cell.textContent))"
        rows = page.eval_on_selector_all("#panel table >> nth=1 >> tr[data-id]", cells) if counts["fused"] else []
        return counts, [(taken, into) for taken, into in rows]

    counts, fusions = said("FuseOps")
    taken = [node for node in run.nodes(names.index("FuseOps")) if node.fused_into]
    assert fusions == [(node.id, node.fused_into) for node in taken] and ("stem.0", "stem.2") in fusions
    assert counts == {"added": 0, "removed": 0, "rewired": 0, "changed": 0, "fused": len(taken)}
    counts, fusions = said("FoldBatchNorm")
    assert ("stem.1", "stem.0") in fusions and counts["fused"] == counts["removed"] == len(fusions) == 7
    planned = sum(bool(node.plan) for node in run.nodes(names.index("Annotate")))
    assert said("Annotate")[0]["changed"] == planned > 20
    assert said("PropagateRanges")[0]["changed"] > 20
    page.evaluate("window.fxquant.select('stem.0')")
    page.fill("#stage", str(len(names) - 1))
    facts = panel(page)
    assert "trace → FoldBatchNorm → Annotate → FuseOps → PropagateRanges → InsertQDQ → FoldQDQ" in facts
    assert "stem.0, stem.1, stem.2" in facts


def test_labels_are_the_ids_of_the_tables_and_are_found(opened: Opened, mobilenet: View) -> None:
    run = mobilenet.document.runs[0]
    page = opened(mobilenet)
    page.click("#unfold")
    shown = page.evaluate("window.fxquant.labels()")
    assert len(shown) > 50 and all(key == label for key, label in shown)
    assert {key for key, _ in shown} == {node.id for node in run.nodes() if not node.feeds}
    tab(page, "worst")
    assert set(data_rows(page)) <= {label for _, label in shown}
    for _, label in shown[:: len(shown) // 6]:
        page.fill("#search", label)
        assert label in data_rows(page)
    # So are the parts that were fused, and the ids of nodes.
    for name in ("features.1.conv.0.2", "conv2d_5", "batch_norm_5"):
        page.fill("#search", name)
        assert data_rows(page)
    page.fill("#search", "features.1.konv.0.0")
    assert data_rows(page) == [] and "Did you mean features.1.conv.0.0" in panel(page)


def test_two_runs_side_by_side(opened: Opened, resnet8: View) -> None:
    first = resnet8.document.runs[0]
    worse = {name: {**layer, "cumulative_db": layer["cumulative_db"] - 5} for name, layer in first.measured.items()}
    name = next(iter(worse))
    worse[name] = {**worse[name], "cumulative_db": -3.0}
    second = replace(first, label="other", measured=worse)
    page = opened(View(Document("two", (first, second))))
    page.select_option("#against", "1")
    assert data_rows(page)[0] == name
    assert "-3" in page.inner_text("#panel tr[data-id] >> nth=0")
    page.select_option("#run", "1")
    assert page.evaluate("window.fxquant.state.run") == 1


def test_memory(opened: Opened, resnet8: View) -> None:
    page = opened(resnet8)
    tab(page, "memory")
    memory = resnet8.document.runs[0].memory
    assert [found.target for found in memory] == ["cortex-m4", "x86-avx2"]
    assert page.locator("svg.arena").count() == 2
    assert page.locator("svg.arena >> nth=0 >> rect.tenant").count() == len(memory[0].tenants)
    assert f"{memory[0].arena_bytes:,} B" in panel(page)
    peak = memory[0].peak_step
    assert peak is not None
    assert f"peak: {memory[0].steps[peak].node}" in page.locator("svg.arena text").all_text_contents()
    assert memory[0].steps[peak].alive_bytes == max(step.alive_bytes or 0 for step in memory[0].steps)
    assert max(t.offset + t.bytes for t in memory[0].tenants) == memory[0].arena_bytes


def test_keys_move_along_the_graph(opened: Opened, resnet8: View) -> None:
    page = opened(resnet8)
    page.focus("#canvas")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("window.fxquant.state.selected") == "x"
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    third = page.evaluate("window.fxquant.state.selected")
    assert third == "blocks.0.body.0.0"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("window.fxquant.state.selected") != third
    page.keyboard.press("n")
    assert 1 < len(page.evaluate("window.fxquant.shown()")) < len(resnet8.document.runs[0].nodes())
    page.keyboard.press("Escape")
    assert page.evaluate("window.fxquant.state.selected") is None


def test_folding_by_module(opened: Opened, resnet8: View) -> None:
    page = opened(resnet8)
    all_of_it = len(page.evaluate("window.fxquant.shown()"))
    page.click("#fold")
    folded = page.evaluate("window.fxquant.shown()")
    assert "module blocks" in folded and len(folded) < all_of_it
    node = next(n for n in resnet8.document.runs[0].nodes() if n.module == "blocks.1.body.0.0")
    place = page.evaluate("id => window.fxquant.position(id)", node.id)
    page.mouse.click(place["x"], place["y"])
    assert {"module blocks.0", "module blocks.1"} <= set(page.evaluate("window.fxquant.shown()"))
    page.click("#unfold")
    assert len(page.evaluate("window.fxquant.shown()")) == all_of_it


def test_light_and_dark(opened: Opened, resnet8: View) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(resnet8, color_scheme="light"), opened(resnet8, color_scheme="dark")
    assert light.evaluate(colour) == "rgb(255, 255, 255)"
    assert dark.evaluate(colour) == "rgb(20, 23, 28)"
    dark.click("#theme")
    assert dark.evaluate(colour) == "rgb(255, 255, 255)"


def test_the_picture_is_saved_as_svg(opened: Opened, resnet8: View, tmp_path: Path) -> None:
    page = opened(resnet8)
    with page.expect_download() as waiting:
        page.click("#svg")
    waiting.value.save_as(tmp_path / "picture.svg")
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    shown = page.evaluate("window.fxquant.shown()")
    assert len(root.findall(".//{*}rect")) == len(shown) + 1
    assert len(root.findall(".//{*}polyline")) == len(page.evaluate("window.fxquant.edges()"))


HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def hostile(run: Run) -> Run:
    """Every text of a run that comes from a model, turned against the page."""

    def changed(node: Node) -> Node:
        twin = replace(node, source=HOSTILE, operation=node.operation + HOSTILE, originals=(HOSTILE,))
        return replace(twin, id=node.id + HOSTILE, inputs=tuple(name + HOSTILE for name in node.inputs), module=HOSTILE)

    measured = {name + HOSTILE: layer for name, layer in run.measured.items()}
    return replace(run, pool=tuple(map(changed, run.pool)), measured=measured, label=HOSTILE)


def test_names_stay_text(opened: Opened, resnet8: View) -> None:
    run = hostile(resnet8.document.runs[0])
    page = opened(View(Document(HOSTILE, (run, run))))
    assert page.inner_text("h1") == HOSTILE and page.title() == HOSTILE
    page.evaluate("id => window.fxquant.select(id)", run.nodes()[2].id)
    assert shown_facts(page)["id"] == run.nodes()[2].id
    for name in ("worst", "search", "diff", "compare", "memory"):
        tab(page, name)
    page.fill("#search", "<script>")
    assert len(data_rows(page)) == len(run.nodes())
    svg = page.evaluate("window.fxquant.svg()")
    assert "<script" not in svg and "onerror" not in svg.replace("&lt;img src=x onerror", "")
    ElementTree.fromstring(svg)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_a_notebook_gets_a_frame(browser: Any, resnet8: View) -> None:
    page = browser.new_page()
    page.set_content(resnet8._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#totals").get_by_text("nodes").wait_for()
    assert frame.locator("h1").inner_text() == "resnet8"
    page.close()


def test_the_page_is_small_and_holds_the_twin(opened: Opened, resnet8: View, tmp_path: Path) -> None:
    page = opened(resnet8)
    twin = json.loads(resnet8.save(tmp_path / "twin.json").read_text())
    assert twin == json.loads(json.dumps(page.evaluate("window.fxquant.document")))
    nearly_empty = fxquant.view(fxquant.trace(torch.nn.ReLU(), torch.ones(2, 3)))
    assert len(nearly_empty.html) < 100_000
