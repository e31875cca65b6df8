"""Arrays in .npy and .npz files, read without ever loading a pickle. Needs numpy alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fxquant.errors import CommandError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

_NUMBERS = "biuf"  # numpy's kinds of booleans, integers and floats


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an .npz file by name, or the one of an .npy file under the name ""; numbers in native byte order.

    Raises CommandError for a missing, damaged or foreign file, and for arrays of anything but numbers.
    """
    import numpy as np

    name = os.fspath(path)
    try:
        found = np.load(name, allow_pickle=False)
        if isinstance(found, np.ndarray):
            arrays = {"": found}
        else:
            with found:
                arrays = {key: found[key] for key in found.files}
    except FileNotFoundError as error:
        raise CommandError(f"there is no file {name}") from error
    except (IsADirectoryError, PermissionError) as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever numpy's and zip's parsers meet; their advice is not ours
        raise CommandError(
            f"{name} is not an .npy or .npz file of plain numbers, or it is damaged ({type(error).__name__}); "
            "numpy.save and numpy.savez write such files"
        ) from error
    if not arrays:
        raise CommandError(f"{name} holds no arrays")
    return {key: _numbers(array, f"{key or 'the array'} in {name}") for key, array in arrays.items()}


def _numbers(array: Array, where: str) -> Array:
    if not hasattr(array, "dtype") or array.dtype.kind not in _NUMBERS:
        what = getattr(array, "dtype", type(array).__name__)
        raise CommandError(f"{where} is of type {what}: give booleans, integers or real numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
