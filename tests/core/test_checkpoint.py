"""Checkpoints of calibration: they belong to one graph, hold whole inputs, and lose nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import calibration
from fxquant.checkpoint import digest, states_of
from fxquant.errors import CalibrationError
from fxquant.graph import text
from fxquant.tensor_file import packed, read_tensors

RECIPE = {"activation": {"observer": "percentile:99"}}


def observed(weight: float = 1.0, recipe: Any = RECIPE) -> fx.GraphModule:
    """A prepared network of two layers, always the same but for a factor on one weight."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Linear(4, 3)
        model = nn.Sequential(first, nn.Sigmoid(), nn.Linear(3, 2))
        first.weight.data *= weight
    return fxquant.prepare(fxquant.trace(model, torch.zeros(2, 4)), recipe)


@pytest.fixture
def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 4, generator=generator) for _ in range(6)]


def interrupted(data: list[Tensor], after: int) -> Iterator[Tensor]:
    yield from data[:after]
    raise KeyboardInterrupt


def ranges(graph: fx.GraphModule, data: list[Tensor], checkpoint: Path | None = None) -> str:
    fxquant.calibrate(graph, data, progress=False, checkpoint=checkpoint)
    return text(fxquant.convert(graph))


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path, data: list[Tensor], after: int) -> None:
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fxquant.calibrate(observed(), interrupted(data, after), progress=False, checkpoint=path)
    assert read_tensors(path, "calibration", 1)[0]["inputs_seen"] == after
    assert ranges(observed(), data, path) == ranges(observed(), data)
    assert read_tensors(path, "calibration", 1)[0]["inputs_seen"] == 6


def test_the_first_input_is_kept_at_once_and_all_in_the_end(
    tmp_path: Path, data: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "state", list[int]()

    def watched() -> Iterator[Tensor]:
        for batch in data:
            yield batch
            seen.append(read_tensors(path, "calibration", 1)[0]["inputs_seen"])

    monkeypatch.setattr(calibration, "SAVE_EVERY", 1e9)
    fxquant.calibrate(observed(), watched(), progress=False, checkpoint=path)
    assert seen == [1] * 6
    assert read_tensors(path, "calibration", 1)[0]["inputs_seen"] == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_input_that_was_not_seen_whole_was_not_seen(
    tmp_path: Path, data: list[Tensor], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    path, graph, calls = tmp_path / "state", observed(), [0]
    honest: Any = torch.ops.aten.sigmoid.default
    (node,) = (n for n in graph.graph.nodes if n.target is honest)

    def breaks(x: Tensor) -> Tensor:  # the first layer's observer has seen the third input, the second's has not
        calls[0] += 1
        if calls[0] == 3:
            raise error
        result: Tensor = honest(x)
        return result

    node.target = breaks
    graph.recompile()
    with pytest.raises(error):
        fxquant.calibrate(graph, data, progress=False, checkpoint=path)
    alone = observed()
    fxquant.calibrate(alone, data[:2], progress=False)
    stored = read_tensors(path, "calibration", 1)[1]
    for name, state in states_of(alone).items():
        for key, value in state.items():
            assert torch.equal(stored[f"{name}/{key}"], value)
            assert torch.equal(states_of(graph)[name][key], value)


def test_an_input_that_is_refused_leaves_no_trace(data: list[Tensor]) -> None:
    graph = observed()
    with pytest.raises(CalibrationError, match="calibration input 3"):
        fxquant.calibrate(graph, [*data[:3], data[3] * torch.nan], progress=False)
    assert ranges(graph, data[3:]) == ranges(observed(), data)


@pytest.mark.parametrize(
    "other",
    [lambda: observed(weight=1.5), lambda: observed(recipe={"activation": {"observer": "percentile:98"}})],
    ids=["trained further", "another recipe"],
)
def test_a_checkpoint_of_another_graph_is_refused(
    tmp_path: Path, data: list[Tensor], other: Callable[[], fx.GraphModule]
) -> None:
    path = tmp_path / "state"
    fxquant.calibrate(observed(), data, progress=False, checkpoint=path)
    before, graph = path.read_bytes(), other()
    with pytest.raises(CalibrationError, match=r"state is of another model, of other weights, or of a recipe with"):
        fxquant.calibrate(graph, data, progress=False, checkpoint=path)
    assert path.read_bytes() == before
    assert all(int(state["seen"]) == 0 for state in states_of(graph).values())


def test_the_digest_is_the_same_in_every_process_and_after_calibration(data: list[Tensor]) -> None:
    graph = observed()
    before = digest(graph)
    fxquant.calibrate(graph, data, progress=False)
    assert before == digest(graph) == digest(observed()) != digest(observed(weight=1.0001))


def test_fewer_inputs_than_the_checkpoint_has_seen_are_other_inputs(tmp_path: Path, data: list[Tensor]) -> None:
    path = tmp_path / "state"
    fxquant.calibrate(observed(), data, progress=False, checkpoint=path)
    with pytest.raises(CalibrationError, match="has seen 6 inputs, and the data give 4"):
        fxquant.calibrate(observed(), data[:4], progress=False, checkpoint=path)


@pytest.mark.parametrize("seen", [-5, 0, True, 2.0, "3", None, 1 << 60])
def test_the_number_of_inputs_must_be_one(tmp_path: Path, data: list[Tensor], seen: object) -> None:
    path = tmp_path / "state"
    fxquant.calibrate(observed(), data, progress=False, checkpoint=path)
    facts, tensors = read_tensors(path, "calibration", 1)
    path.write_bytes(packed("calibration", 1, json.dumps({**facts, "inputs_seen": seen}), tensors))
    with pytest.raises(
        CalibrationError, match=r"state is damaged: it has seen .* inputs; name another file, or delete"
    ):
        fxquant.calibrate(observed(), data, progress=False, checkpoint=path)


@pytest.mark.parametrize(
    "alter",
    [
        lambda tensors: tensors.popitem(),
        lambda tensors: tensors.update(x=torch.zeros(1)),
        lambda tensors: [t.fill_(-1) for t in tensors.values()],
        lambda tensors: [t.fill_(torch.nan) for t in tensors.values() if t.is_floating_point()],
        lambda tensors: [t.resize_(7) for name, t in tensors.items() if name.endswith("counts")],
        lambda tensors: [t.fill_(1 << 60) for name, t in tensors.items() if name.endswith("exponent")],
    ],
)
def test_what_no_observer_can_have_seen_is_refused(
    tmp_path: Path, data: list[Tensor], alter: Callable[[dict[str, Tensor]], object]
) -> None:
    path, graph = tmp_path / "state", observed()
    fxquant.calibrate(observed(), data, progress=False, checkpoint=path)
    facts, tensors = read_tensors(path, "calibration", 1)
    alter(tensors)
    path.write_bytes(packed("calibration", 1, json.dumps(facts), tensors))
    with pytest.raises(CalibrationError, match="state is damaged: "):
        fxquant.calibrate(graph, data, progress=False, checkpoint=path)
    assert all(int(state["seen"]) == 0 for state in states_of(graph).values())


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, data: list[Tensor], content: bytes) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"state is .*no calibration of fxquant; name another file, or delete"):
        fxquant.calibrate(observed(), data, progress=False, checkpoint=path)
    assert path.read_bytes() == content


def test_a_checkpoint_that_cannot_be_written_stops_the_run(tmp_path: Path, data: list[Tensor]) -> None:
    with pytest.raises(CalibrationError, match=r"cannot write the checkpoint .*: No such file or directory"):
        fxquant.calibrate(observed(), data, progress=False, checkpoint=tmp_path / "none" / "state")
