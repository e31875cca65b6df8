"""What lowering functions work with: a graph's values in memory, and the program that is being written.

Shapes are those of one sample. Images lie channels-last in memory; the border that a padded convolution reads is part
of its input's buffer, filled before the input is written, so that no convolution ever tests for an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import Where, node_arg
from fxquant.graph import constant_bits, constant_value, is_unpacked, outputs
from fxquant.names import label_of
from fxquant.packing import pack
from fxquant.target import MemoryForm
from fxquant.targets.batch import sample_values
from fxquant.targets.buffers import (
    Buffer,
    Expands,
    Tensor,
    channels_last,
    dtype_name,
    row_major,
    strides_for,
)
from fxquant.targets.kernels.contract.kernel import Expansion, Kernel, TensorSpec
from fxquant.targets.kernels.elementwise.map import Body, map_kernel
from fxquant.targets.kernels.parts import weights
from fxquant.targets.kernels.words.numbers import PEAKS
from fxquant.targets.lowering.borders import Border, border_kernel, borders
from fxquant.targets.lowering.concats import homes
from fxquant.targets.program import Overwrite, Program
from fxquant.training.device import NEXT


class Workspace:
    """One graph's values, and a program, for one form of memory."""

    def __init__(self, module: fx.GraphModule, memory: MemoryForm) -> None:
        self.module, self.memory = module, memory
        self.program = Program()
        self.fake = sample_values(module)
        self.tensors: dict[fx.Node, Tensor] = {}
        # By what they hold.
        self._constants: dict[Hashable, Buffer] = {}
        self.borders = borders(module.graph) if memory.has_borders else {}
        self.homes = homes(module.graph, self.fake, self.borders)
        # Borders of pads that have no memory: the convolutions that read them see to the edges.
        self.outside: dict[fx.Node, Border] = {}
        # The border that really lies around a tensor in memory.
        self.room: dict[fx.Node, Border] = {}
        # Largest magnitudes, where the kernel that makes a value notes them.
        self.peaks: dict[fx.Node, Tensor] = {}
        self.returned = set(outputs(module.graph))

    def tensor(self, node: fx.Node) -> Tensor:
        """The tensor of a value, in the form that every kernel expects (`held`); constants are placed on first use."""
        if node not in self.tensors and node.op == "get_attr":
            self.tensors[node] = self.constant(self.array(node), node.name)
        if node not in self.tensors and is_unpacked(node):
            self.tensors[node] = self.unpacked(node)
        found, held = self.tensors[node], self.held(node)
        if (found.spec.dtype, found.spec.bias) != (held.dtype, held.bias):
            # What a caller or an island holds as s8 is brought into the memory form once, for all its readers.
            self.tensors[node] = self.allocate(held, f"{node.name}_held", order=found.order)
            self.copy(found, self.tensors[node], node)
        return self.tensors[node]

    def operand(self, node: fx.Node, where: Where) -> Tensor:
        """The tensor of an argument."""
        return self.tensor(node_arg(node, where))

    def array(self, node: fx.Node) -> np.ndarray[Any, Any]:
        """The numbers of a constant node."""
        return constant_value(self.module, node).numpy()

    def constant(self, array: np.ndarray[Any, Any], name: str) -> Tensor:
        """A constant tensor, dense, in the memory form of its dtype."""
        bias = self.memory.s8_bias if array.dtype == np.int8 else 0
        held = (array.astype(np.int16) + bias).astype(np.uint8) if bias else np.ascontiguousarray(array)
        return Tensor(self.packed(held, name), row_major(str(held.dtype), array.shape, bias))

    def stored(self, node: fx.Node) -> Tensor:
        """A constant of fewer than 8 bits as it is stored: bytes, in the order of its elements."""
        packed = pack(self.array(node).reshape(-1), constant_bits(node))
        return Tensor(self.packed(packed, node.name), row_major("uint8", packed.shape))

    def unpacked(self, node: fx.Node) -> Tensor:
        """The same as bytes."""
        return self.wider(self.array(node), constant_bits(node), node)

    def wider(self, array: np.ndarray[Any, Any], size: int, node: fx.Node) -> Tensor:
        """A constant of so many bits as bytes: made when a model is loaded, or where none is, in every run."""
        bias = self.memory.s8_bias
        spec = row_major("uint8" if bias else "int8", array.shape, bias)
        if self.memory.has_runtime:
            packed = pack(array.reshape(-1), size, weights.LANES)
            wider = weights.expansion(spec.size, spec.dtype, size, bias)
            return Tensor(self.packed(packed, node.name, wider), spec)
        stored, flat = weights.Stored(size), Tensor.new(f"{node.name}_bytes", "arena", row_major("int8", (spec.size,)))
        packed, parts = pack(array.reshape(-1), size), stored.count
        source = Tensor(self.packed(packed, node.name), row_major("uint8", packed.shape))

        def body(t: Any, i: Any) -> Any:
            return stored.part(t[0](i[0] // parts), i[0] % parts)

        self.map("unpack", flat, [source], body, node, key=size)
        return replace(flat, spec=spec)

    def whole_table(self, node: fx.Node, x: Tensor, low: int) -> tuple[Tensor, int]:
        """A table with an entry for every byte that memory may hold, and the value of the first one.

        Values that `x` never takes read the nearest entry. Tables of truths and of wider values stay as they are.
        """
        found = self.array(node)
        if x.spec.dtype not in ("int8", "uint8") or len(found) > 1 << 8:
            return self.tensor(node), low
        first = int(np.iinfo(x.spec.dtype).min) - x.spec.bias
        places = np.clip(np.arange(first, first + (1 << 8)) - low, 0, len(found) - 1)
        return self.constant(found[places], node.name), first

    def numbers(self, node: fx.Node, *values: int) -> Tensor:
        """Run-time constants of a kernel, so that layers of equal shape share code."""
        return self.constant(np.array(values, np.int32), f"{node.name}_numbers")

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

    def plain(self, node: fx.Node) -> TensorSpec:
        """The value of `node`, row-major and without bias."""
        value = self.fake[node]
        return row_major(dtype_name(value.dtype), value.shape)

    def port(self, node: fx.Node) -> TensorSpec:
        """The value of `node` as callers hold it: row-major, or images channels-last, and without bias."""
        spec = self.plain(node)
        return (
            replace(spec, strides=strides_for(spec.shape, channels_last(spec.shape)))
            if self.memory.channels_last
            else spec
        )

    def held(self, node: fx.Node) -> TensorSpec:
        """The value of `node` as the program holds it, row-major."""
        biased = self.fake[node].dtype == torch.int8 and self.memory.s8_bias
        return replace(self.plain(node), dtype="uint8", bias=self.memory.s8_bias) if biased else self.plain(node)

    def result(self, node: fx.Node, like: Tensor | None = None) -> Tensor:
        """New memory for the value of `node`, with the border that its readers want.

        Axes are in the order of `like`, or channels-last. What is returned is written where the caller wants it.
        """
        if node in self.homes:
            return self._at_home(node)
        if (kept := self.kept(node)) is not None:
            self.tensors[node] = kept
            return kept
        direct = self.fake[node].dtype == torch.float32 or self.memory.channels_last
        if node in self.returned and direct and len(node.users) == 1:
            self.tensors[node] = Tensor.new(label_of(node), "output", self.port(node))
            return self.tensors[node]
        spec = self.held(node)
        natural = channels_last(spec.shape)
        order = natural if like is None or len(like.shape) != len(spec.shape) else like.order
        border = self.borders.get(node) if order == natural else None
        if border is not None:
            self.room[node] = border
        self.tensors[node] = self.allocate(spec, label_of(node), border, order)
        return self.tensors[node]

    def kept(self, node: fx.Node) -> Tensor | None:
        """The piece of the state that the value is the next one of, where nothing is to be turned for that.

        It is written in place: what reads the value before it stands before its call in the graph.
        """
        found = self.program.learning.states.get(str(node.meta.get(NEXT)))
        return found if found is not None and found.spec == self.held(node) else None

    def _at_home(self, node: fx.Node) -> Tensor:
        """A channel slice of the memory of the concat that the value is a part of."""
        home = self.homes[node]
        whole = self.tensors.get(home.concat) or self.result(home.concat)
        if home.concat in self.room:
            self.room[node] = self.room[home.concat]
        self.tensors[node] = whole.sliced(1, home.channel, int(self.fake[node].shape[1]))
        return self.tensors[node]

    def ordered(self, node: fx.Node, *axes: int) -> Tensor:
        """New memory for the value of `node`, its axes in this order, outermost first; row-major if none is given."""
        spec = self.held(node)
        wanted = replace(spec, strides=strides_for(spec.shape, axes or range(len(spec.shape))))
        if self.memory.channels_last and node in self.returned and len(node.users) == 1 and wanted == self.port(node):
            self.tensors[node] = Tensor.new(label_of(node), "output", wanted)
            return self.tensors[node]
        self.tensors[node] = self.allocate(spec, label_of(node), order=axes or range(len(spec.shape)))
        return self.tensors[node]

    def allocate(
        self, spec: TensorSpec, name: str, border: Border | None = None, order: Sequence[int] | None = None
    ) -> Tensor:
        """New arena memory for values like those of `spec`, dense, channels-last or with the axes in this order.

        With a border, the border is filled with its value and the inner view is returned.
        """
        if border is not None and not border.is_wide:
            border = None
        shape = spec.shape if border is None else border.around(spec.shape)
        strides = strides_for(shape, channels_last(shape) if order is None else order)
        whole = Tensor.new(name, "arena", replace(spec, shape=shape, strides=strides))
        if border is None:
            return whole
        symbol = self.program.symbol("border", (whole.spec, border), lambda: border_kernel(whole.spec, border))
        self.program.call(symbol, [whole], whole, f"{name} border", parts=border.sides(whole))
        return border.inner(whole)

    def new_peaks(self, node: fx.Node, symbol: str) -> Tensor:
        """Memory for the largest magnitudes of a value, for each task of the kernel that finds them."""
        floats = PEAKS * self.program.kernels[symbol].tasks
        return Tensor.new(f"{label_of(node)}_peaks", "arena", row_major("float32", (floats,)))

    def copy(self, source: Tensor, target: Tensor, node: fx.Node) -> None:
        """Append a layer that copies `source` to `target`."""
        self.map("copy", target, [source], lambda t, i: t[0](*i), node)

    def copied(
        self, source: Tensor, node: fx.Node, border: Border | None = None, order: Sequence[int] | None = None
    ) -> Tensor:
        """`source` in new memory, see `allocate`."""
        target = self.allocate(source.spec, f"{label_of(node)}_operand", border, order)
        self.copy(source, target, node)
        return target

    def dense(self, source: Tensor, node: fx.Node) -> Tensor:
        """`source` in new row-major memory."""
        return self.copied(source, node, order=range(len(source.shape)))

    def padded(self, source: fx.Node, border: Border) -> Tensor:
        """The value of `source` with `border` around it: a wider view where the border is there, else a copy."""
        found, present = self.tensor(source), self.room.get(source)
        if present is not None and present.covers(border):
            return border.outer(found)
        return border.outer(self.copied(found, source, border))

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
        lanes: int = 1,
        overwrites: Sequence[Tensor] = (),
    ) -> None:
        """Append an element-wise layer; `key` tells bodies of the same name apart, `lanes` see `map_kernel`.

        The result may be written over any of `overwrites`, operands that are read element by element.
        """
        specs = tuple(t.spec for t in inputs)
        identity = ("map", name, key, specs, out.spec)
        symbol = self.program.symbol(name, identity, lambda: map_kernel(name, out.spec, specs, body, weight, lanes))
        self.program.call(symbol, [*inputs, out], out, label_of(node), [Overwrite(t) for t in overwrites])

    def kernel(
        self,
        name: str,
        key: Hashable,
        build: Callable[[], Kernel],
        inputs: Sequence[Tensor | Buffer],
        out: Tensor,
        node: fx.Node,
        overwrites: Sequence[Overwrite] = (),
        packed: Mapping[str, Buffer] | None = None,
        others: Sequence[Tensor] = (),
        **facts: Any,
    ) -> None:
        """Append a layer with a kernel of its own template; `packed` and `others` as in `Call`.

        `facts` go into the report.
        """
        symbol = self.program.symbol(name, (name, key), build)
        given = [*inputs, out, *others]
        self.program.call(symbol, given, out, label_of(node), overwrites, packed, others=others, **facts)
