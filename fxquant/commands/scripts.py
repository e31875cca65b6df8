"""Models and inputs named on the command line: `script.py:attribute`, arrays in .npy and .npz files, saved graphs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fxquant.errors import CommandError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]

EXAMPLE = "example_inputs"


def attribute(spec: str) -> Any:
    """The object that `script.py:attribute` names; the script is run once, as an import.

    Raises CommandError if there is no such script or attribute, or if the script fails.
    """
    path, _, name = spec.rpartition(":")
    if not path or not name:
        raise CommandError(f"{spec!r} is not of the form script.py:attribute")
    module = _run_script(Path(path).resolve())
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        close = get_close_matches(name, public, 3) or public[:8]
        raise CommandError(f"{path} has no attribute {name!r}; it has {', '.join(close) or 'none'}")
    return getattr(module, name)


def is_script(spec: str) -> bool:
    """Whether the text names an attribute of a script, not a data file."""
    return ".py:" in spec


def model(spec: str) -> Any:
    """The nn.Module or ExportedProgram that `script.py:attribute` names, or that the callable there makes."""
    from torch import nn
    from torch.export import ExportedProgram

    found = attribute(spec)
    if not isinstance(found, (nn.Module, ExportedProgram)) and callable(found):
        found = called(spec, found)
    if not isinstance(found, (nn.Module, ExportedProgram)):
        raise CommandError(
            f"{spec} is {_article(found)}; it must be an nn.Module, or a callable without arguments that returns one"
        )
    return found


def called(spec: str, function: Callable[[], Any]) -> Any:
    """What a callable of the user's returns; CommandError, with its own error, if it fails."""
    try:
        return function()
    except Exception as error:
        raise CommandError(f"calling {spec} failed: {type(error).__name__}: {error}") from error


def example(spec: str | None, model_spec: str) -> Any:
    """Example inputs for tracing: from `spec` (a script's attribute or a data file), else `example_inputs` beside the
    model."""
    if spec is None:
        try:
            return _value(f"{model_spec.rpartition(':')[0]}:{EXAMPLE}")
        except CommandError as error:
            raise CommandError(
                f"no example inputs: give --inputs (script.py:attribute, .npy or .npz), or define {EXAMPLE} in the "
                f"model's script ({error})"
            ) from error
    if is_script(spec):
        return _value(spec)
    return next(iter(Batches(arrays(spec), 2)))


def calibration(spec: str, size: int) -> Any:
    """Calibration data: an iterable from a script, or the samples of a data file in batches of `size`."""
    if not is_script(spec):
        return Batches(arrays(spec), size)
    found = _value(spec)
    return [found] if _is_one_input(found) else found


def arrays(path: str) -> dict[str, NDArray[np.generic]]:
    """The arrays of an .npy (under the name "") or .npz file. Nothing in it can run: pickles are refused.

    Raises CommandError for a missing or foreign file.
    """
    import zlib
    from zipfile import BadZipFile

    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise CommandError(f"there is no file {path}") from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CommandError(f"{path} is not an .npy or .npz file of plain numbers: {error}") from error
    if isinstance(found, np.ndarray):
        return {"": found}
    with found:
        try:
            return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise CommandError(f"{path} holds something other than plain numbers: {error}") from error


class Batches:
    """Arrays of equally many samples along axis 0, as tensors in batches: one tensor, or a dict by name."""

    def __init__(self, found: Arrays, size: int) -> None:
        counts = {name: len(array) if array.ndim else 0 for name, array in found.items()}
        if len(set(counts.values())) != 1:
            raise CommandError(f"the arrays must hold equally many samples along axis 0, they hold {counts}")
        self.arrays, self.size, self.count = found, max(1, size), next(iter(counts.values()))

    def __len__(self) -> int:
        """Number of batches."""
        return -(-self.count // self.size)

    def __iter__(self) -> Iterator[Any]:
        import torch

        for start in range(0, self.count, self.size):
            parts = {n: torch.from_numpy(a[start : start + self.size].copy()) for n, a in self.arrays.items()}
            yield parts if len(parts) > 1 else next(iter(parts.values()))


@cache
def _run_script(path: Path) -> ModuleType:
    if not path.is_file():
        raise CommandError(f"there is no script {path}")
    name = f"fxquant_script_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise CommandError(f"{path} is not a Python script")
    module = importlib.util.module_from_spec(found)
    # As `python script.py` has it: the script may import its neighbours.
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise CommandError(f"running {path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _value(spec: str) -> Any:
    found = attribute(spec)
    return called(spec, found) if callable(found) else found


def _is_one_input(found: Any) -> bool:
    from torch import Tensor

    return isinstance(found, (Tensor, Mapping))


def _article(found: Any) -> str:
    return f"of type {type(found).__name__}"
