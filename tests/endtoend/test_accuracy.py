"""Real weights on real data: int8 keeps the accuracy of float, and Python and compiled code agree on every image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import accuracy, accuracy_cases
from fxquant.tools.effort import EFFORTS, Effort

IMAGES = 200


def _found() -> tuple[Path | None, list[str], str]:
    try:
        folder = accuracy_cases.data_folder()
    except FileNotFoundError as error:
        return None, ["any"], str(error)
    return folder, accuracy_cases.case_names(folder), ""


FOLDER, NAMES, MISSING = _found()


@pytest.mark.skipif(FOLDER is None, reason=MISSING)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("recipe", "effort", "agreement"),
    [("default", "fast", 97.0), ("avx2", "fast", 95.0), ("default", "balanced", 97.5)],
)
def test_int8_keeps_the_accuracy_of_float(name: str, recipe: str, effort: Effort, agreement: float) -> None:
    assert FOLDER is not None
    row = accuracy.measure(accuracy_cases.load(FOLDER, name), IMAGES, recipe=recipe, effort=effort)
    assert row.identical
    assert row.compiled >= row.float32 - 1.0
    assert row.agreement >= agreement


def test_missing_data_is_told_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXQUANT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no cases.py in {tmp_path}.*FXQUANT_DATA"):
        accuracy_cases.data_folder()


def test_a_folder_of_the_users_own_is_measured(tmp_path: Path) -> None:
    """The table's columns, on a network whose accuracy is known: it gives back the pixel that is the label."""
    (tmp_path / "cases.py").write_text(
        "import torch\nfrom types import SimpleNamespace\nCASES = {'identity': None}\n"
        "def load(name):\n"
        "    model = torch.nn.Linear(4, 4, bias=False)\n"
        "    model.weight.data = torch.eye(4)\n"
        "    labels = torch.arange(80) % 4\n"
        "    inputs = torch.nn.functional.one_hot(labels, 4).float()\n"
        "    return SimpleNamespace(name=name, model=model.eval(), calibration=inputs, inputs=inputs, labels=labels)\n"
    )
    assert accuracy_cases.case_names(tmp_path) == ["identity"]
    row = accuracy.measure(accuracy_cases.load(tmp_path, "identity"), 60)
    assert (row.images, row.float32, row.python, row.compiled, row.agreement) == (60, 100.0, 100.0, 100.0, 100.0)
    assert row.identical and row.sqnr > 40
    assert row.markdown().startswith("| identity | default | 60 | 100.00 % | 100.00 % | 100.00 % | 100.00 % |")


MADE = """
import torch
from types import SimpleNamespace
CASES = {"map": None, "encoder": None}

class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.fc = torch.nn.Embedding(7, 8), torch.nn.Linear(8, 4)
    def forward(self, ids, mask):
        return (self.fc(self.table(ids)) * mask.unsqueeze(-1)).mean(1)

def load(name):
    torch.manual_seed(0)
    if name == "map":
        inputs = torch.randn(30, 3, 6, 6)
        model, labels = torch.nn.Conv2d(3, 3, 1, bias=False), inputs.argmax(1)
        model.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        labels[:, 0] = 255
    else:
        model, labels = Encoder(), None
        inputs = (torch.arange(150).reshape(30, 5) % 7, torch.ones(30, 5))
    return SimpleNamespace(name=name, model=model.eval(), calibration=inputs, inputs=inputs, labels=labels)
"""


@pytest.mark.parametrize(("name", "metric"), [("map", "mIoU"), ("encoder", "cosine")])
def test_segmentation_and_encoders_are_judged_as_what_they_are(tmp_path: Path, name: str, metric: str) -> None:
    (tmp_path / "cases.py").write_text(MADE)
    row = accuracy.measure(accuracy_cases.load(tmp_path, name), 20)
    assert (row.metric, row.images) == (metric, 20) and row.float32 == pytest.approx(100.0)
    assert 97.0 < row.compiled < 100.0 and row.compiled == row.python and row.identical


def test_mean_iou_leaves_out_what_nobody_knows() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 255, -1]])
    found = torch.tensor([[0, 1, 1, 1, 0, 0]])
    assert accuracy_cases.mean_iou(found, labels) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_the_command_goes_on_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cases.py").write_text(MADE)
    kept = tmp_path / "found.json"
    arguments = ["accuracy.py", "map", "--limit", "10", "--data", str(tmp_path), "--json", str(kept)]
    monkeypatch.setattr("sys.argv", [*arguments, "--effort", "fast"])
    assert accuracy.main() == 0
    first = capsys.readouterr().out

    def measured(case: accuracy_cases.Case, images: int, **wanted: str) -> accuracy.Row:
        assert wanted["effort"] != "fast", "what was measured is not measured again"
        return accuracy.Row(case.name, wanted["recipe"], images, 90.0, 89.5, 89.5, 99.0, 30.0, True, wanted["effort"])

    monkeypatch.setattr(accuracy, "measure", measured)
    monkeypatch.setattr("sys.argv", arguments)
    assert accuracy.main() == 0
    second = capsys.readouterr().out
    assert first.splitlines()[2] == second.splitlines()[2]
    assert (
        "| case | judged by | float32 | default | default balanced | default max |" in second
        and "| 0.50 / 99.00 | 0.50 / 99.00 |" in second
    )
    assert len(json.loads(kept.read_text())["rows"]) == len(EFFORTS)
