"""Observers and records of the op table that users write: what is wrong in one is blamed on it, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import CalibrationError, FxquantError, ObserverError, OpTableError
from fxquant.observers import Observer
from fxquant.observers.registry import OBSERVERS, make, register
from fxquant.ops import Fusion, RangeRule, float_op
from fxquant.ops.spelling import Int, Pointwise
from fxquant.ops.table import TABLE, FloatOp
from fxquant.scheme import Scheme

aten = torch.ops.aten
X = torch.linspace(-3, 3, 24).reshape(2, 12)


def ends(low: Any, high: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64)


NAN = float("nan")
# What `bounds` gives, and what is said of it.
NO_RANGES: dict[str, tuple[Callable[[], Any], str]] = {
    "nan": (lambda: ends(NAN, 1.0), r"Mine gives the range \[nan\] to \[1\.0\] at input = placeholder input"),
    "infinite": (lambda: ends(0.0, float("inf")), r"Mine gives the range \[0\.0\] to \[inf\]"),
    "upside down": (lambda: ends(1.0, -1.0), r"Mine gives the range \[1\.0\] to \[-1\.0\]"),
    "shape": (lambda: (torch.zeros(3), torch.ones(3)), r"Mine gives torch.float32 \[3\] and torch.float32 \[3\]"),
    "integers": (lambda: (torch.tensor([0]), torch.tensor([1])), r"Mine gives torch.int64 \[1\]"),
    "numbers": (lambda: (0.0, 1.0), r"Mine gives \(0\.0, 1\.0\)"),
    "nothing": (lambda: None, "Mine gives None"),
    "raises": (
        lambda: dict[str, Any]()["low"],
        r"Mine fails in bounds\(\) at input = placeholder input .*KeyError: 'low'",
    ),
}


@pytest.fixture(autouse=True)
def _own_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr("fxquant.observers.registry.OBSERVERS", dict(OBSERVERS))
    saved = dict(TABLE)
    yield
    TABLE.clear()
    TABLE.update(saved)


def quantize(model: nn.Module, observer: str = "minmax") -> fx.GraphModule:
    graph = fxquant.trace(model.eval(), X)
    return fxquant.quantize(graph, [X], recipe={"activation": {"observer": observer}}, progress=False)


@pytest.mark.parametrize("what", NO_RANGES)
def test_an_observer_that_gives_no_range_is_blamed(what: str) -> None:
    gives, words = NO_RANGES[what]

    @register("mine")
    class Mine(Observer):
        def bounds(self) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = gives()
            return found

    with pytest.raises(ObserverError, match=words):
        quantize(nn.Linear(12, 3), "mine")


def test_an_observer_that_fails_while_it_looks_is_blamed() -> None:
    @register("mine")
    class Mine(Observer):
        def record(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
            raise IndexError("no such row")

        def absorb(self, other: Observer) -> None:
            """Nothing."""

        def bounds(self) -> tuple[Tensor, Tensor]:
            return self.low, self.high

    with pytest.raises(
        CalibrationError,
        match=r"the observer Mine fails in record\(\) at input = placeholder input .*IndexError: no such row",
    ):
        quantize(nn.Linear(12, 3), "mine")


def test_what_an_observer_remembers_is_state_that_can_be_merged() -> None:
    class Forgets(Observer):
        def record(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
            self.sums = rows.sum(1)

        def bounds(self) -> tuple[Tensor, Tensor]:
            return self.low, self.high

    with pytest.raises(
        ObserverError, match=r"observer 'forgets' \(Forgets\) lacks absorb, which merges what its record"
    ):
        register("forgets")(Forgets)

    @register("loose")
    class Loose(Forgets):
        def absorb(self, other: Observer) -> None:
            """Nothing."""

    with pytest.raises(ObserverError, match=r"the observer Loose keeps sums outside of its state.*register_buffer it"):
        make(Scheme(observer="loose"))(torch.randn(3))


def test_what_is_no_observer_is_refused() -> None:
    class Nothing(Observer):
        pass

    with pytest.raises(ObserverError, match=r"observer 'nothing' \(Nothing\) lacks bounds"):
        register("nothing")(Nothing)
    for other in (nn.ReLU, lambda x: x):
        with pytest.raises(ObserverError, match=r"a subclass of fxquant\.observers\.Observer is wanted"):
            register("other")(other)  # type: ignore[type-var]

    @register("bare")
    class Bare(Observer):
        def __init__(self, scheme: Scheme, where: str = "") -> None:
            nn.Module.__init__(self)

        def bounds(self) -> tuple[Tensor, Tensor]:
            return self.low, self.high

    with pytest.raises(ObserverError, match=r"observer 'bare' \(Bare\) must call super\(\).__init__\(scheme, where\)"):
        make(Scheme(observer="bare"))

    @register("odd")
    class Odd(Observer):
        def __init__(self) -> None:
            super().__init__(Scheme())

        def bounds(self) -> tuple[Tensor, Tensor]:
            return self.low, self.high

    with pytest.raises(ObserverError, match=r"observer 'odd' \(Odd\) cannot be made: .*positional argument"):
        make(Scheme(observer="odd"))


class Op(nn.Module):
    """A layer, then an operator that has no record of fxquant's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 12)."""
        return torch.erf(self.layer(x))


