"""The benchmark: fxquant beside PyTorch, ONNX Runtime and OpenVINO, each in a process of its own, asked in turn.

`preparing` makes every peer's files, `serving` runs them, `rounds` asks and compares; `cost` measures fxquant's own
work.
"""

from __future__ import annotations

from fxquant.tools.bench.run import DEFAULT_NETWORKS, run_bench

__all__ = ["DEFAULT_NETWORKS", "run_bench"]
