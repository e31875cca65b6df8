"""Arguments and values in a graph file, as JSON.

    3    -0.5    true    null    "nearest"    [1, 1]    {"node": "conv_default"}    {"float": "-inf"}
    {"dtype": "int8"}    {"memory_format": "channels_last"}    {"layout": "strided"}    {"device": "cpu"}

and values: {"dtype": "int8", "shape": ["n0", 3, 32, 32]}, {"size": "n0"}, a list of these for several results, or null
for what is not told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph_file.sizes import computed, written

_DEEPEST, _LONGEST_TEXT, _LARGEST_INT = 8, 1000, 1 << 63
DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}
_FORMATS: dict[str, torch.memory_format] = {
    str(format).removeprefix("torch."): format
    for format in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format)
}
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_TAGS: dict[str, Mapping[str, Any]] = {
    "dtype": DTYPES,
    "memory_format": _FORMATS,
    "layout": {"strided": torch.strided},
    "device": {"cpu": torch.device("cpu")},
    "float": _FLOATS,
}


def encoded(argument: Any) -> Any:
    """An argument as JSON. ValueError for one that a file cannot hold."""
    if isinstance(argument, fx.Node):
        return {"node": argument.name}
    if isinstance(argument, (list, tuple)):
        return [encoded(item) for item in argument]
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": str(argument)}
    if argument is None or type(argument) in (bool, int, float, str):
        return argument
    for tag, values in _TAGS.items():
        for name, value in values.items():
            if type(argument) is type(value) and argument == value:
                return {tag: name}
    raise ValueError(f"the argument {argument!r} is of a kind that a graph file cannot hold")


def decoded(data: Any, node: Callable[[Any], fx.Node], depth: int = 0) -> Any:
    """The argument that JSON stands for; `node` finds a node by its name. ValueError for anything else."""
    if data is None or type(data) in (bool, float):
        return data
    if type(data) is int and -_LARGEST_INT <= data < _LARGEST_INT:
        return data
    if type(data) is str and len(data) <= _LONGEST_TEXT:
        return data
    if type(data) is list and depth < _DEEPEST:
        return [decoded(item, node, depth + 1) for item in data]
    if type(data) is dict and len(data) == 1:
        (tag, name), *_ = data.items()
        if tag == "node":
            return node(name)
        if type(name) is str and name in _TAGS.get(tag, {}):
            return _TAGS[tag][name]
    raise ValueError(f"{str(data)[:80]!r} is no argument")


def value_of(value: Any, names: Mapping[str, str]) -> Any:
    """The value of a node, a fake tensor or a size, as JSON; free sizes are called as `names` says."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES or value.layout is not torch.strided:
            raise ValueError(f"a value is {dtype} in the layout {value.layout}, which a graph file cannot hold")
        return {"dtype": dtype, "shape": [written(size, names) for size in value.shape]}
    if type(value) is int or isinstance(value, torch.SymInt):
        return {"size": written(value, names)}
    if isinstance(value, (list, tuple)):
        return [value_of(item, names) for item in value]
    return None


def is_same(stated: Any, found: Any, values: Mapping[str, int], own: Mapping[str, int]) -> bool:
    """Whether a value of a file, where it says one, is what was found, with sizes of `values` and `own`."""
    if stated is None or found is None:
        return True
    if isinstance(stated, list) and isinstance(found, list):
        return len(stated) == len(found) and all(is_same(a, b, values, own) for a, b in zip(stated, found, strict=True))
    if not isinstance(stated, dict) or not isinstance(found, dict) or stated.keys() != found.keys():
        return False
    if "size" in stated:
        return _is_same_size(stated["size"], found["size"], values, own)
    shape, own_shape = stated["shape"], found["shape"]
    if stated["dtype"] != found["dtype"] or not isinstance(shape, list) or len(shape) != len(own_shape):
        return False
    return all(_is_same_size(a, b, values, own) for a, b in zip(shape, own_shape, strict=True))


def _is_same_size(stated: Any, found: Any, values: Mapping[str, int], own: Mapping[str, int]) -> bool:
    return stated is None or found is None or bool(computed(stated, values) == computed(found, own))
