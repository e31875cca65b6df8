"""What a user types: quantize, compile, save, load; everything else is the rooms behind it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx, nn

from fxquant import passes, training
from fxquant.batches import Transform, repeatable, transformed
from fxquant.calibration import calibrate
from fxquant.choices import CHOICES
from fxquant.errors import RecipeError, StageError, TargetError
from fxquant.graph_file import read_graph, write_graph
from fxquant.passmanager import Observe, Pipeline
from fxquant.runtime.model import CompiledModel
from fxquant.runtime.storage import runs_here
from fxquant.stage import Stage, stage_of
from fxquant.target import Target
from fxquant.tools.accuracy_target import Metric, quantize_within
from fxquant.tools.auto import settled
from fxquant.tools.effort import Effort, balanced, require_effort
from fxquant.tools.recipes import AnyRecipe, as_recipe
from fxquant.training import TrainingGraph
from fxquant.training.device import DEVICE_RATE, DeviceTraining

if TYPE_CHECKING:
    from fxquant.runtime.artifact import Artifact
    from fxquant.targets.standalone.export import Standalone


def quantize(
    graph: fx.GraphModule,
    calibration: Iterable[Any] = (),
    *,
    recipe: AnyRecipe = None,
    transform: Transform | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    observe: Observe | None = None,
    effort: Effort = "fast",
    accuracy_target: float | None = None,
    metric: Metric | None = None,
) -> fx.GraphModule:
    """A FLOAT graph as an INTEGER one: prepare, calibrate, convert.

    `calibration` is any iterable of inputs, or of what `transform` makes inputs of (see `calibrate`), needed unless all
    ranges are found at run time; `recipe` the schemes and exceptions: a Recipe, plain data, the name of a recipe, or
    "native" for the one that suits this CPU. "auto" chooses for each layer between a fixed range and one of run time,
    and `report` tells why. `observe(pass, graph)` is called after every pass. `graph` itself is not changed.

    `effort="balanced"` also fits ranges, equalizes layers, keeps some values in 16 bits and corrects biases, as far as
    the outputs are better for it on calibration inputs that none of it was fitted to; it goes over `calibration`
    several times. `effort="max"` also looks for better integers for the weights, which few bits need. What was gained,
    `report` tells.

    With `accuracy_target`, `metric` gives the worth of a graph, FLOAT or INTEGER, such as its accuracy in percent; the
    first of several efforts that loses no more than the target is taken (`fxquant.tools.accuracy_target`). Raises
    AccuracyTargetError, with what was tried and why it is not enough, where none does.
    """
    wanted = as_recipe(recipe)
    require_effort(effort)
    if wanted.auto:
        wanted, choices = settled(graph, calibration, wanted, transform=transform, progress=progress)
        found = quantize(
            graph, calibration, recipe=wanted, transform=transform, progress=progress, checkpoint=checkpoint,
            observe=observe, effort=effort, accuracy_target=accuracy_target, metric=metric,
        )  # fmt: skip
        found.meta[CHOICES] = choices
        return found
    if (accuracy_target is None) != (metric is None):
        raise RecipeError("accuracy_target and metric go together: what may be lost, and what tells it")
    if accuracy_target is not None and metric is not None:
        data = repeatable(transformed(calibration, transform))
        return quantize_within(graph, data, wanted, accuracy_target, metric, progress=progress)
    if effort != "fast":
        data = transformed(calibration, transform)
        settings: dict[str, Any] = {"progress": progress, "checkpoint": checkpoint, "observe": observe}
        return balanced(graph, data, wanted, effort=effort, **settings)
    observed = prepare(graph, wanted, observe=observe)
    calibrate(observed, calibration, transform=transform, progress=progress, checkpoint=checkpoint)
    return convert(observed, observe=observe)


def prepare(graph: fx.GraphModule, recipe: AnyRecipe = None, *, observe: Observe | None = None) -> fx.GraphModule:
    """A FLOAT graph as an OBSERVED one, ready for `calibrate`."""
    return prepare_pipeline(recipe)(graph, observe)


def convert(module: fx.GraphModule, *, observe: Observe | None = None) -> fx.GraphModule:
    """A calibrated OBSERVED graph as an INTEGER one, by the recipe that `prepare` was given; or a TRAINING one.

    Raises TrainingError for a graph whose batch norms are still live, or whose parameters are no numbers any more.
    """
    pipeline = passes.convert_trained() if stage_of(module) is Stage.TRAINING else convert_pipeline()
    return pipeline(module, observe)


def prepare_qat(
    graph: fx.GraphModule,
    recipe: AnyRecipe = None,
    calibration: Iterable[Any] = (),
    *,
    transform: Transform | None = None,
    exact: bool = True,
    freeze_after: int | None = None,
    progress: bool = True,
    observe: Observe | None = None,
) -> TrainingGraph:
    """A FLOAT graph, or an OBSERVED one that is calibrated, as a module to be trained in any loop.

    Its forward pass computes what the INTEGER graph will compute that `convert` makes of it; its backward pass is
    straight-through, with learned steps. `calibration` (see `calibrate`) is where the steps start from. With
    `exact=False`, training mode rounds in float instead, which takes less time and is not quite what is deployed; set
    `model.exact = True` for the last epochs. Batch norms go by the statistics of their batches for `freeze_after`
    steps, or until `freeze_norms`; then they are folded, and trained on.

    Raises TrainingError for ranges that are found at run time, StageError for a graph of another stage.
    """
    if stage_of(graph) is Stage.OBSERVED:
        if recipe is not None:
            raise StageError("this graph is prepared by a recipe already: give recipes with a FLOAT graph only")
        observed = graph
    else:
        observed = prepare(graph, recipe, observe=observe)
        calibrate(observed, calibration, transform=transform, progress=progress)
    made = passes.train(exact, freeze_after)(observed, observe)
    assert isinstance(made, TrainingGraph)  # InsertSteps gives one
    return made.train()


def change_bits(model: TrainingGraph, recipe: AnyRecipe) -> None:
    """Round by the codes that `recipe` asks for from now on, in place: 8 bits, then 4, then 2, training in between.

    Ranges stay, steps become coarser; weights below 8 bits start anew from their mean. The optimizer may be the same.
    Raises TrainingError where values that share a range would have several kinds of codes.
    """
    training.change_bits(model, as_recipe(recipe))


def prepare_pipeline(recipe: AnyRecipe = None) -> Pipeline:
    """The passes of `prepare`, to slot one's own in: `.before(name, pass)`, `.after(name, pass)`."""
    return passes.prepare(as_recipe(recipe))


