"""Imports the packages that the sweep takes architectures from, so that forked processes have them."""

from __future__ import annotations

import warnings

from benchmarks.foreign.architecture import installed
from benchmarks.foreign.from_torchvision import register_operators

register_operators()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    AVAILABLE = {name for name in ("torchvision", "timm", "transformers") if installed(name)}
