"""The comparison that the README's figures come from: int8 against float and int8 of the peers, one process each.

    python benchmarks/bench_models.py                             # ResNet-18, ResNet-50, MobileNetV2
    python benchmarks/bench_models.py unet vit_tiny --rounds 50   # other networks of tests/zoo
    python benchmarks/bench_models.py --cost                      # seconds and memory of quantizing and compiling
    python benchmarks/bench_models.py --output results.json       # the same, kept

`pip install "fxquant[bench]"` brings torchao, ONNX Runtime and OpenVINO; LiteRT takes part if it is installed. Times
are for batch 1, from float input to float output. Every round asks every peer once, in random order; the ratio printed
is the median over rounds of (time of the peer / time of fxquant in the same round). Run it on an idle machine: two
threads on two cores that others use measure the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.tools.bench import DEFAULT_NETWORKS, run_bench
from fxquant.tools.bench.tables import markdown, markdown_best


def main() -> None:
    """Parse the command line, measure, print, and keep the results if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(DEFAULT_NETWORKS), help="names in tests/zoo")
    parser.add_argument("--peer", action="append", default=[], help="only this one (may be repeated)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cost", action="store_true", help="what quantizing and compiling takes, instead")
    parser.add_argument("--profile", action="store_true", help="time per layer, instead")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--markdown", action="store_true", help="also print the best others, and all, as Markdown")
    parser.add_argument("--output", type=Path, help="also keep the results in this file, as JSON")
    given = parser.parse_args()
    results = run_bench(
        given.networks,
        given.peer,
        given.threads,
        given.rounds,
        given.json,
        cost=given.cost,
        profile=given.profile,
        output=given.output,
    )
    if given.markdown:
        print(markdown_best(results), markdown(results), sep="\n\n")


# Workers import this file again.
if __name__ == "__main__":
    main()
