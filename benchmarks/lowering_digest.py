"""What code generation is given for the zoo on every target, as digests: has a change moved code, or changed it?

    python benchmarks/lowering_digest.py --output before.json     # then edit, then
    python benchmarks/lowering_digest.py --against before.json    # says what differs; status 1 if anything does

A digest is of every function that reaches the code generator, as text: kernels, and `run` with all planned addresses
and, in standalone code, constants. Nothing is compiled, so that a run takes minutes: `--network` and `--target` choose.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import fxquant
from fxquant import targets
from fxquant.errors import FxquantError
from fxquant.progress import track
from fxquant.targets.hosted.compiler import compile_graph
from fxquant.targets.standalone.code import object_file
from fxquant.targets.standalone.network import network
from fxquant.targets.tvm_api import function_text
from tests import zoo


class _SeenError(Exception):
    """Ends a compilation just before code is generated."""


def main() -> int:
    """Parse the command line, digest, compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(zoo.ZOO), help="may be repeated; all if not given")
    parser.add_argument("--target", action="append", choices=list(targets.TARGETS), help="the same")
    parser.add_argument("--output", type=Path, help="keep the digests here")
    parser.add_argument("--against", type=Path, help="digests to compare with")
    wanted = parser.parse_args()
    names, machines = wanted.network or list(zoo.ZOO), wanted.target or list(targets.TARGETS)
    found = dict(_digests(names, machines))
    if wanted.output:
        wanted.output.write_text(json.dumps(found, indent=1) + "\n")
    if not wanted.against:
        print(f"{len(found)} programs")
        return 0
    return _differences(json.loads(wanted.against.read_text()), found)


def _digests(names: list[str], machines: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for name in track(names, "lowering"):
        model, calibration = zoo.build(name, shallow=True), [zoo.inputs(name, 2, seed) for seed in range(2)]
        graph = fxquant.trace(model, calibration[0])
        made: dict[str, Any] = {}
        for machine in machines:
            target = targets.get(machine)
            for recipe in {target.recipe, "default"} | ({"dynamic"} if target.form == "hosted" else set()):
                if recipe not in made:
                    made[recipe] = fxquant.quantize(graph, calibration, recipe=recipe, progress=False)
                yield f"{name} {machine} {recipe}", _functions(made[recipe], machine)


def _functions(quantized: Any, machine: str) -> dict[str, str]:
    """Digests by function, or the error that says why there is no program."""
    target = targets.get(machine)
    seen: dict[str, str] = {}

    def see(functions: Mapping[str, Any], _target: Mapping[str, Any]) -> bytes:
        seen.update({name: sha256(function_text(f).encode()).hexdigest()[:16] for name, f in functions.items()})
        raise _SeenError

    try:
        if target.form == "hosted":
            with mock.patch("fxquant.targets.hosted.network.object_code_of", see):
                compile_graph(quantized, target, "model")
        else:
            with mock.patch("fxquant.targets.standalone.code.object_code_of", see):
                object_file(network(fxquant.integer_ports(quantized), target, "model"), target)
    except _SeenError:
        return seen
    except FxquantError as error:
        return {"refused": str(error).splitlines()[0]}
    raise AssertionError("no code was asked for")


def _differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> int:
    different = 0
    for key in sorted(before.keys() & after.keys()):
        old, new = before[key], after[key]
        changed = sorted(f for f in old.keys() | new.keys() if old.get(f) != new.get(f))
        if changed:
            different += 1
            print(f"{key}: {len(changed)} of {len(old)} functions differ: {', '.join(changed[:8])}")
    print(f"{different} of {len(before.keys() & after.keys())} programs differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
