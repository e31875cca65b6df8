"""Real weights on real data: int8 keeps the accuracy of float, and Python and compiled code agree on every image."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import accuracy

IMAGES = 200


def _found() -> tuple[Path | None, list[str], str]:
    try:
        folder = accuracy.data_folder()
    except FileNotFoundError as error:
        return None, ["any"], str(error)
    return folder, accuracy.case_names(folder), ""


FOLDER, NAMES, MISSING = _found()


@pytest.mark.skipif(FOLDER is None, reason=MISSING)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("recipe", "agreement"), [("default", 97.0), ("avx2", 95.0)])
def test_int8_keeps_the_accuracy_of_float(name: str, recipe: str, agreement: float) -> None:
    assert FOLDER is not None
    row = accuracy.measure(accuracy.load(FOLDER, name), IMAGES, recipe=recipe)
    assert row.identical
    assert row.compiled >= row.float32 - 1.0
    assert row.agreement >= agreement


def test_missing_data_is_told_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXQUANT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no cases.py in {tmp_path}.*FXQUANT_DATA"):
        accuracy.data_folder()


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
    assert accuracy.case_names(tmp_path) == ["identity"]
    row = accuracy.measure(accuracy.load(tmp_path, "identity"), 60)
    assert (row.images, row.float32, row.python, row.compiled, row.agreement) == (60, 100.0, 100.0, 100.0, 100.0)
    assert row.identical and row.sqnr > 40
    assert row.markdown().startswith("| identity | default | 60 | 100.00 % | 100.00 % | 100.00 % | 100.00 % |")
