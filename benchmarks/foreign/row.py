"""What became of one architecture, as data that goes into a file of JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# An SQNR further below that of the ideal simulation is a fault, not the network's own sensitivity.
ALLOWED_DB = 3.0
# A constant output is exact in the simulation: as integers it has the error of 8 bits, and that is all.
ENOUGH_DB = 40.0
# What islands may differ by between Python and compiled code, as a share of the output's range.
ALLOWED_SHARE = 1e-4
# CPU seconds that are allowed.
TO_QUANTIZE, TO_COMPILE = 60.0, 120.0


@dataclass(frozen=True)
class Row:
    """One architecture: how far it came, and what was measured on the way.

    `stage` is the last one that was reached: "build" (the package's own fault), "trace", "quantize", "look" (running it
    in Python), "compile", "run", or "done"; `error` what ended it there, `refused` whether that was an error of
    fxquant's own kind. `off` is how far the traced graph is from the model, as a share of an output's range. `islands`
    counts what stayed float, by operation and reason. `sqnr` and `ideal` are in dB, of the output that is furthest
    below the ideal simulation. `differs` is the largest difference between Python and compiled code, as a share of the
    output's range; 0 is equal to the last bit. `seconds` are CPU seconds by step; `speed` is float's time over ours.
    """

    name: str
    package: str
    stage: str = "build"
    error: str = ""
    refused: bool = False
    parameters: int = 0
    operations: int = 0
    batch: str = ""
    off: float = 0.0
    islands: dict[str, int] = field(default_factory=dict)
    macs: int = 0
    integer_share: float = 0.0
    sqnr: float | None = None
    ideal: float | None = None
    differs: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    speed: float | None = None
    warned: bool = False

    @property
    def reached(self) -> int:
        """The number of the stage."""
        return STAGES.index(self.stage)

    def has(self, stage: str) -> bool:
        """Whether this stage was passed."""
        return self.reached > STAGES.index(stage)

    @property
    def is_integer(self) -> bool:
        """Whether nothing between input and output is float."""
        return self.has("quantize") and not self.islands

    @property
    def is_equal(self) -> bool:
        """Whether compiled code gives what Python gives: bit for bit, or nearly behind islands."""
        return self.differs is not None and self.differs <= (ALLOWED_SHARE if self.islands else 0.0)

    @property
    def is_faithful(self) -> bool:
        """Whether its SQNR is what the ideal simulation gives, or better."""
        return self.sqnr is None or self.ideal is None or self.sqnr >= min(self.ideal, ENOUGH_DB) - ALLOWED_DB

    @property
    def is_slow_silently(self) -> bool:
        """Whether float is faster, and nobody said so."""
        return self.speed is not None and self.speed < 1.0 and not self.warned

    def took(self, *steps: str) -> float:
        """CPU seconds of some steps together."""
        return sum(self.seconds.get(step, 0.0) for step in steps)

    @property
    def faults(self) -> list[str]:
        """What is not as it must be, in words."""
        found = []
        if self.error and self.stage != "build":
            found.append(f"{'refused' if self.refused else 'failed'} in {self.stage}")
        if self.has("quantize"):
            found += ["float islands"] if self.islands else []
            found += [] if self.is_faithful else ["SQNR below ideal"]
        if self.differs is not None and not self.is_equal:
            found.append("Python and compiled code differ")
        if self.off > 1e-3:
            found.append("traced graph differs from the model")
        found += ["slow to quantize"] if self.took("trace", "quantize") > TO_QUANTIZE else []
        found += ["slow to compile"] if self.took("compile") > TO_COMPILE else []
        found += ["slower than float without a warning"] if self.is_slow_silently else []
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Row:
        """The row of plain data; what an older sweep wrote besides is left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


STAGES = ("build", "trace", "quantize", "look", "compile", "run", "done")