def through(s: Any, node: fx.Node) -> Any:
    return s.int_(node.args[0])


# Spellers and facts of a record of erf, and what is said of it.
RECORDS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "gives nothing": (lambda s, n: None, {}, "the speller of the record 'erf' gives None for erf = aten.erf at"),
    "gives a node": (
        lambda s, n: n,
        {},
        "the speller of the record 'erf' gives erf for erf = .*an Int, a Sum or a Pointwise",
    ),
    "gives no node": (
        lambda s, n: Int(cast(fx.Node, "x"), s.int_(n.args[0]).qparams),
        {},
        "the speller of the record 'erf' gives an Int of 'x', whose",
    ),
    "another shape": (
        lambda s, n: Int(s.call(aten.permute.default, (x := s.int_(n.args[0])).node, [1, 0], like=n), x.qparams),
        {},
        r"the speller of the record 'erf' gives an Int of permute.*, whose shape .* is not .*, that of erf",
    ),
    "raises": (
        lambda s, n: n.args[7],
        {},
        r"the record 'erf' of the op table fails in its speller for erf .*IndexError",
    ),
    "bounds raise": (
        lambda s, n: None,
        {"bounds": lambda n: 1 / 0},
        "record 'erf' of the op table fails in bounds for erf .*ZeroDiv",
    ),
    "bounds upside down": (
        lambda s, n: None,
        {"bounds": lambda n: (1.0, -1.0)},
        r"record 'erf': bounds gives \[1\.0, -1\.0\], no range",
    ),
    "bounds that are wrong": (
        lambda s, n: None,
        {"bounds": lambda n: (0.5, 0.6)},
        r"the record 'erf' of the op table says \[0\.5, 0\.6\], and \[.*\] was observed of erf .*its bounds are wrong",
    ),
    "known to be infinite": (
        lambda s, n: None,
        {"range": RangeRule.KNOWN, "bounds": lambda n: (0.0, float("inf"))},
        r"record 'erf': bounds gives \[0\.0, inf\]",
    ),
    "refuses a number": (
        lambda s, n: None,
        {"refuses": lambda n: 3},
        "the record 'erf': refuses gives 3, not a sentence or None",
    ),
    "refuses raises": (
        lambda s, n: None,
        {"refuses": lambda n: n.args[9]},
        "record 'erf' of the op table fails in refuses for erf",
    ),
    "shares with nobody": (
        lambda s, n: None,
        {"range": RangeRule.SHARED, "activations": (3,)},
        r"record 'erf': its range is SHARED, and none of its act.* \(3,\) is",
    ),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_is_wrong_is_blamed(what: str) -> None:
    speller, facts, words = RECORDS[what]
    speller.__name__ = "erf"
    float_op(aten.erf.default, replaces=True, **facts)(speller)
    with pytest.raises(OpTableError, match=words):
        quantize(Op())


def test_an_operator_belongs_to_one_record() -> None:
    def relu(s: Any, node: fx.Node) -> Any:
        """Mine."""
        return Pointwise(s.int_(node.args[0]), torch.relu)

    with pytest.raises(OpTableError, match=r"aten.relu.default is in the op table already, as .* of fxquant.ops"):
        float_op(aten.relu.default)(relu)
    float_op(aten.relu.default, replaces=True, fusion=Fusion.NONE)(relu)
    assert TABLE[aten.relu.default].doc == "Mine."
    # As when a notebook's cell is run again.
    float_op(aten.relu.default)(relu)


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: float_op(aten.erf), "float_op takes overloads, such as torch.ops.aten.relu.default, not aten.erf"),
        (
            lambda: float_op(aten.erf.default, fuse=Fusion.SUM),
            "float_op knows no fact 'fuse'; known: activations, weight",
        ),
        (
            lambda: FloatOp("f", (), through, "", range=RangeRule.KNOWN),
            "record 'f': a range that is KNOWN needs bounds",
        ),
        (lambda: FloatOp("f", (), through, "", (), range=RangeRule.JOINED), "a range that is JOINED needs activations"),
    ],
)
def test_facts_that_do_not_fit_together(make_it: Callable[[], Any], words: str) -> None:
    with pytest.raises(FxquantError, match=words):
        make_it()