def convert_pipeline() -> Pipeline:
    """The passes of `convert`."""
    return passes.convert()


def compile(
    quantized: fx.GraphModule,
    target: str | Target | Sequence[str | Target] = "native",
    *,
    name: str = "model",
    threads: int | None = None,
    tune: float = 0.0,
    tiles: str | os.PathLike[str] | None = None,
    progress: bool = True,
    against_float: bool = True,
) -> CompiledModel:
    """Machine code for an INTEGER graph, ready to call; for another machine than this one, ready to be saved.

    Several targets, the best first, go into one file, and a CPU loads the first that it has the instructions of.

    With `against_float` it is timed beside PyTorch's float32 for a moment, and a warning tells if it is slower, with
    the layers responsible; see `fxquant.tools.speed`.

    With `tune`, so many minutes go into measuring kernels and tiles on this CPU, with one thread. What is found is kept
    in the file `tiles`, or in the cache if none is named, and layers that are known there are not measured again.
    Without `tune`, `tiles` is only read. Raises TargetError for an unknown target and a file that is no database of
    tiles, StageError for a graph that is not INTEGER, LoweringError for an operation without code.
    """
    wanted = [target] if isinstance(target, str | Target) else list(target)
    if not wanted:
        raise TargetError("compile takes a target, or several of them, and got none")
    made = [compile_artifact(quantized, one, name, tune=tune, tiles=tiles, progress=progress) for one in wanted]
    here = next((number for number, artifact in enumerate(made) if runs_here(artifact)), None)
    if against_float and here is not None:
        from fxquant import targets
        from fxquant.tools.speed import measure_speed

        speed = measure_speed(quantized, made[here], targets.get(wanted[here]))
        if speed is not None and speed.is_slower:
            warnings.warn(f"{name} is {speed}", stacklevel=2)
    return CompiledModel(made[here or 0], threads, parts=made, elsewhere=here is None)


