"""Random networks: the INTEGER graph in Python and the compiled code give the same integers, whatever the network.

FXQUANT_FUZZ=<number of networks> fuzzes longer, with other networks each time; `benchmarks/fuzz.py` by the clock.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings

from fxquant.errors import FxquantError
from tests.endtoend.networks import Network, check, is_refusal, runnable_targets
from tests.endtoend.strategy import networks

WANTED = int(os.environ.get("FXQUANT_FUZZ", "0"))
# About 1.5 s each. Without a wish the same networks every time: a red CI must be the change's own fault.
EXAMPLES = WANTED or 13


@pytest.mark.timeout(0 if WANTED else 600)
@pytest.mark.parametrize("target", runnable_targets())
@settings(
    max_examples=EXAMPLES,
    derandomize=not WANTED,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink] if WANTED else [Phase.generate],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
@given(data=networks())
def test_python_and_compiled_agree(target: str, data: Network) -> None:
    try:
        check(replace(data, target=target))
    except FxquantError as error:
        if not is_refusal(error):
            raise
        reject()
