"""The strategy that draws whole networks: inputs, layers, and everything unusual around them."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from hypothesis import strategies as st

from tests.endtoend import layers, moves, unusual, valued  # noqa: F401  they fill the table
from tests.endtoend.networks import Kind, Network, Shape
from tests.endtoend.writing import CHANNELS, LAYERS, SIZES, Var, Writer

# A layer is not applied where its result would be larger than this: the fuzzer's time goes into cases, not elements.
MOST_ELEMENTS = 12000


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """The shape of an input: mostly an image of 1..20 x 1..20."""
    rank = draw(st.sampled_from([3, 3, 3, 2, 1]))
    return (draw(CHANNELS), *(draw(SIZES) for _ in range(rank - 1)))


SCHEMES: tuple[dict[str, Any], ...] = (
    {},
    {"activation": {"qmin": 0, "qmax": 255}},
    {"activation": {"qmin": -127, "symmetric": True}},
    {"activation": {"qmin": -8, "qmax": 7}},
    {"activation": {"qmin": 3, "qmax": 200}},
    {"activation": {"qmin": -128, "qmax": 255}},
    {"activation": {"qmin": -32768, "qmax": 32767}},
    {"activation": {"qmin": -32768, "qmax": 32767}, "operand": {"qmin": -128, "qmax": 127}},
    {"weight": {"qmin": -128, "qmax": 127}},
    {"weight": {"qmin": -7, "qmax": 7}},
    {"weight": {"narrow": True}},
    {"rules": [{"match": "*", "weight": {"bits": 4}}]},
    {"rules": [{"match": "*", "weight": {"bits": 2}}]},
    {
        "rules": [{"match": "*", "weight": {"qmin": -8, "qmax": 7, "narrow": True}}],
        "activation": {"qmin": 0, "qmax": 255},
    },
    {"weight": {"products": 4, "narrow": True}, "activation": {"qmin": 0, "qmax": 255}},
    {"weight": {"axis": None}},
    {"share_limit": 1.0},
    {"share_limit": 1e9, "activation": {"observer": "percentile:99"}},
)


@st.composite
def networks(draw: st.DrawFn, most: int = 14, most_islands: int = 1) -> Network:
    """A network of up to `most` layers on a few inputs, `most_islands` of them float."""
    w = Writer(draw, most_islands=most_islands)
    inputs, kinds = _inputs(w)
    for _ in range(draw(st.integers(1, most))):
        x = w.one(*w.values[::-1])
        w.attempt(partial(w.one(*LAYERS[len(x.shape)]), w, x), _is_moderate)
    if not w.body:
        w.put(f"F.relu({w.values[0].name})", *w.values[0].shape)
    # A recurrence of tiny values stays float, and TVM's tanh of what is far below a rounding of one is zero.
    tiny = 1e-3 if re.search(r"nn\.(LSTM|GRU|RNN)\(", "".join(map(str, w.setup))) else 1e-20
    return Network(
        source=_source(w, len(inputs), _returned(w)),
        inputs=inputs,
        kinds=kinds,
        weights={name: drawn for name, drawn in w.weights.items() if int(name[1:]) < len(w.setup)},
        stretch=draw(_STRETCHES),
        amplitude=draw(st.sampled_from([1.0, 1.0, 1.0, 1e-3, 1e4, tiny])),
        offset=draw(st.sampled_from([0.0, 0.0, 3.0, -50.0])),
        recipe=_recipe(w),
        dynamic=not w.fixed_batch and draw(st.sampled_from([True, True, True, False])),
        has_islands=w.islands > 0,
        seed=draw(st.integers(0, 1000)),
    )


def _is_moderate(made: Var) -> bool:
    return made.size <= MOST_ELEMENTS and len(made.shape) in LAYERS


def _inputs(w: Writer) -> tuple[tuple[Shape, ...], dict[int, Kind]]:
    """One or two inputs of real numbers, and perhaps one of indices and one of booleans."""
    inputs, kinds = list(w.draw(st.lists(shapes(), min_size=1, max_size=2))), dict[int, Kind]()
    w.values = [Var(f"x{i}", shape) for i, shape in enumerate(inputs)]
    if w.number(0, 4) == 4:
        index = Var(f"x{len(inputs)}", w.one((), (1,), (7,), (3, 4)), w.number(2, 12))
        kinds[len(inputs)] = w.one("int64", "int32"), index.below
        inputs.append(index.shape)
        w.wholes.append(index)
    if w.most_islands and w.number(0, 5) == 5:
        kinds[len(inputs)] = "bool", 2
        w.truths.append(Var(f"x{len(inputs)}", inputs[0]))
        inputs.append(inputs[0])
    return tuple(inputs), kinds


def _returned(w: Writer) -> list[str]:
    """Every dead end; or an input as well, or one of them twice, or one less, so that code is dead."""
    words = re.findall(r"\w+", "\n".join(w.body))
    ends = [v.name for v in w.values if v.name[0] == "v" and words.count(v.name) == 1] or [w.values[-1].name]
    form = w.one("all", "all", "all", "input", "twice", "fewer")
    if form == "input":
        return [*ends, w.one(*(v.name for v in (*w.values, *w.wholes, *w.truths) if v.name[0] == "x"))]
    if form == "twice":
        return [ends[0], *ends]
    return ends[:-1] or ends if form == "fewer" else ends


_FACTORS = [1.0, 1.0, 1.0, 1.0, 0.5, 4.0, 2.0**-9, 2.0**9, 0.0, 1e-25, 1e20]
_STRETCH = st.tuples(st.sampled_from(_FACTORS), st.sampled_from([0.0, 0.0, 0.0, 0.5, -0.5, 3.0, -3.0]))
# A wrong range mostly hides what comes after it: half of the networks keep their calibrated ones.
_STRETCHES = st.one_of(st.just(((1.0, 0.0),)), st.lists(_STRETCH, min_size=1, max_size=6).map(tuple))


def _recipe(w: Writer) -> dict[str, Any]:
    """Schemes for all, and now and then others for one of the modules: 8 bits of both signs and 16 bits meet."""
    recipe = dict(w.one(*SCHEMES))
    modules = [line.split()[0].removeprefix("self.") for line in w.setup if line.startswith("self.m")]
    if modules and w.number(0, 3) == 3:
        other = w.one(*(s for s in SCHEMES if "activation" in s))
        rule = {"match": w.one(*modules), "activation": other["activation"]}
        recipe["rules"] = [*recipe.get("rules", ()), rule]
    return recipe


def _source(w: Writer, inputs: int, ends: list[str]) -> str:
    names = ", ".join(f"x{i}" for i in range(inputs))
    setup = "".join(f"        {line}\n" for line in w.setup)
    body = "".join(f"        {line}\n" for line in w.body)
    return (
        "class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"{setup}\n    def forward(self, {names}):\n{body}        return {', '.join(ends)}\n"
    )
