"""Who is compared: each peer as a record of what it needs, how its files are made, and how they are run.

A peer is prepared once, by a process with torch and everything; the process that is measured later only loads the
files, so that its memory is what serving takes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxquant.errors import FxquantError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from fxquant.tools.bench.networks import Network, Sample

    Arrays = list[np.ndarray[Any, Any]]

# From the arrays of one sample to the arrays of the outputs.
Runner = Callable[["Arrays"], "Arrays"]


@dataclass
class Job:
    """What a peer is prepared from; its files go into `folder`, and what it has to tell into `facts`.

    Peers share `common`, the folder one level up, for what several of them need.
    """

    network: Network
    model: nn.Module
    calibration: list[Sample]
    evaluation: list[Sample]
    common: Path
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """`module` has the functions `prepare(job, variant)` and `load(folder, variant, network, threads) -> Runner`."""

    name: str
    description: str
    module: str
    variant: str
    # Distribution and import name of each package.
    packages: tuple[tuple[str, str], ...]
    is_float: bool = False

    def missing(self) -> str:
        """Why this peer cannot run here, or nothing."""
        absent = [package for package, module in self.packages if importlib.util.find_spec(module) is None]
        return f"not installed: pip install {' '.join(absent)}" if absent else ""

    def versions(self) -> dict[str, str]:
        """Versions of its packages, as far as they are known."""
        return {package: _version(package) for package, _ in self.packages}

    def prepare(self, job: Job) -> None:
        """Write the peer's files."""
        import_module(self.module).prepare(job, self.variant)

    def load(self, folder: Path, network: Network, threads: int) -> Runner:
        """Read them, ready to run."""
        runner: Runner = import_module(self.module).load(folder, self.variant, network, threads)
        return runner


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


_ROOM = "fxquant.tools.bench"
_ORT = (("onnx", "onnx"), ("onnxruntime", "onnxruntime"))
_OPENVINO = (("onnx", "onnx"), ("openvino", "openvino"))
_FXQUANT = (("fxquant", "fxquant"),)
_TORCH = (("torch", "torch"),)
_TORCHAO = (("torch", "torch"), ("torchao", "torchao"))
_LITERT = (("litert-torch", "litert_torch"), ("ai-edge-litert", "ai_edge_litert"))
_ALL = (
    Peer("fxquant", "fxquant int8, recipe for this CPU", f"{_ROOM}.peer_fxquant", "native", _FXQUANT),
    Peer("fxquant-default", "fxquant int8, default recipe", f"{_ROOM}.peer_fxquant", "default", _FXQUANT),
    Peer("fxquant-dynamic", "fxquant int8, ranges at run time", f"{_ROOM}.peer_fxquant", "native-dynamic", _FXQUANT),
    Peer("torch", "PyTorch fp32, eager", f"{_ROOM}.peer_torch", "float", _TORCH, is_float=True),
    Peer("torch-int8", "PyTorch int8 by torchao", f"{_ROOM}.peer_torchao", "static", _TORCHAO),
    Peer("ort", "ONNX Runtime fp32", f"{_ROOM}.peer_onnx", "float", _ORT, is_float=True),
    Peer("ort-int8", "ONNX Runtime int8 static", f"{_ROOM}.peer_onnx", "static", _ORT),
    Peer("ort-reduce-range", "ONNX Runtime int8 static, 7-bit weights", f"{_ROOM}.peer_onnx", "reduce_range", _ORT),
    Peer("ort-dynamic", "ONNX Runtime int8 dynamic", f"{_ROOM}.peer_onnx", "dynamic", _ORT),
    Peer("openvino", "OpenVINO fp32", f"{_ROOM}.peer_openvino", "float", _OPENVINO, is_float=True),
    Peer("openvino-int8", "OpenVINO int8 by NNCF", f"{_ROOM}.peer_openvino", "static", (*_OPENVINO, ("nncf", "nncf"))),
    Peer("litert", "LiteRT fp32, XNNPACK", f"{_ROOM}.peer_litert", "float", _LITERT, is_float=True),
    Peer("litert-int8", "LiteRT int8 static", f"{_ROOM}.peer_litert", "static", _LITERT),
    Peer("litert-dynamic", "LiteRT int8 dynamic", f"{_ROOM}.peer_litert", "dynamic", _LITERT),
)
PEERS = {peer.name: peer for peer in _ALL}


def chosen(names: Sequence[str]) -> list[Peer]:
    """The peers called `names` (none: all of them), and always fxquant. Raises FxquantError for unknown names."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise FxquantError(f"no peer {unknown[0]!r}; known are {', '.join(PEERS)}")
    return [peer for peer in _ALL if not names or peer.name in names or peer.name == "fxquant"]
