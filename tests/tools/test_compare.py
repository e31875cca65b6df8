"""The accuracy debugger: its numbers against their definitions, and its search for what to leave in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import CalibrationError, FxquantError, StageError
from fxquant.plan import Range
from fxquant.qparams import choose_qparams
from fxquant.scheme import activation
from fxquant.tools.agreement import Agreement
from fxquant.tools.compare.records import Comparison
from fxquant.tools.compare.watch import BINS, OTHERS, Watched, coarse


class Spoiled(nn.Module):
    """Two layers that quantize well, and one whose weights one huge value spoils."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bad, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 8)
        with torch.no_grad():
            self.bad.weight[:, 0] = 3000.0

    def forward(self, x: Tensor) -> Tensor:
        """Rows of 16 numbers to 8 classes; the first number is 0, so that the huge weight says nothing."""
        x = torch.relu(self.first(x))
        x = x * torch.tensor([0.0] + 15 * [1.0])
        y: Tensor = self.last(torch.relu(self.bad(x)))
        return y


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return torch.randn(256, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph(samples: Tensor) -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return fxquant.trace(Spoiled().eval(), samples[:2])


@pytest.fixture(scope="module")
def quantized(graph: fx.GraphModule, samples: Tensor) -> fx.GraphModule:
    return fxquant.quantize(graph, list(torch.split(samples, 64)), progress=False)


@pytest.fixture(scope="module")
def found(graph: fx.GraphModule, quantized: fx.GraphModule, samples: Tensor) -> Comparison:
    return fxquant.compare(graph, quantized, list(torch.split(samples, 64)), progress=False)


def test_the_spoiled_layer_is_the_worst_by_itself(found: Comparison) -> None:
    worst = found.worst(1)[0]
    assert "bad" in worst.module or "relu_1" in worst.originals
    assert worst.local_db < 15 < found.layer("relu").local_db
    assert worst.source.startswith(__file__)
    assert found.samples == 256 and found.agreement is not None and found.agreement < 0.95


def test_local_and_cumulative_are_what_they_say(
    found: Comparison, graph: fx.GraphModule, quantized: fx.GraphModule, samples: Tensor
) -> None:
    real = graph(samples)
    noise = real - quantized(samples)
    expected = 10 * np.log10(float(real.double().square().sum() / noise.double().square().sum()))
    assert found.output_db[0] == pytest.approx(expected, abs=1e-3)
    assert found.layers[-1].cumulative_db == pytest.approx(expected, abs=1e-3)
    assert found.layers[-1].local_db > found.layers[-1].cumulative_db + 10
    assert found.agreement == pytest.approx(float((real.argmax(1) == quantized(samples).argmax(1)).float().mean()))


def test_order_and_size_of_batches_do_not_matter(
    found: Comparison, graph: fx.GraphModule, quantized: fx.GraphModule, samples: Tensor
) -> None:
    again = fxquant.compare(graph, quantized, list(torch.split(samples.flip(0), 32)), progress=False)
    pairs = list(zip(found.layers, again.layers, strict=True))
    for one, other in pairs:
        assert one.count == other.count
        assert one.local_db == pytest.approx(other.local_db, abs=1e-6)
        assert astuple(one.parts) == pytest.approx(astuple(other.parts), abs=1e-6)
        # Histogram and moments are exact whatever the split.
        alike = (replace(layer, local_db=0.0, cumulative_db=0.0, parts=one.parts) for layer in (one, other))
        assert next(alike) == next(alike)


def test_a_generator_is_read_once_and_never_kept(
    found: Comparison, graph: fx.GraphModule, quantized: fx.GraphModule, samples: Tensor
) -> None:
    alive: list[int] = []

    def stream() -> Iterator[Tensor]:
        import weakref

        for batch in torch.split(samples, 8):
            copy = batch.clone()
            alive.append(1)
            weakref.finalize(copy, alive.pop)
            yield copy
            del copy
            assert len(alive) <= 2

    assert fxquant.compare(graph, quantized, stream(), progress=False).samples == 256


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=60), st.floats(0.25, 4))
@settings(max_examples=60, deadline=None)
def test_clipping_and_saturation_are_counted(values: list[float], reach: float) -> None:
    q = choose_qparams([-reach], [reach], activation())
    watched, real = Watched(Range(q, -reach, reach, "")), torch.tensor(values)
    watched.add(real, q.quantize(real))
    steps = real.double() / q.one_scale + q.one_zero_point
    excess = torch.maximum(steps - q.qmax, q.qmin - steps)
    # Half a step beyond the end is no more than rounding costs.
    assert int((excess > 0.501).sum()) <= watched.clipped <= int((excess > 0.499).sum())
    codes = q.quantize(real)
    assert watched.saturated == sum(int((codes == end).sum()) for end in (q.qmin, q.qmax) if end != q.one_zero_point)
    spread = watched.spread()
    assert sum(spread.counts) == len(values) and len(spread.counts) == BINS
    assert spread.mean == pytest.approx(float(real.double().mean()), abs=1e-9)
    assert set(spread.alternatives) == set(OTHERS)
    assert all(spread.low <= low and high <= spread.high for low, high in spread.alternatives.values())


