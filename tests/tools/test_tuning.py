"""`compile(tune=minutes)`: every candidate is exact, the fastest is kept, and what is kept can be shipped."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from typer.testing import CliRunner

import fxquant
from fxquant import targets
from fxquant.cli import app
from fxquant.errors import ArtifactWriteError, TargetError
from fxquant.targets.hosted.compiler import compile_graph
from fxquant.targets.kernels.choosing import Offer
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.targets.kernels.words.x86 import ISAS
from fxquant.tools.tuning import Database, ticks, timed, tuned
from fxquant.tools.tuning.ticks import Ticks
from tests.endtoend.networks import runnable_targets
from tests.targets.standalone.made import quantized

NATIVE = targets.get("native")


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    """Three kinds of kernels, and a linear layer."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(12), nn.Flatten(), nn.Linear(32, 64),
    )  # fmt: skip
    return quantized(model, torch.randn(4, 3, 12, 12))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few candidates that a search is short."""
    room = "fxquant.targets.kernels"
    for name in ("convolution.bytes.template.MOST", "convolution.winograd.template.MOST"):
        monkeypatch.setattr(f"{room}.{name}", 2)
    for name in ("MOST_PAIRS", "MOST_QUADS"):
        monkeypatch.setattr(f"{room}.depthwise.templates.{name}", 2)


@cache
def offers(graph: fx.GraphModule, target: str = "native") -> list[Offer]:
    """What a compilation offers, layer by layer; compiled once."""
    found: list[Offer] = []

    def select(offer: Offer) -> Candidate:
        found.append(offer)
        return offer.first()

    compile_graph(graph, targets.get(target), "net", select)
    return found


@pytest.mark.parametrize("target", runnable_targets())
def test_every_candidate_gives_the_same_integers(target: str, graph: fx.GraphModule) -> None:
    x = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        expected = graph(x)
    seen = offers(graph, target)
    # Depthwise quads fill eight lanes; where a sum of two products may saturate, these weights leave no room for it.
    isa = ISAS[targets.get(target).isa]
    quads = {"depthwise_quads"} if isa.exact_quads and isa.lanes == 8 else set[str]()
    assert {c.kernel for o in seen for c in o.all()} == {"conv", "depthwise", "winograd"} | quads
    for number in range(max(len(o.all()) for o in seen)):

        def select(offer: Offer, number: int = number) -> Candidate:
            return offer.all()[number % len(offer.all())]

        artifact = compile_graph(graph, targets.get(target), "net", select)
        with fxquant.CompiledModel(artifact, 2) as net:
            assert torch.equal(net(x), expected)


def test_the_model_s_choice_is_the_first_candidate(graph: fx.GraphModule) -> None:
    for offer in offers(graph):
        several = offer.all()
        assert several[0] == offer.first() and len(set(several)) == len(several) > 1


def fake_times(monkeypatch: pytest.MonkeyPatch, fast: dict[str, Candidate], together: float = 1.0) -> list[int]:
    """Time is made up: a layer takes 100 ticks, and 50 with its fast candidate. Returns the trials' sizes."""
    seen: list[int] = []

    def in_turn(one: Any, other: Any, _inputs: Any) -> tuple[Any, Any]:
        def spent_by(trial: Any) -> Any:
            spent = np.full(len(trial.stamped.calls), 100.0)
            for at, (offer, candidate) in zip(trial.places, trial.picked, strict=True):
                spent[at] = 50.0 if fast.get(offer.key) == candidate else 100.0
            return spent

        seen.append(sum(fast.get(o.key) == c for o, c in one.picked))
        return spent_by(one) * (together if seen[-1] > 1 else 1.0), spent_by(other)

    monkeypatch.setattr(ticks, "in_turn", in_turn)
    return seen


