"""Runs compiled models with numpy and the standard library only: neither torch nor TVM nor a linker is needed."""

from __future__ import annotations

from fxquant.runtime.artifact import Artifact, Port
from fxquant.runtime.host import host_features, host_machine
from fxquant.runtime.model import CompiledModel, load
from fxquant.runtime.storage import read, write

__all__ = ["Artifact", "CompiledModel", "Port", "host_features", "host_machine", "load", "read", "write"]
