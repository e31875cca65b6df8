"""Observers: modules that watch a tensor during calibration and say what range its integers must cover.

`make(scheme)` builds the one a scheme names; `register` adds one of your own.
"""

from __future__ import annotations

from fxquant.observers.base import Observer, observers_of
from fxquant.observers.clipping import Clipping
from fxquant.observers.distributed import all_merge
from fxquant.observers.entropy import Entropy
from fxquant.observers.histogram import Histogram
from fxquant.observers.minmax import MinMax
from fxquant.observers.moments import MeanStd
from fxquant.observers.moving_average import MovingAverage
from fxquant.observers.mse import MSE
from fxquant.observers.percentile import Percentile
from fxquant.observers.registry import OBSERVERS, make, register
from fxquant.observers.shrunk import Shrunk

__all__ = [
    "MSE",
    "OBSERVERS",
    "Clipping",
    "Entropy",
    "Histogram",
    "MeanStd",
    "MinMax",
    "MovingAverage",
    "Observer",
    "Percentile",
    "Shrunk",
    "all_merge",
    "make",
    "observers_of",
    "register",
]
