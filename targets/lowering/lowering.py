"""From an INTEGER fx graph to a Program: one function per primitive, registered by `lowers`.

Shapes are those of one sample. Images lie channels-last in memory; operations that only move values become views where
strides allow; the border that a padded convolution reads is part of its input's buffer, filled before the input is
written, so that no convolution ever tests for an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.graph import constant_value, outputs, placeholders
from fxquant.targets.kernels.kernel import Expansion, Kernel, TensorSpec
from fxquant.targets.kernels.map import Body, map_kernel
from fxquant.targets.kernels.simd import Isa
from fxquant.targets.lowering.borders import Border, border_kernel, borders
from fxquant.targets.lowering.concats import homes
from fxquant.targets.lowering.shapes import sample_values
from fxquant.targets.lowering.values import SLACK, Buffer, Expands, Tensor, channels_last, strides_for
from fxquant.targets.program import Program

Lower = Callable[["Lowering", fx.Node], None]
LOWERINGS: dict[Any, Lower] = {}


def lowers(*targets: Any) -> Callable[[Lower], Lower]:
    """Register the decorated function as the lowering of these primitives."""

    def add(function: Lower) -> Lower:
        LOWERINGS.update(dict.fromkeys(targets, function))
        return function

    return add


class Lowering:
    """One graph being lowered for one instruction set; `s8_bias` is what memory adds to s8 values (128: kept as u8)."""

    def __init__(self, module: fx.GraphModule, isa: Isa, s8_bias: int) -> None:
        self.module, self.isa, self.s8_bias = module, isa, s8_bias
        self.program = Program()
        self.fake = sample_values(module)
        self.tensors: dict[fx.Node, Tensor] = {}
        # By what they hold.
        self._constants: dict[Hashable, Buffer] = {}
        self.borders = borders(module.graph)
        self.homes = homes(module.graph, self.fake, self.borders)
        # The border that really lies around a tensor in memory.
        self.room: dict[fx.Node, Border] = {}
        # Lowered already, together with a node before them.
        self.lowered: set[fx.Node] = set()
        self.returned = set(outputs(module.graph))

    def run(self) -> Program:
        """Lower every node in order."""
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self._port(node)
            elif node.op == "call_function" and node not in self.lowered and self._is_tensor(node):
                self._lower(node)
        for node in outputs(self.module.graph):
            self.program.outputs.append(self._returned(node))
        return self.program

    def _is_tensor(self, node: fx.Node) -> bool:
        # Sizes are plain numbers by now.
        return isinstance(self.fake[node], torch.Tensor)

    def _lower(self, node: fx.Node) -> None:
        function = LOWERINGS.get(node.target)
        if function is None or node.meta.get("fxq.island"):
            function = LOWERINGS["island"]
        function(self, node)

    def _port(self, node: fx.Node) -> None:
        value = self.fake[node]
        spec = TensorSpec(_dtype(value.dtype), tuple(value.shape), strides_for(value.shape, range(value.ndim)))
        buffer = Buffer(str(node.target), "input", value.numel() * value.element_size())
        self.tensors[node] = Tensor(buffer, spec)
        self.program.inputs.append(self.tensors[node])

    def _returned(self, node: fx.Node) -> Tensor:
        found = self.tensor(node)
        dense = strides_for(found.shape, range(len(found.shape)))
        count = len(self.program.outputs)
        spec = TensorSpec(_dtype(self.fake[node].dtype), found.shape, dense)
        size = int(np.prod(found.shape)) * np.dtype(spec.dtype).itemsize
        if found.buffer.kind == "output" and found.spec == spec and found.offset == 0:
            if all(found.buffer is not other.buffer for other in self.program.outputs):
                return found
        target = Tensor(Buffer(f"output{count}", "output", size), spec)
        self.map("copy", target, [found], lambda x, i: x[0](*i), node)
        return target

    # What the lowering functions use.

    def tensor(self, node: Any) -> Tensor:
        """The tensor of a value; constants are placed on first use."""
        if node not in self.tensors and node.op == "get_attr":
            self.tensors[node] = self.constant(self.array(node), node.name)
        return self.tensors[node]

    def array(self, node: Any) -> np.ndarray[Any, Any]:
        """The numbers of a constant node."""
        return constant_value(self.module, node).numpy()

    def constant(self, array: np.ndarray[Any, Any], name: str) -> Tensor:
        """A constant tensor, dense, in the memory form of its dtype."""
        bias = self.s8_bias if array.dtype == np.int8 else 0
        held = (array.astype(np.int16) + bias).astype(np.uint8) if bias else np.ascontiguousarray(array)
        spec = TensorSpec(str(held.dtype), array.shape, strides_for(array.shape, range(array.ndim)), bias)
        return Tensor(self.packed(held, name), spec)

    def packed(self, array: np.ndarray[Any, Any], name: str, expansion: Expansion | None = None) -> Buffer:
        """A constant that only its kernel understands. Equal ones are kept once, before and after expansion."""
        flat = np.ascontiguousarray(array).reshape(-1)
        content = (flat.dtype, flat.size, sha256(flat.data).digest())
        stored = self._constants.setdefault(content, Buffer(name, "constant", flat.nbytes, flat))
        if expansion is None:
            return stored
        symbol = self.program.symbol("expand", ("expand", expansion.key), expansion.build)
        expanded = Buffer(name, "constant", expansion.bytes, expands=Expands(symbol, stored))
        return self._constants.setdefault((symbol, *content), expanded)

    def result(self, node: fx.Node, like: Tensor | None = None) -> Tensor:
        """New memory for the value of `node`, with the border that its readers want.

        Axes are in the order of `like`, or channels-last. A value that is returned goes where the caller wants it.
        """
        value = self.fake[node]
        shape = tuple(value.shape)
        if node in self.homes:
            return self._at_home(node)
        border = self.borders.get(node)
        if node in self.returned and value.dtype == torch.float32 and len(node.users) == 1:
            spec = TensorSpec("float32", shape, strides_for(shape, range(len(shape))))
            self.tensors[node] = Tensor(Buffer(node.name, "output", 4 * value.numel()), spec)
        else:
            order = channels_last(shape) if like is None or len(like.shape) != len(shape) else like.order
            if border is not None and order != channels_last(shape):
                border = None
            self.tensors[node] = self.allocate(shape, value.dtype, node.name, border, order)
            if border is not None:
                self.room[node] = border
        return self.tensors[node]

    def _at_home(self, node: fx.Node) -> Tensor:
        """A channel slice of the memory of the concat that the value is a part of."""
        home = self.homes[node]
        whole = self.tensors.get(home.concat) or self.result(home.concat)
        if home.concat in self.room:
            self.room[node] = self.room[home.concat]
        spec = replace(whole.spec, shape=tuple(self.fake[node].shape))
        self.tensors[node] = Tensor(whole.buffer, spec, whole.offset + home.channel * spec.strides[1])
        return self.tensors[node]

    def allocate(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        name: str,
        border: Border | None = None,
        order: Sequence[int] | None = None,
    ) -> Tensor:
        """New arena memory; with a border, the border is filled with its value and the inner view is returned."""
        spec = self.memory(dtype)
        padded = shape if border is None else border.around(shape)
        strides = strides_for(padded, channels_last(shape) if order is None else order)
        size = int(np.prod(padded)) * np.dtype(spec.dtype).itemsize
        whole = Tensor(Buffer(name, "arena", size), replace(spec, shape=padded, strides=strides))
        if border is None:
            return whole
        symbol = self.program.symbol("border", (whole.spec, border), lambda: border_kernel(whole.spec, border))
        self.program.call(symbol, [whole], whole, f"{name} border")
        return border.inner(whole, shape)

    def memory(self, dtype: torch.dtype) -> TensorSpec:
        """How values of a dtype are held: a spec without shape."""
        bias = self.s8_bias if dtype == torch.int8 else 0
        return TensorSpec("uint8" if bias else _dtype(dtype), (), (), bias)

    def padded(self, source: fx.Node, border: Border) -> Tensor:
        """The value of `source` with `border` around it: a wider view where the border is there, else a copy."""
        found, present = self.tensor(source), self.room.get(source)
        if present is not None and present.covers(border):
            return border.outer(found)
        copy = self.allocate(found.shape, self.fake[source].dtype, f"{source.name}_padded", border)
        self.map("copy", copy, [found], lambda x, i: x[0](*i), source)
        return border.outer(copy)

    def map(
        self,
        name: str,
        out: Tensor,
        inputs: Sequence[Tensor],
        body: Body,
        node: fx.Node,
        *,
        key: Hashable = (),
        weight: int = 1,
    ) -> None:
        """Append an element-wise layer; `key` tells bodies of the same name apart."""
        specs = tuple(t.spec for t in inputs)
        identity = ("map", name, key, specs, out.spec)
        symbol = self.program.symbol(name, identity, lambda: map_kernel(name, out.spec, specs, body, weight))
        self.program.call(symbol, [*inputs, out], out, node.name)

    def kernel(
        self, name: str, key: Hashable, build: Callable[[], Kernel], arguments: Sequence[Tensor | Buffer],
        out: Tensor, node: fx.Node, **facts: Any,
    ) -> None:  # fmt: skip
        """Append a layer with a kernel of its own template."""
        self.program.call(self.program.symbol(name, (name, key), build), arguments, out, node.name, **facts)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def lower(module: fx.GraphModule, isa: Isa, s8_bias: int) -> Program:
    """Lower an INTEGER graph; raises LoweringError for what has no code."""
    return Lowering(module, isa, s8_bias).run()


__all__ = ["LOWERINGS", "SLACK", "Lowering", "lower", "lowers", "placeholders"]