def compile_artifact(
    quantized: fx.GraphModule,
    target: str | Target,
    name: str,
    *,
    tune: float = 0.0,
    tiles: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Artifact:
    """Like `compile`, but what would be saved, also for a target that this machine is not."""
    from fxquant import targets
    from fxquant.targets.hosted.compiler import compile_graph
    from fxquant.targets.kernels.choosing import Choose, modelled
    from fxquant.tools.view.compiled import graph_records

    choose: Choose = modelled
    if tune or tiles is not None:
        from fxquant.tools.tuning import timed

        choose = timed(quantized, targets.get(target), tune, tiles, progress=progress)
    artifact = compile_graph(quantized, targets.get(target), name, choose)
    # The graph goes along as records, so that the file alone can be looked at.
    return replace(artifact, report={**artifact.report, "graph": graph_records(quantized)})


def export(
    quantized: fx.GraphModule,
    target: str | Target,
    out: str | os.PathLike[str],
    *,
    name: str = "model",
    emit: Literal["library", "c"] = "library",
    fits: str | None = None,
    measure: bool = False,
    tune: bool = False,
    train: Sequence[str] = (),
    rate: float = DEVICE_RATE,
    progress: bool = True,
) -> Standalone:
    """An INTEGER graph as a folder of C without a runtime: header, library or sources, golden vectors, report.json.

    `name` begins every C name; `emit="c"` gives C99 sources in place of a library; `fits`, for example
    "flash=256k,ram=64k", refuses a model that needs more. `measure` runs it under emulation first, so that the report
    tells instructions by layer and the depth of the stack, and `ram` counts that, too. `tune` searches the tiles of
    convolutions and linear layers under emulation, for the fewest instructions, and keeps what it found; `progress`
    shows how far it is. `train`, the name of the last linear layer or of its bias ("classifier.bias"), also gives
    `<name>_train_step`, which learns on the device with this learning `rate`: see `train_on_device`. Nothing is written
    where anything fails. Raises StageError, TargetError, LoweringError for float operations, TrainingError for layers
    that cannot be trained so, BudgetError, EmulationError, ArtifactWriteError.
    """
    from fxquant import targets
    from fxquant.targets.kernels.choosing import Choose, modelled
    from fxquant.targets.standalone.budget import budget, require_fits
    from fxquant.targets.standalone.export import standalone
    from fxquant.targets.standalone.folder import write_files

    if stage_of(quantized) is not Stage.INTEGER:
        raise StageError(f"export needs an INTEGER graph, this one is {stage_of(quantized)}: quantize it first")
    found, limits = targets.get(target), budget(fits) if fits else {}
    plain = train_on_device(quantized, train, rate=rate).graph if train else integer_ports(quantized)
    choose: Choose = modelled
    if tune:
        from fxquant.tools.tuning import counted

        if emit == "c":
            raise TargetError("C sources are plain loops, which have no tiles to tune: leave tune or emit away")
        choose = counted(plain, found, progress=progress)
    made = standalone(plain, found, name, sources=emit == "c", choose=choose)
    if measure:
        from fxquant.tools.emulate.measured import measured

        made = measured(made, plain, choose)
    require_fits(made.report, limits)
    write_files(Path(out), made.files)
    return made


def train_on_device(quantized: fx.GraphModule, layers: Sequence[str], *, rate: float = DEVICE_RATE) -> DeviceTraining:
    """What `export(quantized, ..., train=layers)` computes on the device, here: steps of training, in integers.

    `layers` names the last linear layer, its weight ("classifier.weight") or its bias. A step is one of gradient
    descent with the learning rate `rate` on the cross-entropy of one sample; what it is too small to change is kept for
    the next one. Raises StageError, TrainingError for layers that cannot be trained so, with what to do about it.
    """
    _require_integer(quantized)
    plain = integer_ports(quantized)
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    return DeviceTraining(quantized, passes.TrainOnDevice(names, rate)(plain))


def integer_ports(quantized: fx.GraphModule) -> fx.GraphModule:
    """An INTEGER graph that takes and gives integers, as standalone code computes it; see the pass IntegerPorts."""
    return passes.IntegerPorts()(quantized)


def save_graph(module: fx.GraphModule, path: str | os.PathLike[str]) -> None:
    """Write an INTEGER graph to a file (.fxg), with its ranges and their reasons: see docs/graph-file.md.

    The file is there in full or as it was. Raises StageError for another graph, GraphFileError when the file cannot be
    written.
    """
    _require_integer(module)
    write_graph(module, path)


def export_program(module: fx.GraphModule) -> torch.export.ExportedProgram:
    """An INTEGER graph as an ExportedProgram, with a free batch where the graph has one."""
    from fxquant.graph import placeholders

    _require_integer(module)
    nodes = placeholders(module.graph)
    inputs, shapes = [], []
    for node in nodes:
        value = node.meta["val"]
        free = value.ndim > 0 and isinstance(value.shape[0], torch.SymInt)
        sizes = [2 if isinstance(n, torch.SymInt) else int(n) for n in value.shape]
        inputs.append(torch.zeros(sizes, dtype=value.dtype))
        shapes.append({0: torch.export.Dim("batch", min=1)} if free else None)
    wrapper = _Flat(module)
    return torch.export.export(wrapper, tuple(inputs), dynamic_shapes=(tuple(shapes),), strict=False)


class _Flat(nn.Module):
    """The graph behind a forward with plain positional inputs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = module

    def forward(self, *inputs: Any) -> Any:
        """Run the graph."""
        return self.graph_module(*inputs)


def load_graph(path: str | os.PathLike[str]) -> fx.GraphModule:
    """Read an INTEGER graph that `save_graph` wrote; it runs, compiles, compares and is explained like the original.

    Nothing in the file can run: see `fxquant.graph_file`. Raises GraphFileError for a missing, damaged or foreign file.
    """
    return read_graph(path)


def _require_integer(module: fx.GraphModule) -> None:
    if stage_of(module) is not Stage.INTEGER:
        raise StageError(f"only an INTEGER graph is saved or trained so, this one is {stage_of(module)}")
