"""Runs compiled models with numpy and the standard library only: neither torch nor TVM nor a linker is needed.

Names are imported on first use: what only asks about this machine (`fxquant.runtime.host`) does not wait for numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.runtime.artifact import Artifact, Port
    from fxquant.runtime.host import host_features, host_machine
    from fxquant.runtime.model import CompiledModel, load
    from fxquant.runtime.storage import read, write

_HOME = {
    "Artifact": "artifact",
    "CompiledModel": "model",
    "Port": "artifact",
    "host_features": "host",
    "host_machine": "host",
    "load": "model",
    "read": "storage",
    "write": "storage",
}

__all__ = ["Artifact", "CompiledModel", "Port", "host_features", "host_machine", "load", "read", "write"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fxquant.runtime' has no attribute {name!r}")
    return getattr(import_module(f"fxquant.runtime.{_HOME[name]}"), name)
