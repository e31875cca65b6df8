"""Saved graphs: nothing in the file can run, what is no valid graph is refused by node, and nothing is lost."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import FxquantError, GraphFileError, StageError
from fxquant.graph import text
from fxquant.graph_file.arguments import decoded, encoded
from fxquant.graph_file.operators import find, name_of
from fxquant.graph_file.sizes import computed
from fxquant.tensor_file import packed
from tests import zoo

Document = dict[str, Any]


class Net(nn.Module):
    """A convolution, float operations of which one gives two results, a reshape that names the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images to rows, and the two largest of each."""
        y = torch.cumsum(torch.relu(self.conv(image)), 3)
        y = y.reshape(y.shape[0], -1)
        return y, torch.topk(y, 2)[0]


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(3, 2, 5, 5)
        return fxquant.quantize(fxquant.trace(Net(), x), [x], progress=False)


@pytest.fixture(scope="module")
def saved(graph: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.fxgraph"
    fxquant.save_graph(graph, path)
    return path


@pytest.fixture
def refused(saved: Path, tmp_path: Path) -> Callable[[Callable[[Document], object]], str]:
    """What is said of a copy of the file that was altered and signed anew."""

    def refuse(alter: Callable[[Document], object]) -> str:
        document, tensors = opened(saved)
        alter(document)
        path = tmp_path / "altered.fxgraph"
        path.write_bytes(packed("graph", 1, json.dumps(document), tensors))
        with pytest.raises(GraphFileError, match=r"altered\.fxgraph") as caught:
            fxquant.load_graph(path)
        return str(caught.value)

    return refuse


def opened(path: Path) -> tuple[Document, dict[str, Tensor]]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["fxquant"].partition("\n")[2]), safetensors.torch.load(data)


def node(document: Document, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(record for record in document["nodes"] if record["name"] == name)
    return found


def test_a_graph_comes_back_as_it_was(graph: fx.GraphModule, saved: Path) -> None:
    read = fxquant.load_graph(saved)
    assert text(read) == text(graph)
    assert read.meta["fxq.batch"] == "dynamic"
    assert fxquant.report(read) == fxquant.report(graph)
    for batch in (1, 7):
        x = torch.randn(batch, 2, 5, 5)
        assert all(torch.equal(a, b) for a, b in zip(read(x), graph(x), strict=True))


def test_a_graph_read_and_written_again_is_the_same_file(saved: Path, tmp_path: Path) -> None:
    fxquant.save_graph(fxquant.load_graph(saved), tmp_path / "again.fxgraph")
    assert (tmp_path / "again.fxgraph").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("name", ["shufflenet_v2", "bert", "unet"])
def test_networks_come_back(name: str, tmp_path: Path) -> None:
    x = zoo.inputs(name, 2, 0)
    graph = fxquant.quantize(fxquant.trace(zoo.build(name), x), [x], progress=False)
    fxquant.save_graph(graph, tmp_path / "net.fxgraph")
    read = fxquant.load_graph(tmp_path / "net.fxgraph")
    assert text(read) == text(graph)


def test_a_static_graph_and_integer_ports_come_back(tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    graph = fxquant.quantize(fxquant.trace(nn.Linear(8, 4), x, dynamic_batch=False), [x], progress=False)
    plain = fxquant.integer_ports(graph)
    fxquant.save_graph(plain, tmp_path / "net.fxgraph")
    read = fxquant.load_graph(tmp_path / "net.fxgraph")
    assert text(read) == text(plain)
    assert [n.meta.get("fxq.port") for n in read.graph.nodes] == [n.meta.get("fxq.port") for n in plain.graph.nodes]


def test_any_reader_of_safetensors_sees_the_weights(graph: fx.GraphModule, saved: Path) -> None:
    with safetensors.safe_open(saved, "pt") as file:
        assert torch.equal(file.get_tensor("conv2d_weight"), graph.get_buffer("conv2d_weight"))


def test_torch_takes_an_integer_graph_as_a_program(graph: fx.GraphModule) -> None:
    x = torch.randn(2, 2, 5, 5)
    program = fxquant.export_program(graph).module()
    assert all(torch.equal(a, b) for a, b in zip(program(x), graph(x), strict=True))


def test_every_flipped_byte_and_every_cut_is_noticed(saved: Path, tmp_path: Path) -> None:
    good, path = saved.read_bytes(), tmp_path / "bad.fxgraph"
    for place in range(0, len(good), 61):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        for content in (bytes(bad), good[:place]):
            path.write_bytes(content)
            with pytest.raises(GraphFileError, match=r"bad\.fxgraph is"):
                fxquant.load_graph(path)


@pytest.mark.parametrize(
    "called",
    [
        "torch.hub.load",
        "aten.save.default",
        "aten.from_file.default",
        "aten.add_.Tensor",
        "aten._nested_view_from_buffer.default",
        "aten.__class__.default",
        "aten.sum",
        "operator.pow",
        "builtins.eval",
        "fxq.conv.__init__",
        "os.system",
    ],
)
def test_what_does_more_than_compute_is_refused(refused: Callable[..., str], called: str) -> None:
    message = refused(lambda document: node(document, "cumsum").update(call=called))
    assert f"node cumsum: it calls '{called}', which is no operator that only computes" in message


@pytest.mark.parametrize(
    "name", ["x):\n  import os\n def f(y", "image.x", "", "__class__", "lambda", "a b", 'a"', 3, None, ["x"]]
)
@pytest.mark.parametrize("place", ["name", "input"])
def test_names_cannot_reach_the_code_that_fx_generates(refused: Callable[..., str], place: str, name: Any) -> None:
    assert "is no " in refused(lambda document: document["nodes"][0].update({place: name}))


def test_a_constant_is_named_by_a_path(refused: Callable[..., str]) -> None:
    for name in ('x", __import__("os"), "', "__class__.x", "a..b", ".".join("a" * 100)):
        message = refused(lambda document, name=name: node(document, "conv2d_weight").update(constant=name))
        assert "is no name" in message


@pytest.mark.parametrize(
    "size", ["\n__import__('os').system('true')", "s0", ["**", "n0", 2], ["*", "n0"], ["//", 3, 0], 1.5, True, 1 << 70]
)
def test_sizes_are_arithmetic_and_nothing_else(refused: Callable[..., str], size: Any) -> None:
    message = refused(lambda document: document["nodes"][0]["value"].update(shape=[size, 2, 5, 5]))
    assert "node image" in message and ("is no" in message or "by zero" in message)


def test_sizes_nest_only_so_deep() -> None:
    size: Any = "n0"
    for _ in range(40):
        size = ["+", size, 1]
    with pytest.raises(ValueError, match="is no size"):
        computed(size, {"n0": 3})
    assert computed(["+", ["//", ["*", "n0", 7], 2], ["max", "n0", 5]], {"n0": 3}) == 15


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda d: d.update(nodes=d["nodes"][::-1]), "no node before it is called"),
        (lambda d: node(d, "conv_default")["args"].__setitem__(0, {"node": "conv_default"}), "no node before it"),
        (lambda d: node(d, "conv_default")["args"].__setitem__(0, {"node": "nothing"}), "no node before it"),
        (lambda d: node(d, "conv_default")["args"].pop(), "node conv_default: "),
        (lambda d: node(d, "conv_default")["args"].extend([1, 1]), "node conv_default: "),
        (lambda d: node(d, "conv_default").update(kwargs={"x": 1}), "node conv_default: "),
        (lambda d: node(d, "conv_default")["args"].__setitem__(4, [0, 0]), "node conv_default: ZeroDivisionError"),
        (lambda d: node(d, "conv_default")["value"].update(dtype="int8"), "it gives int32 of the shape"),
        (lambda d: node(d, "conv_default")["value"].update(shape=["n0", 4, 3, 4]), "it gives int32 of the shape"),
        (lambda d: node(d, "conv_default")["value"].update(shape=[3, 4, 3, 3]), "it gives int32 of the shape"),
        (lambda d: node(d, "conv2d_weight").update(constant="conv2d_bias"), "node conv2d_weight: it gives"),
        (lambda d: node(d, "conv2d_weight").update(constant="none"), "node conv2d_weight: "),
        (lambda d: d["nodes"].append(d["nodes"][0]), "node image: there are two of this name"),
        (lambda d: node(d, "cumsum").update(soul=1), "nothing is called 'soul'"),
        (lambda d: node(d, "cumsum").pop("call"), "node cumsum"),
        (lambda d: node(d, "cumsum").update(input="y"), "node cumsum"),
        (lambda d: node(d, "cumsum").update(island=False), "must give an integer tensor"),
        (lambda d: node(d, "cumsum").update(island=1), "island is '1', which is no bool"),
        (lambda d: node(d, "image")["range"]["qparams"].update(scale=[-1.0]), "a scale is not a positive number"),
        (lambda d: node(d, "image")["range"]["qparams"].update(zero_point=[]), "do not fit together"),
        (lambda d: node(d, "image")["range"].update(low="x"), "range.low is 'x', which is no float"),
        (lambda d: node(d, "image")["plan"]["weight"].update(products=3), "room can be left for"),
        (lambda d: node(d, "image").update(source={"file": "a\nb"}), "source names no file and line"),
        (lambda d: d.update(outputs=["topk"]), "only tensors can be returned"),
        (lambda d: d.update(outputs=[]), "only tensors can be returned"),
        (lambda d: d.update(nodes=3), "what it returns"),
        (lambda d: d.clear(), "it: KeyError"),
        (lambda d: d["sizes"].update(n0=[9, 3]), "at least 9 and at most 3"),
        (lambda d: d["sizes"].update({f"m{i}": [1, None] for i in range(99)}), "sizes are free"),
    ],
)
def test_what_is_no_valid_graph_is_refused(
    refused: Callable[..., str], alter: Callable[[Document], object], message: str
) -> None:
    found = refused(alter)
    assert message in found, found


def test_a_float_where_a_primitive_takes_integers_is_refused(saved: Path, tmp_path: Path) -> None:
    document, tensors = opened(saved)
    node(document, "conv2d_weight")["value"]["dtype"] = "float32"
    tensors["conv2d_weight"] = tensors["conv2d_weight"].float()
    path = tmp_path / "altered.fxgraph"
    path.write_bytes(packed("graph", 1, json.dumps(document), tensors))
    with pytest.raises(GraphFileError, match=r"conv:accumulators = fxq\.conv at .*\n +must take integer tensors"):
        fxquant.load_graph(path)


@pytest.mark.parametrize("shift", [-1, 31, 65536])
def test_a_shift_that_no_code_has_is_refused(saved: Path, tmp_path: Path, shift: int) -> None:
    document, tensors = opened(saved)
    node(document, "requantize_default")["args"][2] = shift
    path = tmp_path / "altered.fxgraph"
    path.write_bytes(packed("graph", 1, json.dumps(document), tensors))
    with pytest.raises(GraphFileError, match=r"requantize at .*\n +must round with shifts of 0 to 30"):
        fxquant.load_graph(path)


@pytest.mark.parametrize("name", ["conv_default", "requantize_default", "dequantize_default_3"])
@pytest.mark.parametrize("given", [None, True, 0.5, -1, 65536, "x", [], [None], {"node": "image"}])
def test_an_argument_of_another_kind_is_refused_or_reported(saved: Path, tmp_path: Path, name: str, given: Any) -> None:
    """Or it is of the right kind: then the report can tell of it. Nothing else is raised."""
    path, refused = tmp_path / "altered.fxgraph", list[int]()
    for place in range(len(node(opened(saved)[0], name)["args"])):
        document, tensors = opened(saved)
        node(document, name)["args"][place] = given
        path.write_bytes(packed("graph", 1, json.dumps(document), tensors))
        try:
            str(fxquant.report(fxquant.load_graph(path)))
        except FxquantError as error:
            refused.append(place)
            assert given is not None or place or "is no tensor" in str(error)
    assert 0 in refused or given == {"node": "image"}


def test_hostile_json_is_refused(saved: Path, tmp_path: Path) -> None:
    _, tensors = opened(saved)
    path = tmp_path / "altered.fxgraph"
    deep = '{"batch": ' + "[" * 100_000 + "]" * 100_000 + "}"
    for facts in ("", "[]", "3", "{", "NaN", '{"batch": Infinity}', "1" * 6000, deep):
        path.write_bytes(packed("graph", 1, facts, tensors))
        with pytest.raises(GraphFileError, match=r"altered\.fxgraph"):
            fxquant.load_graph(path)


def test_newer_and_foreign_files_are_named(saved: Path, tmp_path: Path) -> None:
    document, tensors = opened(saved)
    path = tmp_path / "other"
    contents = {
        packed("graph", 2, json.dumps(document), tensors): "version 2, and this fxquant reads up to 1: update fxquant",
        packed("calibration", 1, "{}", {}): "no graph of fxquant",
        safetensors.torch.save(tensors): "no graph of fxquant",
        b"": "no graph of fxquant",
        b"text": "no graph of fxquant",
        b"PK\x03\x04" + bytes(99): "a zip archive, perhaps of torch.export, no graph of fxquant; 'quantize' makes",
        b"\x80\x02}q\x00" + bytes(99): "a pickle, no graph of fxquant",
        b"\x89FXQ" + bytes(99): "a compiled model, no graph of fxquant",
        (99_999_999).to_bytes(8, "little") + b"{": "it ends within its header",
    }
    for content, message in contents.items():
        path.write_bytes(content)
        with pytest.raises(GraphFileError) as caught:
            fxquant.load_graph(path)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(GraphFileError, match="there is no file"):
        fxquant.load_graph(tmp_path / "none")
    with pytest.raises(GraphFileError, match="Is a directory"):
        fxquant.load_graph(tmp_path)


def test_arguments_come_back() -> None:
    values: list[Any] = [1, -2.5, True, None, "nearest", float("inf"), float("-inf"), [1, [2, 3]], torch.int8]
    values += [torch.channels_last, torch.strided, torch.device("cpu"), 0.1 + 0.2]
    found = decoded(json.loads(json.dumps(encoded(values), allow_nan=False)), lambda name: pytest.fail(name))
    assert found == values and [type(a) for a in found] == [type(a) for a in values]
    assert str(decoded(encoded(float("nan")), lambda name: pytest.fail(name))) == "nan"
    for argument in (1j, object(), torch.zeros(1), torch.device("meta"), slice(1)):
        with pytest.raises(ValueError, match="cannot hold"):
            encoded(argument)


def test_operators_are_found_by_the_names_that_are_written() -> None:
    for target in (torch.ops.fxq.conv.default, torch.ops.aten.lstm.input, torch.ops.aten._to_copy.default):
        assert find(name_of(target) or "") is target
    assert name_of(torch.ops.aten.add_.Tensor) is None
    assert name_of(print) is None


def test_a_float_graph_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="only an INTEGER graph is saved or trained so, this one is FLOAT"):
        fxquant.save_graph(fxquant.trace(Net(), torch.zeros(2, 2, 5, 5)), tmp_path / "float.fxgraph")


def test_a_folder_that_is_not_there_is_named(graph: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match="cannot be written: No such file or directory"):
        fxquant.save_graph(graph, tmp_path / "nowhere" / "net.fxgraph")


def test_a_full_disk_ends_neither_the_process_nor_the_old_file(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.fxgraph"
    path.write_bytes(saved.read_bytes())
    script = (
        "import resource, sys, fxquant\n"
        "graph = fxquant.load_graph(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (5000, {resource.RLIM_INFINITY}))\n"
        "try:\n    fxquant.save_graph(graph, sys.argv[1])\n"
        "except fxquant.FxquantError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "net.fxgraph cannot be written: File too large; what was there is as it was" in done.stdout
    assert path.read_bytes() == saved.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.fxgraph"]
