"""Which nodes are one kernel: decided in one place, and what lowering, the report and the viewer say is the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import targets
from fxquant.names import label_of
from fxquant.source import name_of
from fxquant.targets.groups import Group, feeds, group_from, groups
from fxquant.targets.kernels.catalogue import kernels
from fxquant.targets.kernels.contract.fusing import Fusing
from fxquant.targets.lowering import lower
from fxquant.tools.view.nodes import nodes_of
from tests.targets.standalone.made import quantized


class Everything(nn.Module):
    """A residual, a table behind a product, a gate, a product of activations, resizing, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4, 8, 8)."""
        y = torch.relu(self.first(x))
        y = torch.relu(self.second(y) + y)
        y = y * torch.sigmoid(self.second(y.mean((2, 3), keepdim=True)))
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear")
        rows = self.last(y.flatten(2).transpose(1, 2))
        found: Tensor = rows.transpose(1, 2) @ rows
        return found


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return quantized(Everything(), torch.randn(2, 4, 8, 8))


def operations(group: Group) -> str:
    return " ".join(str(node.target).split(".")[1] for node in group.nodes)


def found(graph: fx.GraphModule, fusing: Fusing | None = None) -> list[str]:
    one = groups(graph) if fusing is None else groups(graph, fusing)
    return sorted(operations(group) for group in dict.fromkeys(one.values()))


ALWAYS = ["conv add", "conv requantize", "conv requantize lookup", "linear requantize", "mul requantize"]


def test_what_belongs_together(graph: fx.GraphModule) -> None:
    assert found(graph) == sorted([*ALWAYS, "interpolate requantize", "matmul requantize"])
    assert found(graph, Fusing()) == ALWAYS


def test_the_group_of_one_node_is_that_of_all(graph: fx.GraphModule) -> None:
    everything = groups(graph)
    for node in graph.graph.nodes:
        group = everything.get(node)
        begun = {} if group is None or group.first is not node else dict.fromkeys(group.nodes, group)
        assert group_from(graph, node) == begun
    # Larger than any tile of this network.
    assert found(graph, Fusing(matmul=(3, 17), resample=True)) == sorted([*ALWAYS, "interpolate requantize"])
    (residual,) = {group.residual for group in groups(graph).values()} - {None}
    assert residual is not None and residual.target is torch.ops.fxq.requantize.default


@pytest.mark.parametrize("name", ["x86-avx2", "aarch64-neon", "riscv64-rvv"])
def test_a_group_is_one_kernel_and_stores_its_last_value(graph: fx.GraphModule, name: str) -> None:
    target = targets.get(name)
    plain = graph if target.form == "hosted" else fxquant.integer_ports(graph)
    program, together = lower(plain, target), groups(plain, kernels(target.isa).fusing)
    labels = [call.label for call in program.calls]
    stored = {call.result.buffer.name for call in program.calls if call.result is not None}
    for group in dict.fromkeys(together.values()):
        assert labels.count(label_of(group.first)) == 1
        inside = {label_of(node) for node in group.nodes[:-1]} - {label_of(group.last)}
        assert not stored & inside
    assert len(together) > 8


def test_report_and_viewer_say_what_lowering_does(graph: fx.GraphModule) -> None:
    together, report = groups(graph), fxquant.report(graph)
    wanted = {name_of(node): name_of(user) for node in together if (user := feeds(node, together)) is not None}
    assert {node.name: node.feeds for node in report.nodes if node.feeds} == wanted
    assert {node.id: node.feeds for node in nodes_of(graph) if node.feeds} == wanted
    # Sums are stored before they are rounded: nothing takes them up.
    (total,) = (node for node in report.nodes if "sum" in node.primitive)
    assert total.feeds is None


def test_layers_whose_ranges_are_found_at_run_time() -> None:
    class Residual(nn.Module):
        """Two layers, the second one added to its operand."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            """(N, 8)."""
            y = torch.relu(self.first(x))
            return torch.relu(self.second(y) + y)

    torch.manual_seed(0)
    graph = fxquant.quantize(fxquant.trace(Residual().eval(), torch.randn(2, 8)), recipe="dynamic", progress=False)
    assert found(graph) == ["linear rescale_real add relu", "linear rescale_real relu"]
    assert found(graph, Fusing()) == []
