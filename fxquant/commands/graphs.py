"""Graphs for commands: traced from a script, quantized on the way, or read from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxquant.commands import scripts
from fxquant.errors import CommandError, RecipeError
from fxquant.progress import working

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from fxquant.passmanager import Observe, Pass
    from fxquant.recipe import Recipe
    from fxquant.tools.effort import Effort

# How names of saved graphs end.
SUFFIX = ".fxgraph"


@dataclass(frozen=True)
class Wish:
    """What a command line says about quantizing."""

    model: str
    calibrate: str | None = None
    inputs: str | None = None
    recipe: str | None = None
    strict: bool = False
    batch_size: int = 32
    checkpoint: Path | None = None
    effort: Effort = "fast"


def traced(wish: Wish) -> GraphModule:
    """The FLOAT graph of a script's model; without `inputs` it is traced with the first of the calibration data."""
    from torch.export import ExportedProgram

    from fxquant import trace

    with working("tracing"):
        model = scripts.model(wish.model)
        if isinstance(model, ExportedProgram):
            return trace(model)
        if wish.inputs is None and wish.calibrate is not None:
            first = next(iter(scripts.calibration(wish.calibrate, 2)), None)
            if first is None:
                raise CommandError(f"{wish.calibrate} holds no samples")
            return trace(model, first)
        return trace(model, scripts.example(wish.inputs, wish.model))


def quantized(wish: Wish, graph: GraphModule | None = None, observe: Observe | None = None) -> GraphModule:
    """The INTEGER graph of a script's model, or the one that a .fxgraph file holds; `observe` sees every pass."""
    if is_stored(wish.model):
        if wish.calibrate is not None or wish.recipe is not None:
            raise CommandError(
                f"{wish.model} is quantized already: --calibrate and --recipe are for models in a script"
            )
        return loaded(wish.model)
    if not scripts.is_script(wish.model):
        raise CommandError(f"{wish.model!r} is neither script.py:attribute nor a .fxgraph file")
    from fxquant import calibrate, convert, prepare
    from fxquant.tools.effort import balanced, require_effort

    require_effort(wish.effort)
    wanted = recipe_of(wish)
    if wish.calibrate is None and wanted.needs_data:
        raise CommandError(f"{wish.model} is a float model: give --calibrate (.npy, .npz or script.py:attribute)")
    graph = traced(wish) if graph is None else graph
    data = scripts.calibration(wish.calibrate, _batch_size(graph, wish.batch_size)) if wish.calibrate else ()
    if wish.effort != "fast":
        return balanced(graph, data, wanted, checkpoint=wish.checkpoint, observe=observe, effort=wish.effort)

    def watching(doing: str, update: Callable[[str], None]) -> Observe:
        def seen(step: Pass, module: GraphModule) -> None:
            update(f"{doing}: {step.name}")
            if observe is not None:
                observe(step, module)

        return seen

    with working("preparing") as update:
        observed = prepare(graph, wanted, observe=watching("preparing", update))
    calibrate(observed, data, checkpoint=wish.checkpoint)
    with working("converting") as update:
        return convert(observed, observe=watching("converting", update))


def is_stored(name: str) -> bool:
    """Whether this is the name of a graph's file; CommandError for the one that it had in former versions."""
    if name.endswith(".pt2"):
        raise CommandError(f"{name}: graphs are kept in {SUFFIX} files now, .pt2 is not read; quantize again")
    return name.endswith(SUFFIX)


def loaded(path: str) -> GraphModule:
    """The INTEGER graph of a .fxgraph file."""
    from fxquant import load_graph

    if not Path(path).is_file():
        raise CommandError(f"there is no file {path}")
    with working(f"reading {path}"):
        return load_graph(path)


def recipe_data(file: str) -> dict[str, Any]:
    """The plain data of a recipe file, .json or .toml."""
    import json
    import tomllib

    path = Path(file)
    try:
        text = path.read_text()
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError as error:
        raise CommandError(f"there is no recipe {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CommandError(f"the recipe {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CommandError(f"the recipe {path} must be an object with keys, not {type(data).__name__}")
    return data


def recipe_of(wish: Wish) -> Recipe:
    """The recipe that the command line names."""
    from fxquant.tools.recipes import as_recipe

    name = wish.recipe
    if name is None or not name.endswith((".json", ".toml")):
        found = as_recipe(name)
    else:
        try:
            found = as_recipe(recipe_data(name))
        except RecipeError as error:
            raise RecipeError(f"{name}: {error}") from error
    return replace(found, strict=True) if wish.strict else found


def _batch_size(graph: GraphModule, wanted: int) -> int:
    """A graph that was traced with a static batch takes exactly that."""
    from fxquant.graph import placeholders

    sizes = [n.meta["val"].shape[0] for n in placeholders(graph.graph) if n.meta["val"].ndim]
    return sizes[0] if sizes and isinstance(sizes[0], int) else wanted
