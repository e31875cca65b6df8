"""What a model does around its tensors: autocast, gradients, None among its outputs; and which samples mix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import TraceError
from fxquant.samples import _mixing, _outputs
from tests.passes.graphs import Net, data, drawn, run


def within(region: Any) -> Net:
    """A network one layer of which runs in `region()`, another one inside of a region of its own in there."""

    def forward(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        with region():
            y = m.first(x).relu()
            with torch.enable_grad():
                z = y.reshape(x.shape[0], 2, 2).mean(-1)
        return m.second(y), z

    return drawn(Net(forward, first=nn.Linear(6, 4), second=nn.Linear(4, 3)))


@pytest.mark.parametrize("region", [lambda: torch.autocast("cpu", enabled=False), torch.no_grad, torch.enable_grad])
def test_regions_that_change_nothing_are_written_out(region: Any) -> None:
    net, inputs = within(region), data((3, 6))
    program = torch.export.export(net, inputs)
    for graph in (fxquant.trace(net, inputs), fxquant.trace(program)):
        assert all(torch.equal(a, b) for a, b in zip(run(graph, *inputs), run(net, *inputs), strict=True))
        quantized = fxquant.quantize(graph, [inputs], progress=False)
        assert fxquant.report(quantized).is_fully_integer


def test_what_autocast_computes_in_fewer_bits_starts_from_float32() -> None:
    """All that it returns, too; and what a model says of types in its own words stays as it is said."""

    def forward(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = m.first(x).relu()
            with torch.no_grad():
                z = m.second(y)
        return m.second(y.float()), z * 2

    net, inputs = drawn(Net(forward, first=nn.Linear(6, 4), second=nn.Linear(4, 3))), data((3, 6))
    told = r"torch.autocast computes linear = aten.linear at .*test_capture.py.* in torch.bfloat16: .* float32"
    with pytest.warns(UserWarning, match=told):
        graph = fxquant.trace(net, inputs)
    with pytest.warns(UserWarning, match=told):
        again = fxquant.trace(torch.export.export(net, inputs))
    wanted = net.second(net.first(*inputs).relu())
    for found in (run(graph, *inputs), run(again, *inputs)):
        assert all(value.dtype is torch.float32 for value in found)
        assert torch.allclose(found[0], wanted) and torch.allclose(found[1], wanted * 2)
    assert fxquant.report(fxquant.quantize(graph, [inputs], progress=False)).is_fully_integer


def test_packed_sequences_are_refused_by_name() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        found: Tensor = m.layer(packed)[1]
        return found

    net = drawn(Net(forward, layer=nn.GRU(4, 2, batch_first=True)))
    with pytest.raises(TraceError, match=r"called with a packed sequence.*padded tensor"):
        fxquant.trace(net, data((2, 3, 4)))


def test_none_among_the_outputs_is_left_out_and_told() -> None:
    inputs = data((3, 6))
    net = drawn(Net(lambda m, x: {"logits": m.fc(x), "loss": None, "x": x * 2}, fc=nn.Linear(6, 4)))
    with pytest.warns(UserWarning, match="output 1 of the model is None and is left out"):
        graph = fxquant.trace(net, inputs)
    wanted = net(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(run(graph, *inputs), (wanted["logits"], wanted["x"]), strict=True))


class Placed(nn.Module):
    """State that is moved to where the input lies, as models do that were written before buffers were moved along."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(6), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (N, 6) to (N, 6)."""
        self.table = self.get_buffer("table").to(x.device)
        return x + self.table


def test_state_that_is_set_to_what_it_is_is_not_changed() -> None:
    net, inputs = Placed(), data((3, 6))
    graph = fxquant.trace(net, inputs)
    assert torch.equal(run(graph, *inputs)[0], net(*inputs))
    assert graph.meta["fxq.batch"] == "dynamic"


def test_samples_do_not_mix_by_the_rounding_of_sums() -> None:
    """In float32 a batch of two sums in another order than a sample alone, which a deep network makes large."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(512, 64), (torch.randn(2, 512),)
    graph = fxquant.trace(Net(lambda m, x: torch.sin(m.fc(x) * 1e7), fc=layer).eval(), inputs)
    assert graph.meta["fxq.batch"] == "dynamic"
    assert _mixing(lambda x: _outputs(graph, x), list(inputs), 1e-3), "float32 would do here: the test tests nothing"


def test_a_little_mixing_is_mixing() -> None:
    graph = fxquant.trace(Net(lambda m, x: x + 1e-4 * x.mean(0, keepdim=True)), data((2, 6)))
    assert graph.meta["fxq.batch"] == "static: a sample of output 0 depends on the other samples of its batch"