def test_coarse_bins_keep_their_places() -> None:
    fine = np.zeros(2 * 1024 - 1, dtype=np.int64)
    fine[1023 + 1000], fine[1023 - 1000], fine[1023] = 5, 3, 2
    counts = coarse(fine, 1 / 1024, -1.0, 1.0)
    assert counts[0] == 3 or counts[1] == 3
    assert counts[-1] == 5 or counts[-2] == 5
    assert counts[BINS // 2] == 2 and sum(counts) == 10


def test_recover_names_the_one_layer_to_leave(
    graph: fx.GraphModule, samples: Tensor, found: Comparison, quantized: fx.GraphModule
) -> None:
    data = list(torch.split(samples, 64))
    recovery = fxquant.recover(graph, data, data, found, goal=0.98, progress=False)
    assert recovery.is_reached and recovery.after >= 0.98 > recovery.before
    assert len(recovery.layers) == 1 and recovery.layers[0] == found.worst(1)[0].name
    rules = tuple(fxquant.Rule(name, keep_float=True) for name in recovery.keep_float)
    better = fxquant.quantize(graph, data, recipe=fxquant.Recipe(rules=rules), progress=False)
    assert fxquant.compare(graph, better, data, progress=False).agreement == recovery.after


def test_recover_leaves_alone_what_is_good_enough(graph: fx.GraphModule, samples: Tensor, found: Comparison) -> None:
    data = list(torch.split(samples, 64))
    recovery = fxquant.recover(graph, data, data, found, goal=0.01, progress=False)
    assert recovery.layers == () and recovery.tried == 0 and recovery.after == recovery.before
    with pytest.raises(CalibrationError, match="calibration is a generator"):
        fxquant.recover(graph, iter(data), data, found, progress=False)


def test_bad_input(graph: fx.GraphModule, quantized: fx.GraphModule) -> None:
    with pytest.raises(StageError, match="compare needs an INTEGER graph, this one is FLOAT"):
        fxquant.compare(graph, graph, torch.ones(2, 16))
    with pytest.raises(FxquantError, match="no data to measure on"):
        fxquant.compare(graph, quantized, [])
    with pytest.raises(CalibrationError, match="data input 0"):
        fxquant.compare(graph, quantized, torch.ones(2, 15))


def test_data_outside_of_the_calibrated_range_is_said_before_anything_else(
    graph: fx.GraphModule, samples: Tensor
) -> None:
    near, far = list(torch.split(samples / 8, 64)), list(torch.split(samples, 64))
    quantized = fxquant.quantize(graph, near, progress=False)
    found = fxquant.compare(graph, quantized, far, progress=False)
    assert found.outside and found.outside[0].originals == ("x",)
    low, high = found.outside[0].range
    assert low < 0 < high < found.outside[0].spread.high
    assert str(found).strip().startswith("this data lies outside of what was calibrated")
    assert not fxquant.compare(graph, quantized, near, progress=False).outside


def test_no_layer_is_left_in_float_for_data_that_was_not_calibrated(samples: Tensor) -> None:
    torch.manual_seed(5)
    graph = fxquant.trace(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)).eval(), samples[:2])
    near, far = list(torch.split(samples / 8, 64)), list(torch.split(samples, 64))
    quantized = fxquant.quantize(graph, near, progress=False)
    found = fxquant.compare(graph, quantized, far, progress=False)
    recovery = fxquant.recover(graph, near, far, found, goal=0.97, progress=False)
    assert recovery.is_calibration and recovery.is_reached
    assert recovery.before < 0.97 <= (recovery.recalibrated or 0.0)
    assert recovery.layers == () and recovery.keep_float == () and recovery.tried == 1
    assert recovery.outside[0] == found.outside[0].name
    again = fxquant.recover(graph, near, far, found, goal=0.97, effort="balanced", progress=False)
    assert again.is_calibration and again.recalibrated is not None and again.recalibrated >= 0.97


def test_layers_are_searched_for_where_calibration_is_not_all(graph: fx.GraphModule, samples: Tensor) -> None:
    near, far = list(torch.split(samples / 8, 64)), list(torch.split(samples, 64))
    found = fxquant.compare(graph, fxquant.quantize(graph, near, progress=False), far, progress=False)
    recovery = fxquant.recover(graph, near, far, found, goal=0.99, progress=False)
    assert recovery.recalibrated is not None and recovery.recalibrated < 0.99
    assert recovery.outside and recovery.layers and not recovery.is_calibration


class Maps(nn.Module):
    """Images to images, which hold classes or not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 4, H, W)."""
        y: Tensor = self.conv(x)
        return y


def _close(real: Tensor, close: Tensor) -> Tensor:
    return (real - close).abs() < 0.5


def test_what_a_map_decides_must_be_told() -> None:
    torch.manual_seed(2)
    x = torch.randn(8, 3, 6, 6)
    graph = fxquant.trace(Maps().eval(), x[:2])
    quantized = fxquant.quantize(graph, [x], progress=False)
    untold = fxquant.compare(graph, quantized, [x], progress=False)
    assert untold.agreement is None and "same" not in str(untold)
    told = fxquant.compare(graph, quantized, [x], agreement=1, progress=False)
    assert told.agreement == pytest.approx(float((graph(x).argmax(1) == quantized(x).argmax(1)).float().mean()))
    assert "same class on axis 1" in str(told)
    own = fxquant.compare(graph, quantized, [x], agreement=_close, progress=False)
    assert own.agreement == 1.0 and "by _close" in str(own)
    assert "by _close" in str(fxquant.report(quantized, graph, [x], agreement=_close))
    assert fxquant.recover(graph, [x], [x], told, agreement=1, goal=0.5, progress=False).measure == "agreement"


def test_rows_are_counted_unless_told_otherwise(found: Comparison) -> None:
    assert "same largest in each row, if these are classes" in str(found)


@pytest.mark.parametrize(("agreement", "said"), [(4, "no axis 4 for classes"), (lambda a, b: 1.0, "gives a float")])
def test_an_agreement_that_says_nothing(
    agreement: Agreement, said: str, graph: fx.GraphModule, quantized: fx.GraphModule, samples: Tensor
) -> None:
    with pytest.raises(FxquantError, match=said):
        fxquant.compare(graph, quantized, samples, agreement=agreement, progress=False)
