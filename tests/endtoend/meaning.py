"""Whether the INTEGER graph means what the QUANTIZED one says, step by step.

Both run on the same input. Wherever the QUANTIZED graph rounds, its codes are compared with those of the INTEGER graph,
and the float computation goes on from the integer ones: so an error of one step cannot hide, or excuse, another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxquant.plan import Range
from fxquant.source import name_of

Key = tuple[str, Any]

fxq = torch.ops.fxq
_RECURRENCES = (fxq.lstm.default, fxq.lstm_cells.default, fxq.gru.default, fxq.rnn.default)
_CARRIED_ON = 0.05  # of all codes


class _Recorder(fx.Interpreter):
    """Runs the INTEGER graph and keeps its codes, by the float value that they stand for and their parameters."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.codes: dict[Key, Tensor] = {}
        self.slack: dict[Key, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        found = n.meta.get("fxq.range")
        if isinstance(found, Range) and "fxq.origin" in n.meta:
            assert value.dtype is found.qparams.dtype, f"{n.name} is stored as {value.dtype}, not as {found.qparams}"
            key = str(n.meta["fxq.origin"]), found.qparams
            self.codes[key], self.slack[key] = value, self._slack(n)
        return value

    def _slack(self, n: fx.Node) -> int:
        """The difference that is right: one step, and half a unit of the bias where that is more than a step.

        Inside of a recurrence integers round the state that floats keep, and what is off is carried on.
        """
        begun = n.all_input_nodes[0] if n.target is fxq.requantize.default else n
        if begun.target in _RECURRENCES:
            qparams = n.meta["fxq.range"].qparams
            return 3 + int(_CARRIED_ON * (qparams.qmax - qparams.qmin))
        if n.target not in (torch.ops.fxq.requantize.default, torch.ops.fxq.add.default):
            return 1
        multipliers: Any
        shift: Any
        multipliers, shift = (self.map_nodes_to_values(a, n) for a in n.args[1:3])
        return 1 + int(float(multipliers.abs().max()) * 2.0 ** (shift - 32) / 2 + 0.5)


class _Comparison(fx.Interpreter):
    """Runs the QUANTIZED graph, taking over the INTEGER graph's codes."""

    def __init__(self, module: fx.GraphModule, integer: _Recorder) -> None:
        super().__init__(module)
        self.integer, self.errors, self.compared = integer, dict[str, int](), False

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.target is not torch.ops.fxq.quantize.default:
            return value
        source = n.args[0]
        assert isinstance(source, fx.Node)
        key = name_of(source), n.meta["fxq.range"].qparams
        codes = self.integer.codes.get(key)
        if codes is None:
            return value
        self.compared = True
        off = int((codes.to(torch.int32) - value.to(torch.int32)).abs().max())
        if off > self.integer.slack[key]:
            self.errors[source.name] = off
        return codes


def step_errors(quantized: fx.GraphModule, integer: fx.GraphModule, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """By float value: by how many codes integer arithmetic and float arithmetic on the same operands differ, where that
    is more than rounding explains."""
    with torch.no_grad():
        recorder = _Recorder(integer)
        recorder.run(*inputs)
        comparison = _Comparison(quantized, recorder)
        comparison.run(*inputs)
    # A look-up by the wrong name would find no codes, and no error.
    assert comparison.compared or not recorder.codes
    return comparison.errors
