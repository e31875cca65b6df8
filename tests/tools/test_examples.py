"""The examples run as they stand, and do what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

import fxquant
from fxquant import targets
from fxquant.errors import InputError
from fxquant.tools.emulate import taught
from fxquant.tools.emulate.programs import missing
from tests.training.learners import IMAGES, quantized

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(folder)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_custom_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = run("custom_pass.py", tmp_path, monkeypatch, capsys)
    assert "FoldBatchNorm, ReplaceSilu, FlattenVolumes" in text
    assert "functions: aten.hardswish, aten.silu" in text
    assert "compiled gives the same integers: True" in text


def test_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = run("step_by_step.py", tmp_path, monkeypatch, capsys)
    for stage in ("FLOAT: traced", "OBSERVED: batch norm folded", "INTEGER: every value"):
        assert stage in text
    assert "ran FoldQDQ" in text
    assert "mse over" in text
    assert "compiled gives the same integers: True" in text
    assert (tmp_path / "step_by_step.fxgraph").exists()


@pytest.mark.cortex_m4
@pytest.mark.skipif(bool(missing(targets.get("cortex-m4"))), reason="no emulator")
def test_personalise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The device learns what Python does, and is better for it."""
    text = run("personalise.py", tmp_path, monkeypatch, capsys)
    assert "the same bytes: True" in text
    shares = [
        [float(share) for share in re.findall(r"([\d.]+)%", line)] for line in text.splitlines() if "askew" in line
    ]
    assert shares[0] == shares[1] and shares[0][1] > shares[0][0] + 15
    costs = {line.split(",")[0].split()[0]: line.split()[-2:] for line in text.splitlines() if line[:1].islower()}
    run_alone, step = map(int, costs["instructions"])
    assert run_alone < step < 1.25 * run_alone


@pytest.mark.cortex_m4
@pytest.mark.skipif(bool(missing(targets.get("cortex-m4"))), reason="no emulator")
def test_tiny_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Shortened to a few epochs: what is pruned and has 4 bits takes less of everything, and knows digits."""
    monkeypatch.setattr("sys.argv", ["tiny_device.py", "2"])
    rows = run("tiny_device.py", tmp_path, monkeypatch, capsys).splitlines()
    accurate, plain = (float(re.findall(r"([\d.]+)%", row)[0]) for row in (rows[-2], rows[-5]))
    assert rows[-2].startswith("pruned, 4 bits") and rows[-5].startswith("float")
    assert accurate > plain - 3
    flash, constants, arena, instructions = map(float, rows[-1].split()[-4:])
    assert flash > 1.6 and constants > 3 and arena > 1.4 and instructions > 1.8


def test_only_models_that_learn_are_taught(tmp_path: Path) -> None:
    """And samples are integers, as the header says them."""
    made = fxquant.export(quantized(), "cortex-m4", tmp_path, name="net")
    with pytest.raises(InputError, match=r"net does not learn: export it with train=\[...\]"):
        taught(made, [(IMAGES[0], 0)], [])
    made = fxquant.export(quantized(), "cortex-m4", tmp_path, name="net", train=["head"])
    with pytest.raises(InputError, match=r"x is int8\(1, 1, 4, 4\), got torch.float32 of \(1, 4, 4\): quantize it"):
        taught(made, [(IMAGES[0], 0)], [])


def test_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["levels.py", "levels.svg"])
    rows = run("levels.py", tmp_path, monkeypatch, capsys).splitlines()
    exact = [row for row in rows if row.endswith("exact: True")]
    assert len(exact) == 8 and not any("exact: False" in row for row in rows)
    eight, four, two = (next(row for row in exact if row.startswith(f"weights of {n} bits")).split() for n in (8, 4, 2))
    sizes = [int(row[row.index("bytes") - 1]) for row in (eight, four, two)]
    kept = [float(row[row.index("dB") - 1]) for row in (eight, four, two)]
    assert sizes[1] < 0.55 * sizes[0] and sizes[2] < 0.3 * sizes[0]
    assert kept[0] > kept[1] > kept[2]
    drawn = ElementTree.parse(tmp_path / "levels.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}rect")) == 1 + 1 + len(exact)


def test_the_custom_pass_is_short() -> None:
    source = (EXAMPLES / "custom_pass.py").read_text()
    own = source[source.index("@dataclass") : source.index("def main")]
    assert len(own.strip().splitlines()) < 30
