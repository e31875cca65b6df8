"""Saved graphs: nothing in a .pt2 file can run, and what is damaged or foreign is refused by name."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import GraphFileError, StageError
from fxquant.graph import text
from fxquant.graph_file import _is_arithmetic

CONFIG = "data/weights/model_weights_config.json"
MODEL = "models/model.json"
FACTS = "extra/fxquant.json"


class Net(nn.Module):
    """A convolution, a float operation, a reshape that names the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Images to rows."""
        y = torch.cumsum(torch.relu(self.conv(image)), 3)
        return y.reshape(y.shape[0], -1)


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exploded, ("unpickled",)


EXPLODED: list[str] = []


def exploded(how: str) -> None:
    EXPLODED.append(how)


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(3, 2, 5, 5)
        return fxquant.quantize(fxquant.trace(Net(), x), [x], progress=False)


@pytest.fixture(scope="module")
def saved(graph: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.pt2"
    fxquant.save_graph(graph, path)
    return path


def altered(saved: Path, tmp_path: Path, changes: dict[str, bytes]) -> Path:
    """A copy of the file with some records replaced or added."""
    path = tmp_path / "altered.pt2"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        folder = source.namelist()[0].partition("/")[0]
        kept = {n.partition("/")[2]: source.read(n) for n in source.namelist()}
        for name, content in {**kept, **changes}.items():
            target.writestr(f"{folder}/{name}", content)
    return path


def record(saved: Path, name: str) -> str:
    with zipfile.ZipFile(saved) as source:
        return next(source.read(n) for n in source.namelist() if n.endswith(name)).decode()


def test_a_graph_comes_back_as_it_was(graph: fx.GraphModule, saved: Path) -> None:
    read = fxquant.load_graph(saved)
    assert sorted(text(read).splitlines()) == sorted(text(graph).splitlines())
    assert read.meta["fxq.batch"] == "dynamic"
    for batch in (1, 7):
        x = torch.randn(batch, 2, 5, 5)
        assert torch.equal(read(x), graph(x))


def test_a_graph_read_twice_is_the_same(graph: fx.GraphModule, saved: Path, tmp_path: Path) -> None:
    fxquant.save_graph(fxquant.load_graph(saved), tmp_path / "again.pt2")
    again = fxquant.load_graph(tmp_path / "again.pt2")
    assert sorted(text(again).splitlines()) == sorted(text(graph).splitlines())
    assert fxquant.report(again) == fxquant.report(graph)


def test_torch_reads_the_file_too(graph: fx.GraphModule, saved: Path) -> None:
    x = torch.randn(2, 2, 5, 5)
    assert torch.equal(torch.export.load(saved).module()(x), graph(x))


def test_a_file_without_explanations_runs_and_says_so(graph: fx.GraphModule, tmp_path: Path) -> None:
    torch.export.save(fxquant.export_program(graph), tmp_path / "bare.pt2")
    read = fxquant.load_graph(tmp_path / "bare.pt2")
    x = torch.randn(2, 2, 5, 5)
    assert torch.equal(read(x), graph(x))
    assert [item.reason for item in fxquant.report(read).floats] == ["the file does not say why"]


def test_example_inputs_are_never_unpickled(saved: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save((Bomb(),), buffer)
    fxquant.load_graph(altered(saved, tmp_path, {"data/sample_inputs/model.pt": buffer.getvalue()}))
    assert EXPLODED == []


@pytest.mark.parametrize(
    "name",
    [
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/aotinductor/model/code.so",
        "version",
        "serialized_state_dict.pt",
    ],
)
def test_records_that_could_run_are_refused(saved: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(GraphFileError, match="not an exported graph of plain data: it holds"):
        fxquant.load_graph(altered(saved, tmp_path, {name: pickle.dumps(Bomb())}))
    assert EXPLODED == []


def test_a_weight_that_asks_for_a_pickle_is_refused(saved: Path, tmp_path: Path) -> None:
    config = record(saved, CONFIG).replace('"use_pickle": false', '"use_pickle": true', 1)
    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)
    changes = {CONFIG: config.encode(), "data/weights/weight_0": buffer.getvalue()}
    with pytest.raises(GraphFileError, match="asks for a pickle; fxquant never loads one"):
        fxquant.load_graph(altered(saved, tmp_path, changes))
    assert EXPLODED == []


def test_a_foreign_function_is_refused(saved: Path, tmp_path: Path) -> None:
    model = record(saved, MODEL).replace("torch.ops.aten.cumsum.default", "torch.hub.load", 1)
    with pytest.raises(GraphFileError, match=r"calls 'torch\.hub\.load', which is not an operator"):
        fxquant.load_graph(altered(saved, tmp_path, {MODEL: model.encode()}))


@pytest.mark.parametrize(
    ("size", "fine"),
    [
        ("Mul(Integer(16), Symbol('s0', positive=True, integer=True))", True),
        ("s0*16 + 3", True),
        ("eval('1')", False),
        ("(exec)(s0)", False),
        ("().__class__", False),
        ("s0.real", False),
        ("[s0][0]", False),
        ("Add(exec(s0), 1)", False),
        ("Symbol('s0') (1)", False),
    ],
)
def test_sizes_are_arithmetic_only(size: str, fine: bool) -> None:
    assert _is_arithmetic(size) is fine


def test_a_size_that_calls_something_is_refused(saved: Path, tmp_path: Path) -> None:
    data = json.loads(record(saved, MODEL))
    changed = json.dumps(data).replace('"expr_str": "', '"expr_str": "print(1)+', 1)
    assert changed != json.dumps(data)
    with pytest.raises(GraphFileError, match="which is not arithmetic"):
        fxquant.load_graph(altered(saved, tmp_path, {MODEL: changed.encode()}))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path, share: float) -> None:
    content = saved.read_bytes()
    (tmp_path / "short.pt2").write_bytes(content[: int(share * len(content))])
    with pytest.raises(GraphFileError, match=r"short\.pt2 is not"):
        fxquant.load_graph(tmp_path / "short.pt2")


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"nodes": 3}', b"not json", b'{"nodes": [{"value": 1}]}'])
def test_damaged_explanations_are_an_error_or_left_out(saved: Path, tmp_path: Path, content: bytes) -> None:
    path = altered(saved, tmp_path, {FACTS: content})
    try:
        read = fxquant.load_graph(path)
    except GraphFileError as error:
        assert "damaged" in str(error)
    else:
        assert fxquant.report(read).batch == "as exported"


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match="there is no file"):
        fxquant.load_graph(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(GraphFileError, match=r"is not a \.pt2 file"):
        fxquant.load_graph(tmp_path / "text.pt2")
    with zipfile.ZipFile(tmp_path / "empty.pt2", "w"):
        pass
    with pytest.raises(GraphFileError, match="it holds no model"):
        fxquant.load_graph(tmp_path / "empty.pt2")


def test_a_float_program_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Net(), (torch.zeros(2, 2, 5, 5),)), tmp_path / "float.pt2")
    with pytest.raises(GraphFileError, match="holds a float program"):
        fxquant.load_graph(tmp_path / "float.pt2")


def test_a_float_graph_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="only an INTEGER graph is saved, this one is FLOAT"):
        fxquant.save_graph(fxquant.trace(Net(), torch.zeros(2, 2, 5, 5)), tmp_path / "float.pt2")


def test_a_folder_that_is_not_there_is_named(graph: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match="cannot be written"):
        fxquant.save_graph(graph, tmp_path / "nowhere" / "net.pt2")