@pytest.mark.usefixtures("few")
def test_the_fastest_is_found_and_not_measured_again(graph: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {offer.key: offer.all()[-1] for offer in offers(graph)}
    fake_times(monkeypatch, wanted)
    found = tuned(Ticks(graph, NATIVE), Database(NATIVE), progress=False)
    assert {offer.key: found.choose(offer) for offer in offers(graph)} == wanted
    seen = fake_times(monkeypatch, {})
    tuned(Ticks(graph, NATIVE), found, progress=False)
    assert not seen


@pytest.mark.usefixtures("few")
def test_what_is_slower_together_is_dropped(graph: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_times(monkeypatch, {offer.key: offer.all()[1] for offer in offers(graph)}, together=3.0)
    found = tuned(Ticks(graph, NATIVE), Database(NATIVE), progress=False)
    assert all(found.choose(offer) == offer.first() for offer in offers(graph))


def test_time_is_kept(graph: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_times(monkeypatch, {})
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    tuned(Ticks(graph, NATIVE), Database(NATIVE), seconds=180, progress=False)
    # The deadline is after 180 seconds; a trial "takes" 40 of them.
    assert 1 <= len(seen) <= 3


@pytest.mark.usefixtures("few")
def test_measured_for_real(graph: fx.GraphModule, tmp_path: Path) -> None:
    path, x = tmp_path / "tiles.json", torch.randn(2, 3, 12, 12)
    net = fxquant.compile(graph, tune=0.2, tiles=path, progress=False)
    assert torch.equal(net(x), graph(x))
    data = json.loads(path.read_text())
    (tiles,) = data["tiles"].values()
    assert set(tiles) == {offer.key for offer in offers(graph)}
    again = fxquant.compile(graph, tiles=path)
    assert again.artifact.code == net.artifact.code
    assert [layer["tile"] for layer in again.artifact.report["layers"] if "tile" in layer]


@pytest.mark.usefixtures("few")
def test_the_cache_is_the_default(graph: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXQUANT_CACHE", str(tmp_path))
    fake_times(monkeypatch, {})
    timed(graph, NATIVE, 1, None, progress=False)
    assert json.loads((tmp_path / "tiles" / f"{NATIVE.name}.json").read_text())["tiles"]
    monkeypatch.setenv("FXQUANT_CACHE", "off")
    assert timed(graph, NATIVE, 1, None, progress=False)(offers(graph)[0]) == offers(graph)[0].first()


def database(path: Path, graph: fx.GraphModule, **changes: Any) -> Database:
    known = Database(NATIVE)
    for offer in offers(graph):
        known.put(offer, offer.all()[-1])
    known.write(path)
    if changes:
        data = json.loads(path.read_text())
        path.write_text(json.dumps({**data, **changes}))
    return known


def test_a_database_travels(graph: fx.GraphModule, tmp_path: Path) -> None:
    known = database(tmp_path / "t.json", graph)
    again = Database.read(tmp_path / "t.json", NATIVE)
    assert len(again) == len(known) == 4
    assert all(again.choose(o) == o.all()[-1] for o in offers(graph))


def test_other_versions_are_told_and_kept(graph: fx.GraphModule, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    database(path, graph, tiles={"avx9 0123456789ab": {"some problem": {"kernel": "conv"}}})
    with pytest.warns(UserWarning, match="has tiles for avx9 0123456789ab, and none for"):
        found = Database.read(path, NATIVE)
    assert found.choose(offers(graph)[0]) == offers(graph)[0].first()
    found.put(offers(graph)[0], offers(graph)[0].first())
    found.write(path)
    assert "avx9 0123456789ab" in json.loads(path.read_text())["tiles"]


@pytest.mark.parametrize("entry", [
    {"kernel": "conv", "rows": 9, "columns": 9, "vectors": 9}, {"kernel": "conv", "rows": 1}, {"kernel": "?"}, {}, 7,
])  # fmt: skip
def test_what_is_not_on_offer_is_not_used(entry: Any, graph: fx.GraphModule, tmp_path: Path) -> None:
    known, offer = database(tmp_path / "t.json", graph), offers(graph)[0]
    database(tmp_path / "t.json", graph, tiles={known.version: {offer.key: entry}})
    assert Database.read(tmp_path / "t.json", NATIVE).choose(offer) == offer.first()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "fxquant tiles 9", "tiles": {}}',
                                  '{"format": "fxquant tiles 1", "tiles": [1]}'])  # fmt: skip
def test_foreign_files_are_refused(text: str, graph: fx.GraphModule, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(TargetError, match=r"t\.json is no database of tiles"):
        fxquant.compile(graph, tiles=path)
    assert path.read_text() == text


def test_bad_wishes_are_refused(graph: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="is no database of tiles"):
        fxquant.compile(graph, tiles=tmp_path / "none.json")
    for minutes in (-1.0, float("nan"), 1e9):
        with pytest.raises(TargetError, match="tune takes minutes"):
            fxquant.compile(graph, tune=minutes)
    with pytest.raises(TargetError, match="x86-64 has none: export"):
        fxquant.compile(graph, "x86-64", tune=1)
    with pytest.raises(ArtifactWriteError, match="cannot write the tiles"):
        (tmp_path / "file").write_text("")
        Database(NATIVE).write(tmp_path / "file" / "t.json")


def test_another_machine_s_target_is_not_tuned_here(graph: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "host_features", lambda: frozenset({"sse2"}))
    with pytest.raises(TargetError, match=f"does not run {NATIVE.name}: tune there"):
        fxquant.compile(graph, tune=1)


def test_from_the_shell(graph: fx.GraphModule, tmp_path: Path) -> None:
    fxquant.save_graph(graph, tmp_path / "net.fxgraph")
    names = [str(tmp_path / name) for name in ("net.fxgraph", "net.fxq", "t.json")]
    spec = ["compile", names[0], "-o", names[1], "--tiles", names[2]]
    result = CliRunner().invoke(app, [*spec, "--tune", "--minutes", "0.1", "--json"], catch_exceptions=False)
    assert result.exit_code == 0 and json.loads(result.output)["target"] == NATIVE.name
    assert json.loads((tmp_path / "t.json").read_text())["tiles"]
    assert CliRunner().invoke(app, spec).exit_code == 0
    # No time at all would be no search, and that silently.
    assert CliRunner().invoke(app, [*spec, "--tune", "--minutes", "0"]).exit_code == 2
    assert CliRunner().invoke(app, [*spec, "--minutes", "1"]).exit_code == 1
