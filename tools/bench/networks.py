"""What is measured: networks of the zoo, which lives beside the tests in a clone, or a user's own `script.py:model`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fxquant
from fxquant.array_files import read_arrays
from fxquant.errors import FxquantError

if TYPE_CHECKING:
    from torch import Tensor, nn

    Sample = tuple[Tensor, ...]

# Seeds of the zoo's evaluation samples count from 0, those of its calibration from here.
_CALIBRATION_SEED = 1000
EXAMPLE = "example_inputs"


@dataclass(frozen=True)
class Network:
    """A network by name, so that every process can build it for itself.

    `script` is empty for the zoo. A script's model is an `nn.Module` or a function that returns one. Its samples come
    from `data`: an .npy or .npz file with the samples along axis 0, or a `script.py:attribute` that gives inputs one by
    one; without it, from `example_inputs` beside the model. `small` asks the zoo for small inputs. A sample is `batch`
    inputs together.
    """

    name: str
    script: str = ""
    data: str = ""
    small: bool = False
    batch: int = 1

    @property
    def title(self) -> str:
        """How it is called in results."""
        name = f"{Path(self.script).name}:{self.name}" if self.script else self.name
        return name if self.batch == 1 else f"{name}, batch {self.batch}"

    def build(self) -> nn.Module:
        """The network in eval mode."""
        if self.script:
            from torch import nn

            model: nn.Module = _value(self.script, self.name, lambda found: isinstance(found, nn.Module))
        else:
            model = _zoo().build(self.name)
        return model.eval()

    def evaluation(self, count: int) -> list[Sample]:
        """At most `count` samples to run and compare on."""
        return self._several(self._own()[-count:]) if self.script else [self._seeded(seed) for seed in range(count)]

    def calibration(self, count: int) -> list[Sample]:
        """At most `count` samples to quantize with."""
        if self.script:
            return self._several(self._own()[:count])
        return [self._seeded(_CALIBRATION_SEED + seed) for seed in range(count)]

    def _seeded(self, seed: int) -> Sample:
        sample: Sample = _zoo().inputs(self.name, self.batch, seed, small=self.small)
        return sample

    def _several(self, samples: list[Sample]) -> list[Sample]:
        """Each sample as often as the batch has places."""
        return [tuple(t.repeat(self.batch, *[1] * (t.ndim - 1)) for t in sample) for sample in samples]

    def _own(self) -> list[Sample]:
        if not self.data:
            return [_as_sample(_value(self.script, EXAMPLE, _is_input))]
        script, colon, name = self.data.rpartition(":")
        if not colon:
            return _stored(self.data)
        found: Iterable[Any] = _value(script, name, lambda value: not callable(value))
        return [_as_sample(found)] if _is_input(found) else [_as_sample(sample) for sample in found]


def network(text: str, *, data: str = "", small: bool = False, batch: int = 1) -> Network:
    """The network that `text` names: one of the zoo, or `script.py:model`. Raises FxquantError if there is no such."""
    script, colon, name = text.rpartition(":")
    if colon:
        path = Path(script)
        if not path.is_file():
            raise FxquantError(f"there is no script {script} for the network {text}; give it as script.py:model")
        return Network(name, str(path.resolve()), data, batch=batch)
    zoo = _zoo()
    if text not in zoo.ZOO:
        raise FxquantError(f"no network {text!r}; the zoo has {', '.join(zoo.ZOO)}; give your own as script.py:model")
    return Network(text, small=small, batch=batch)


def _zoo() -> Any:
    """The package tests.zoo of the clone that this fxquant, or the current folder, belongs to."""
    for root in (Path(fxquant.__file__).resolve().parent.parent, Path.cwd()):
        if (root / "tests" / "zoo" / "__init__.py").is_file():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            from tests import zoo

            return zoo
    raise FxquantError("the zoo is not part of the installed package: run in a clone, or give script.py:model")


def _value(script: str, name: str, finished: Callable[[Any], bool]) -> Any:
    """An attribute of a script, called if it is not yet what is wanted."""
    module = _module(str(Path(script).resolve()))
    if not hasattr(module, name):
        raise FxquantError(f"{script} defines no {name!r}; the benchmark needs a model and its inputs (see --data)")
    found = getattr(module, name)
    return found if finished(found) or not callable(found) else found()


def _module(script: str) -> Any:
    name = f"fxquant_bench_{Path(script).stem}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, script)
        if spec is None or spec.loader is None:
            raise FxquantError(f"{script} is not a Python script")
        module = module_from_spec(spec)
        sys.path.append(str(Path(script).parent))
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def _stored(path: str) -> list[Sample]:
    import torch

    arrays = list(read_arrays(path).values())
    counts = {len(array) if array.ndim else 0 for array in arrays}
    if len(counts) != 1 or 0 in counts:
        raise FxquantError(f"{path} must hold arrays with equally many samples along axis 0, not {sorted(counts)}")
    return [tuple(torch.from_numpy(array[i : i + 1].copy()) for array in arrays) for i in range(counts.pop())]


def _is_input(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, (Tensor, tuple, Mapping))


def _as_sample(value: Any) -> Sample:
    """One sample of what may be a batch."""
    several = list(value.values()) if isinstance(value, Mapping) else value
    return tuple(tensor[:1] for tensor in (several if isinstance(several, (tuple, list)) else [several]))
