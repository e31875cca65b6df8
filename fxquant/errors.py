"""Every error fxquant raises.

A message says what is wrong, where (node and the model's own source line) and what to do.
"""

from __future__ import annotations

from typing import Any


class FxquantError(Exception):
    """Base of all errors of this library."""


class SchemeError(FxquantError):
    """A scheme or recipe asks for something that does not exist."""


class RecipeError(FxquantError):
    """A recipe names an unknown key, node or module."""


class TraceError(FxquantError):
    """The model cannot be captured as one graph."""


class StageError(FxquantError):
    """A graph is not in the stage that a pass needs, or a pass broke an invariant of the stage that it gives."""


class PassError(FxquantError):
    """A pass is none, fails, changes what a graph computes, or leaves one that cannot be computed; its name is told."""


class PassOrderError(FxquantError):
    """A pipeline's passes do not fit together."""


class CalibrationError(FxquantError):
    """The calibration data cannot give ranges: empty, NaN or infinite, wrong shape or dtype."""


class ObserverError(CalibrationError):
    """An observer fails, or gives what is no range; the message names its class."""


class OpTableError(FxquantError):
    """A record of the op table is wrong, or its functions give what they must not; the message names it."""


class UnsupportedOpError(FxquantError):
    """An operator has no integer spelling, and the caller asked for a strictly integer graph."""


class ArgumentError(FxquantError):
    """An argument of a call in a graph is missing, or not of the kind that its operator takes."""


class TrainingError(FxquantError):
    """A graph cannot be trained, or is not ready to be converted; the message says which call makes it so."""


class DistillationError(TrainingError):
    """A teacher does not match its student, or there is nothing to compare; the message has the nearest names."""


class UnknownNameError(FxquantError, KeyError):
    """No layer, value or output is called so; the message has the nearest names."""

    def __str__(self) -> str:
        """The message as it is: a KeyError's own would be quoted."""
        return str(self.args[0]) if self.args else ""


class AccumulatorOverflowError(FxquantError):
    """A sum of products can leave the 32-bit accumulator."""


class TargetError(FxquantError):
    """An unknown target, or one that cannot run what it was given."""


class LoweringError(FxquantError):
    """An integer graph holds something that the compiler has no code for."""


class MemorySafetyError(FxquantError):
    """A compiled program could touch memory that is not its own: a fault of fxquant's own."""


class BudgetError(FxquantError):
    """A model needs more memory than the budget allows; the message names the layer."""


class GraphFileError(FxquantError):
    """A saved graph (.fxgraph) cannot be read or written."""


class CommandError(FxquantError):
    """A command line names a file, an attribute or an option that is not there or not what it must be."""


class InputError(FxquantError):
    """An input at run time has the wrong count, dtype or shape or no memory, or leads to an index that a table lacks;
    or the number of threads is impossible."""


class ArtifactError(FxquantError):
    """A compiled artifact cannot be read or written."""


class ForeignFileError(ArtifactError):
    """The file is not an fxquant artifact."""


class NewerFormatError(ArtifactError):
    """The artifact was written by a newer fxquant than this one."""


class OlderFormatError(ArtifactError):
    """The artifact was written by an older fxquant, in a format that cannot be checked as this one asks for."""


class TruncatedError(ArtifactError):
    """The artifact ends before its own header says it does."""


class AlteredError(ArtifactError):
    """The artifact is not what was written: checksum or header do not fit."""


class UnsignedError(ArtifactError):
    """A key was given to check the artifact with, and the artifact is not signed."""


class WrongKeyError(ArtifactError):
    """The artifact is not signed with this key, or the key is none."""


class PruningBudgetError(FxquantError):
    """No set of channels that may go is enough for the budget; `nearest` is the least that can be had."""

    def __init__(self, message: str, nearest: int) -> None:
        super().__init__(message)
        self.nearest = nearest


class AccuracyTargetError(FxquantError):
    """No quantization that was tried loses as little as was allowed; `best` is the one that loses the least."""

    def __init__(self, message: str, best: Any) -> None:
        super().__init__(message)
        self.best = best


class WrongMachineError(ArtifactError):
    """The compiled code is for another CPU architecture, or for instructions that this CPU lacks."""


class ObjectCodeError(ArtifactError):
    """The object code inside an artifact cannot be mapped into this process."""


class OutOfMemoryError(ArtifactError):
    """The system has not the memory or the threads that running a model takes."""


class ArtifactWriteError(ArtifactError):
    """The artifact could not be written; nothing was left behind."""
