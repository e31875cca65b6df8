"""`python -m fxquant.runtime model.fxq --inputs images.npz -o logits.npz`: a compiled model run with numpy alone.

For machines that have neither the `fxquant` program's libraries nor PyTorch. Without
`--inputs` it says what the model is.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fxquant.errors import FxquantError, InputError
from fxquant.runtime.model import CompiledModel, load


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error message."""
    parser = argparse.ArgumentParser(prog="python -m fxquant.runtime", description="Run a compiled model on arrays.")
    parser.add_argument("model", help="the .fxq file")
    parser.add_argument("--inputs", help="arrays by the names of the inputs: .npz; or .npy for a single one")
    parser.add_argument("--output", "-o", type=Path, help="the .npz file to write")
    parser.add_argument("--threads", type=int, help="threads; all cores if not given")
    parser.add_argument("--trusted", type=Path, metavar="FILE", help="refuse files not signed with the key in FILE")
    wanted = parser.parse_args(arguments)
    try:
        trusted = None if wanted.trusted is None else wanted.trusted.read_bytes()
        with load(wanted.model, wanted.threads, trusted=trusted) as model:
            if wanted.inputs is None:
                print(model)
                return 0
            results = _run(model, _arrays(wanted.inputs))
        if wanted.output is not None:
            with wanted.output.open("wb") as file:
                np.savez(file, **results)
    except (FxquantError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, array in results.items():
        print(f"{name}: {array.dtype}{list(array.shape)}")
    return 0


def _run(model: CompiledModel, given: dict[str, Any]) -> dict[str, Any]:
    names = [port.name for port in model.inputs]
    if set(given) != set(names) and len(given) == len(names) == 1:
        given = dict(zip(names, given.values(), strict=True))  # a single array needs no name
    if set(given) != set(names):
        raise InputError(f"the file holds {', '.join(given) or 'nothing'}; the model takes {', '.join(names)}")
    got = model(*(given[name] for name in names))
    return dict(zip((port.name for port in model.outputs), got if isinstance(got, tuple) else (got,), strict=True))


def _arrays(path: str) -> dict[str, Any]:
    """The arrays of an .npz file, or that of an .npy file under the name "". Nothing in it can run: no pickles."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"": found}
        with found:
            return {name: found[name] for name in found.files}
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not an .npy or .npz file of plain numbers: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
