"""The benchmark end to end on a tiny network of the user's own, and its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fxquant
from fxquant.errors import FxquantError
from fxquant.targets.hosted.profile import profile
from fxquant.tools.bench import run_bench
from fxquant.tools.bench.networks import network
from fxquant.tools.bench.peers import PEERS, Peer, chosen
from fxquant.tools.bench.remote import Remote, RemoteError
from fxquant.tools.bench.rounds import compare
from fxquant.tools.bench.run import summary
from fxquant.tools.bench.serving import EXACT_DB, decibels
from fxquant.tools.bench.tables import markdown, markdown_best, tables
from tests.tools.served import Served

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = textwrap.dedent("""
    import torch
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    model = Tiny

    def example_inputs():
        return torch.randn(1, 3, 8, 8)
""")


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(SCRIPT)
    np.save(tmp_path / "samples.npy", np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32))
    return f"{path}:model"


@pytest.mark.timeout(120)
def test_compares_interleaved_and_outputs_agree(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(Path(script.rpartition(":")[0]).with_name("samples.npy"))
    peers, kept = ["torch", "torch-int8", "ort", "ort-reduce-range"], Path(data).with_name("results.json")
    results = run_bench([script], peers, [1], 3, True, data=data, output=kept, progress=False)
    assert json.loads(capsys.readouterr().out) == results == json.loads(kept.read_text())
    assert results["machine"]["cores"] >= 1 and results["machine"]["versions"]["torch"] == torch.__version__
    (found,) = results["networks"]
    assert found["name"] == "tiny.py:model" and found["inputs"] == [[1, 3, 8, 8]] and found["calibration_samples"] == 6
    absent = {name for name in peers if PEERS[name].missing()}
    assert set(found["missing"]) == absent and found["failed"] == {}
    assert set(found["peers"]) == set(found["times"]["1"]) == {"fxquant", *peers} - absent
    for name, times in found["times"]["1"].items():
        assert 0 < times["best_ms"] <= times["median_ms"] and times["ratio"] > 0 and times["best_ratio"] > 0
        assert found["peers"][name]["artifact_bytes"] > 0 and found["peers"][name]["serving_bytes"] > 1 << 20
        # The same weights everywhere, although the script draws its own: floats agree closely, integers well.
        assert found["peers"][name]["sqnr_db"] > (80 if PEERS[name].is_float else 20)
    assert found["times"]["1"]["fxquant"]["ratio"] == 1.0
    assert found["peers"]["fxquant"]["exact"] is True
    # Serving needs neither torch nor TVM.
    assert found["peers"]["fxquant"]["serving_bytes"] < found["peers"]["torch"]["serving_bytes"]


def test_the_best_other_counts_and_means_are_geometric() -> None:
    def times(**ratios: float) -> dict[str, Any]:
        return {name.replace("_", "-"): {"ratio": ratio} for name, ratio in ratios.items()}

    first = {"name": "a", "times": {"1": times(fxquant=1.0, fxquant_default=1.1, torch=4.0, ort=2.0)}}
    second = {"name": "b", "times": {"1": times(fxquant=1.0, torch=8.0), "2": times(fxquant=1.0)}}
    found = summary([first, second])
    assert found == {"1": {"geometric_mean": pytest.approx(4.0), "networks": {"a": 2.0, "b": 8.0}}}
    machine = {"cpu": "", "cores": 2, "features": (), "load": 0.0, "versions": {}}
    nothing: dict[str, list[Any]] = {"networks": [], "costs": [], "profiles": []}
    assert any(
        "4.00 times as long" in line
        for line in tables({"machine": machine, "summary": found, **nothing})
        if isinstance(line, str)
    )


def test_a_batch_is_so_many_inputs(script: str) -> None:
    data = str(Path(script.rpartition(":")[0]).with_name("samples.npy"))
    found = network(script, data=data, batch=3)
    assert found.title == "tiny.py:model, batch 3"
    assert [tuple(t.shape) for t in found.evaluation(1)[0]] == [tuple(t.shape) for t in found.calibration(1)[0]]
    assert found.evaluation(1)[0][0].shape == (3, 3, 8, 8)
    assert network("resnet8", batch=2).evaluation(1)[0][0].shape[0] == 2


class Here:
    """A `Remote` without a process."""

    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        self.served = factory(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.served, method)(*arguments)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_error: object) -> None:
        torch.set_num_threads(os.cpu_count() or 1)


def test_cost_and_profile(script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.tools.bench.cost.Remote", Here)
    monkeypatch.setenv("FXQUANT_CACHE", "off")  # set back afterwards: `Here` is this very process
    results = run_bench([script], threads=[1], rounds=2, cost=True, profile=True, calibration=3)
    (cost,), (layers,) = results["costs"], results["profiles"]
    wall = cost["wall_seconds"]
    assert wall["quantize"] == pytest.approx(wall["trace"] + wall["prepare"] + wall["observe"] + wall["convert"])
    assert 0 < wall["observe"] < wall["calibrate"] and wall["compile"] > wall["again"] > 0
    assert cost["calibration_samples"] == 1 and cost["peak_bytes"] > 1 << 26
    assert {layer["kernel"] for layer in layers["layers"]} >= {"conv", "quantize", "dequantize"}
    printed = capsys.readouterr().out
    assert "MACs" in printed and "compile" in printed and "conv" in printed


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_times_every_layer(threads: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 1)).eval()
    x = torch.randn(1, 3, 16, 16)
    found = profile(fxquant.quantize(fxquant.trace(model, (x,)), [x], progress=False), (x,), threads=threads, rounds=4)
    assert [layer.macs for layer in found.layers if layer.macs] == [16 * 16 * 16 * 27, 16 * 16 * 8 * 16]
    assert all(0 < layer.best <= layer.median for layer in found.layers)
    assert found.best <= found.median and sum(layer.best for layer in found.layers) <= found.best * 1.001
    assert [layer.median for layer in found.slowest()] == sorted((t.median for t in found.layers), reverse=True)
    assert found.ceiling > 1 and found.to_json()["layers"][0]["gops"] >= 0


def test_remote_answers_and_reports_errors(capfd: pytest.CaptureFixture[str]) -> None:
    with Remote(Served, False) as remote:
        assert remote.call("add", 1, 2) == 3
        with pytest.raises(RemoteError, match=r"^say it$"):
            remote.call("complain")
        with pytest.raises(RemoteError, match=r"^TypeError: .*remote\.py"):
            remote.call("add", 1)
        assert remote.call("add", 2, 2) == 4
        with pytest.raises(RemoteError, match="died with exit code 3"):
            remote.call("die")
        assert not remote.alive
    with pytest.raises(RemoteError, match=r"^ValueError: no start \("):
        Remote(Served, True)
    assert capfd.readouterr().out == ""


def test_a_frozen_process_stands_still() -> None:
    with Remote(Served, False) as remote:
        number = remote.call("number")
        state = Path(f"/proc/{number}/stat")
        remote.freeze()
        deadline = time.monotonic() + 5
        while state.read_text().rpartition(")")[2].split()[0] != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state.read_text().rpartition(")")[2].split()[0] == "T"
        with remote.awake():
            assert remote.call("add", 1, 2) == 3
    assert not state.exists()


def test_a_frozen_process_ends_with_its_parent() -> None:
    script = (
        "import os, signal\n"
        "from fxquant.tools.bench.remote import Remote\n"
        "from tests.tools.served import Served\n"
        "if __name__ == '__main__':\n"
        "    remote = Remote(Served, False)\n"
        "    print(remote.call('number'), flush=True)\n"
        "    remote.freeze()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    state, deadline = Path(f"/proc/{int(result.stdout)}/stat"), time.monotonic() + 10
    while _lives(state) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert result.returncode == -signal.SIGKILL and not _lives(state)


def _lives(state: Path) -> bool:
    """Not gone, and not a zombie that nobody has asked after."""
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_markdown_has_a_row_for_each_run_and_a_column_for_each_peer() -> None:
    def times(ratio: float) -> dict[str, float]:
        return {"ratio": ratio, "median_ms": 10 * ratio}

    peers = {"fxquant": {"title": "ours"}, "torch": {"title": "theirs"}}
    first = {"name": "a", "peers": peers, "times": {"1": {"fxquant": times(1), "torch": times(2.5)}}}
    second = {"name": "b", "peers": {"fxquant": peers["fxquant"]}, "times": {"2": {"fxquant": times(1)}}}
    assert markdown({"networks": [first, second]}).splitlines() == [
        "| network, threads | ours | theirs | best other |",
        "| --- | --- | --- | --- |",
        "| a, 1 | 1.00 (10.00 ms) | 2.50 (25.00 ms) | 2.50 |",
        "| b, 2 | 1.00 (10.00 ms) | – | – |",
    ]


def test_the_best_of_all_others_is_named() -> None:
    def times(*ratios: float) -> dict[str, dict[str, float]]:
        names = ("fxquant", "fxquant-default", "one", "two")
        return {name: {"ratio": r, "median_ms": 2 * r} for name, r in zip(names, ratios, strict=True)}

    peers = {name: {"title": name.upper()} for name in ("fxquant", "fxquant-default", "one", "two")}
    found = {"name": "a", "peers": peers, "times": {"1": times(1, 0.9, 3.5, 1.25), "2": times(1, 0.9, 1.5, 2.0)}}
    alone = {"name": "b", "peers": peers, "times": {n: {"fxquant": times(1, 1, 1, 1)["fxquant"]} for n in ("1", "2")}}
    assert markdown_best({"networks": [found, alone]}).splitlines() == [
        "| network | fxquant, 1 thr. | best other | fxquant, 2 thr. | best other |",
        "| --- | --- | --- | --- | --- |",
        "| a | 2.00 ms | 1.25 (TWO) | 2.00 ms | 1.50 (ONE) |",
        "| b | 2.00 ms | – | 2.00 ms | – |",
    ]


def test_missing_and_failing_peers_are_said(script: str) -> None:
    absent = Peer("absent", "not there", "nowhere", "", (("no-such-package", "no_such_package"),))
    failing = Peer("failing", "cannot prepare", "nowhere", "", (("torch", "torch"),))
    found = compare(network(script), [absent, failing], [1], 1, calibration=1, evaluation=1, progress=False)
    assert found["missing"] == {"absent": "not installed: pip install no-such-package"}
    assert found["failed"]["failing"].startswith("ModuleNotFoundError: No module named 'nowhere'")
    assert found["peers"] == {} and found["times"] == {"1": {}}


def test_names_and_numbers_are_checked(script: str, tmp_path: Path) -> None:
    with pytest.raises(FxquantError, match=r"no peer 'ortt'; known are fxquant, fxquant-default, fxquant-dynamic, t"):
        chosen(["ortt"])
    assert [peer.name for peer in chosen(["ort"])] == ["fxquant", "ort"]
    with pytest.raises(FxquantError, match=r"no network 'resnet19'; the zoo has resnet18"):
        network("resnet19")
    with pytest.raises(FxquantError, match=r"there is no script .*gone\.py"):
        network(f"{tmp_path}/gone.py:model")
    with pytest.raises(FxquantError, match=r"tiny\.py defines no 'modle'"):
        network(script.replace(":model", ":modle")).build()
    with pytest.raises(FxquantError, match="0 rounds"):
        run_bench([script], rounds=0)
    with pytest.raises(FxquantError, match=r"there is no folder .*/nowhere for the results"):
        run_bench([script], output=tmp_path / "nowhere" / "results.json")


def test_a_network_that_is_done_is_kept_and_shown_before_the_next(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"name": "tiny", "inputs": [[1]], "parameters": 1, "peers": {}, "times": {}, "missing": {}, "failed": {}}
    done = [found]

    def compared(*_args: object, **_options: object) -> dict[str, object]:
        if not done:
            raise FxquantError("the second fails")
        return done.pop()

    monkeypatch.setattr("fxquant.tools.bench.rounds.compare", compared)
    kept = tmp_path / "results.json"
    with pytest.raises(FxquantError, match="the second fails"):
        run_bench([script, script], ["torch"], output=kept)
    assert json.loads(kept.read_text())["networks"] == [found]
    assert "tiny: 1, 0.00 M parameters" in capsys.readouterr().out


def test_samples_come_from_the_zoo_a_file_or_the_script(script: str, tmp_path: Path) -> None:
    zoo = network("resnet8")
    assert [x.shape for (x,) in zoo.evaluation(2)] == [(1, 3, 32, 32)] * 2
    assert not any(torch.equal(a, b) for (a,) in zoo.evaluation(2) for (b,) in zoo.calibration(2))
    stored = network(script, data=str(tmp_path / "samples.npy"))
    assert len(stored.calibration(4)) == 4 and len(stored.evaluation(100)) == 6
    assert [len(sample) for sample in network(script).calibration(4)] == [1]
    (tmp_path / "more.py").write_text("import torch\ndef loader():\n    return [{'x': torch.zeros(5, 3, 8, 8)}] * 2\n")
    loaded: list[Any] = network(script, data=f"{tmp_path}/more.py:loader").calibration(9)
    assert [x.shape for (x,) in loaded] == [(1, 3, 8, 8)] * 2
    np.savez(tmp_path / "uneven.npz", a=np.zeros((2, 1)), b=np.zeros((3, 1)))
    with pytest.raises(FxquantError, match=r"equally many samples along axis 0, not \[2, 3\]"):
        network(script, data=str(tmp_path / "uneven.npz")).calibration(1)


def test_decibels_are_bounded() -> None:
    assert decibels(100.0, 1.0) == pytest.approx(20.0)
    assert decibels(0.0, 0.0) == decibels(1.0, 0.0) == EXACT_DB
    assert decibels(1.0, float("nan")) == decibels(0.0, 1.0) == -EXACT_DB
