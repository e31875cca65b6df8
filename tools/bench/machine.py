"""What the numbers were measured on, and how much memory a process takes."""

from __future__ import annotations

import os
import platform
import resource
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fxquant.runtime.host import host_features, host_machine

_PACKAGES = ("fxquant", "torch", "apache-tvm", "onnx", "onnxruntime", "openvino", "nncf", "numpy")
_OF_INTEREST = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_STATUS = Path("/proc/self/status")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, instruction sets, memory, load, system and versions."""
    return {
        "cpu": _cpu_name(),
        "machine": host_machine(),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in _OF_INTEREST if name in host_features()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory this process had, since the last `forget_peak` where the system can forget."""
    return _status("VmHWM") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Let `peak_bytes` count from now on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
