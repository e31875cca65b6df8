"""Standalone code on an emulated machine: does it compute what Python computed, in how many instructions, on how much
stack. QEMU runs it; instructions are counted exactly and repeatably by a plugin that is compiled at need."""

from __future__ import annotations

from fxquant.tools.emulate.run import ModelRun, emulate
from fxquant.tools.emulate.taught import Taught, taught

__all__ = ["ModelRun", "Taught", "emulate", "taught"]
