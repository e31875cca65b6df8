"""A short run of `benchmarks/mutate.py`: altered graphs and checkpoints load with an error of ours, or are sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("kind", ["graph", "checkpoint"])
def test_altered_files(kind: str, tmp_path: Path) -> None:
    results = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "mutate.py"), "--kind", kind, "--json", str(results)]
    for count in ("80", "160"):  # the second run goes on where the first one ended
        done = subprocess.run([*command, "--count", count], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found["faults"] == [] and found["next"] == {kind: 160}
    counts = found["counts"][kind]
    assert sum(counts.values()) == 160 and counts["refused"] > 100 and counts["changed"] + counts["same"] > 1
