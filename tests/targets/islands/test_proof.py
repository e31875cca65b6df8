"""An island that differs from torch is never compiled, and one that was proven is not proven again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.arguments import node_arg
from fxquant.errors import LoweringError
from fxquant.targets import TARGETS, tvm_islands, tvm_operators
from fxquant.targets.hosted.compiler import compile_graph
from fxquant.targets.islands import proven
from fxquant.targets.tvm_operators import elementwise, indexing
from fxquant.targets.tvm_operators.operator import emit, te
from tests.targets.islands.sweep import ALL_FLOAT

X = torch.randn(2, 6, 8)


class Apply(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        """The function."""
        return self.function(*inputs)


def in_float(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    graph = fxquant.trace(Apply(function).eval(), inputs)
    return fxquant.quantize(graph, [inputs], recipe=ALL_FLOAT, progress=False)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing was proven before."""
    monkeypatch.setenv("FXQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(proven, "_known", {})
    return tmp_path


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each island that was really imported."""
    times: list[int] = []
    honest = tvm_islands.import_island

    def counting(*arguments: Any) -> Any:
        times.append(1)
        return honest(*arguments)

    monkeypatch.setattr(proven, "import_island", counting)
    return times


def refusal(graph: fx.GraphModule) -> str:
    with pytest.raises(LoweringError) as raised:
        fxquant.compile(graph, against_float=False)
    return str(raised.value)


def test_other_numbers_are_told(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = elementwise.elementwise(lambda x, y: x + y * elementwise.like(1.001, x), 2)
    monkeypatch.setitem(tvm_operators.OPERATORS, "maximum.default", wrong)
    message = refusal(in_float(lambda x: x.maximum(x.cos()), X))
    assert "aten.maximum" in message and "test_proof.py" in message and "Remedy:" in message
    assert "compiled it differs from torch: " in message and "in place of" in message


def test_another_shape_is_told_before_anything_runs(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(node: fx.Node, importer: Any) -> Any:
        source = node_arg(node, 0)
        return emit(importer, lambda x: te.compute((48,), lambda i: x(0, i // 8, i % 8)), source)

    monkeypatch.setitem(tvm_operators.OPERATORS, "sinh.default", flat)
    monkeypatch.setattr(proven, "prove", lambda *_: pytest.fail("it ran"))
    message = refusal(in_float(torch.sinh, X))
    assert "compiled it gives float32[48] where torch gives float32[1, 6, 8]" in message


def test_a_read_outside_of_memory_harms_nobody(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "wrapped", lambda index, size: index.astype("int64") + size)
    inputs = (torch.randn(2, 4, 1024), torch.tensor([[-1, 0], [1, 2]]))
    graph = in_float(lambda x, i: x.gather(1, i.unsqueeze(2)), *inputs)
    assert "reads or writes outside its memory" in refusal(graph)
    # The next one finds a process that works.
    monkeypatch.undo()
    x = torch.randn(2, 4, 1024)
    with fxquant.compile(in_float(torch.sin, x), against_float=False) as net:
        assert torch.allclose(net(x), x.sin(), atol=1e-6)


def test_equal_islands_are_proven_once(fresh: Path, imported: list[int]) -> None:
    graph = in_float(lambda x: x.sin().sin().sin(), X)
    with fxquant.compile(graph, against_float=False) as net:
        first = net(X)
    assert len(imported) == 1 and len(list(fresh.glob("*.island"))) == 1
    # As another process would find it.
    proven._known.clear()
    with fxquant.compile(graph, against_float=False) as net:
        assert torch.equal(net(X), first) and len(imported) == 1


def test_a_damaged_entry_is_proven_anew(fresh: Path, imported: list[int]) -> None:
    graph = in_float(torch.cos, X)
    fxquant.compile(graph, against_float=False).close()
    (entry,) = fresh.glob("*.island")
    entry.write_bytes(entry.read_bytes()[:100])
    proven._known.clear()
    with fxquant.compile(graph, against_float=False) as net:
        assert torch.allclose(net(X), X.cos(), atol=1e-6)
    assert len(imported) == 2


def test_other_arguments_are_other_islands(fresh: Path, imported: list[int]) -> None:
    graph = in_float(lambda x: nn.functional.elu(nn.functional.elu(x, 0.5), 2.0), X)
    with fxquant.compile(graph, against_float=False) as net:
        assert torch.allclose(net(X), nn.functional.elu(nn.functional.elu(X, 0.5), 2.0), atol=1e-6)
    assert len(imported) == 2


def test_code_for_another_processor_has_its_islands_proven_here(fresh: Path, imported: list[int]) -> None:
    graph = in_float(torch.sinh, X)
    for name in ("x86-avx512vnni", "x86-avx2"):
        compile_graph(graph, TARGETS[name], "net")
    assert len(imported) == 1


def test_nothing_of_torch_s_own_warnings_is_shown(fresh: Path) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        fxquant.compile(in_float(lambda x: nn.functional.gelu(x).cumsum(1), X), against_float=False).close()
    assert not [w for w in shown if issubclass(w.category, (FutureWarning, DeprecationWarning))]


def test_large_intermediates_take_no_stack(fresh: Path) -> None:
    """Softmax keeps more floats than a thread's stack has room for."""
    x = torch.randn(1, 24, 400, 300)
    with fxquant.compile(in_float(lambda x: x.softmax(-1), x), against_float=False) as net:
        assert torch.allclose(net(x), x.softmax(-1), atol=1e-6)


def test_an_index_of_run_time_never_leaves_its_tensor() -> None:
    def rows(x: Tensor, i: Tensor) -> Tensor:
        return x[i]

    x, far = torch.randn(4, 3), torch.tensor([-1, 2, 10**9, -(10**9)])
    graph = fxquant.trace(Apply(rows).eval(), (x, far.clamp(-4, 3)), dynamic_batch=False)
    graph = fxquant.quantize(graph, [(x, far.clamp(-4, 3))], recipe=ALL_FLOAT, progress=False)
    with fxquant.compile(graph, against_float=False) as net:
        assert torch.equal(net(x, far), x[torch.tensor([3, 2, 3, 0])])


def test_nan_is_the_largest_of_a_pooled_window() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3)).eval()
    x = torch.randn(2, 3, 12, 12)
    graph = fxquant.quantize(fxquant.trace(nn.Sequential(nn.MaxPool2d(3, 2, 1), model), x), recipe="dynamic")
    x[:, :, ::5, 3] = torch.nan
    with fxquant.compile(graph) as net, torch.no_grad():
        assert torch.equal(torch.nan_to_num(net(x)), torch.nan_to_num(graph(x)))
