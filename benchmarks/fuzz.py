"""Random networks by the clock: each is traced, quantized, compiled, and held equal in Python, in code for this machine
and, where gcc is there, as C sources.

    python benchmarks/fuzz.py --minutes 30

Stops at the first network that fails, made as small as possible and printed as text that can be pasted; exit status 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fxquant.errors import FxquantError
from fxquant.targets.machines.portable import C
from fxquant.tools.emulate.programs import missing
from tests.endtoend.networks import Network, check, is_refusal
from tests.endtoend.strategy import networks
from tests.targets.standalone.made import wrong_on

# One run of hypothesis varies what it found before; many short ones, each from a seed of its own, see more.
EXAMPLES = 12
# Fewer different values than this say that the network's outputs are constant.
FEW = 20


def main() -> int:
    """Fuzz until time is up or a network fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="stop starting new networks after this long")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="first seed; printed, to repeat a run")
    given_arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    end, counts, first = time.monotonic() + 60 * given_arguments.minutes, Counter[str](), given_arguments.seed
    while time.monotonic() < end:
        print(f"seed {first}: {_summary(counts)}", flush=True)
        try:
            _round(first, counts)
        except Exception as error:
            print(*getattr(error, "__notes__", []), sep="\n")
            print(f"seed {first}: {type(error).__name__}: {error}")
            return 1
        first += 1
    print(_summary(counts))
    return 0


def _round(first: int, counts: Counter[str]) -> None:
    @seed(first)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(network=networks())
    def run(network: Network) -> None:
        try:
            values = check(network)
            if not network.has_islands and not missing(C):
                assert not wrong_on(C, network), "C sources differ from Python"
        except FxquantError as error:
            if not is_refusal(error):
                raise
            counts[f"refused ({type(error).__name__})"] += 1
        else:
            counts["equal"] += 1
            counts["with few values"] += values < FEW

    run()


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.most_common()) or "nothing yet"


if __name__ == "__main__":
    sys.exit(main())
