"""From a PyTorch model to one canonical ATen-level `fx.GraphModule` with shapes and provenance: the FLOAT stage.

The model is exported by `torch.export` with a dynamic batch axis and its functional graph is rebuilt with the
parameters as attributes, so that the result is an ordinary GraphModule that runs. The user's model is never changed.
"""

from __future__ import annotations

import copy
import inspect
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import SequenceKey, tree_flatten_with_path, tree_leaves, tree_map, tree_unflatten

from fxquant import history, names
from fxquant.arguments import settle
from fxquant.errors import TraceError
from fxquant.functional import functional
from fxquant.graph import FxquantGraph, is_constant, placeholders
from fxquant.inlining import inline
from fxquant.kept import PARAMETERS
from fxquant.samples import mixing
from fxquant.source import describe
from fxquant.stage import Stage, set_stage

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def trace(
    model: nn.Module | fx.GraphModule | ExportedProgram, inputs: Inputs | None = None, *, dynamic_batch: bool = True
) -> fx.GraphModule:
    """Capture `model` as a FLOAT graph.

    `inputs` is an example: a tensor, a tuple of tensors, or a dict of keyword arguments (not needed for an
    ExportedProgram). With `dynamic_batch`, axis 0 of every input tensor is left free if the model allows it and
    computes every sample by itself; `graph.meta["fxq.batch"]` says what came out: "dynamic", or "static: <why>".

    Raises TraceError when the model cannot be captured (data-dependent control flow, a state that changes in forward),
    with torch's own explanation and the model's source line.
    """
    if isinstance(model, ExportedProgram):
        return _exported(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            f"{model.original_name} is a ScriptModule, whose Python is gone: trace the nn.Module that it was made from"
        )
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace takes an nn.Module, a GraphModule or an ExportedProgram, not {type(model).__name__}")
    if inputs is None:
        raise TraceError("trace needs example inputs: a tensor, a tuple or a dict, as forward() takes them")
    args, kwargs = _arguments(model, inputs)
    _check_arguments(model, args, kwargs)
    with _evaluating(model):
        found = _batched(model, args, kwargs) if dynamic_batch else "asked for"
        if isinstance(found, fx.GraphModule):
            return found
        try:
            return _rebuild(_export(model, args, kwargs, batch=False), f"static: {found}")
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} cannot be captured as one graph: {_explain(error)}\n"
                "Rewrite data-dependent control flow with tensor operations (torch.where, masks), or trace the part "
                "of the model that has none."
            ) from error


def _exported(program: ExportedProgram) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, met while it copies its own record
        own = copy.deepcopy(program)
    graph = _rebuild(functional(inline(own)), "as exported")
    shapes = [node.meta["val"].shape for node in placeholders(graph.graph)]
    examples = [leaf for leaf in tree_leaves(program.example_inputs or ()) if isinstance(leaf, Tensor)]
    if all(shape and isinstance(shape[0], torch.SymInt) for shape in shapes):
        reason = mixing(graph, examples)
        if reason is not None:
            raise TraceError(f"the program was exported with a free batch, but {reason}: export it with a fixed batch")
    return graph


def _batched(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule | str:
    """The graph with a free batch, or why there cannot be one."""
    try:
        examples = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not all(x.ndim for x in examples):
            return "an input without axes has no batch"
        graph = _rebuild(_export(model, args, kwargs, batch=True), "dynamic")
        return mixing(graph, examples) or graph
    except TraceError:
        raise
    except Exception as error:
        return _first_line(error)


def _arguments(model: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        # In the order of forward(), whatever the order in the dict: it becomes that of the graph's inputs.
        order = list(inspect.signature(model.forward).parameters)
        return (), dict(sorted(inputs.items(), key=lambda item: [*order, item[0]].index(item[0])))
    return tuple(inputs), {}


def _check_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The example must fit forward(): torch would call a label too many control flow."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = f"{len(args)} inputs" if args else f"the inputs {', '.join(kwargs) or '()'}"
        hint = "; of a loader's (image, label), give the image alone: batch[0]" if len(args) > 1 else ""
        raise TraceError(
            f"the example has {given}, forward{signature} of {type(model).__name__} {error}{hint}"
        ) from None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of the export, every module's own flag restored after."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: bool) -> ExportedProgram:
    shapes: Any = None
    if batch:
        # A batch of one would be baked in as a constant: trace with two.
        args, kwargs = tree_map(_wide, (args, kwargs))
        # By parameter, so that *args and nested inputs are free as well.
        shapes = tree_map(_free, dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, args, kwargs or None, dynamic_shapes=shapes, strict=False)
    inlined = inline(exported)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return functional(inlined)


def _wide(x: Any) -> Any:
    return torch.cat([x, x]) if isinstance(x, Tensor) and x.ndim and x.shape[0] == 1 else x


def _free(x: Any) -> Any:
    if isinstance(x, Tensor) and x.ndim:
        return {0: torch.export.Dim("batch", min=1)}
    return None


def _rebuild(exported: ExportedProgram, batch: str) -> fx.GraphModule:
    """The exported graph with parameters, buffers and constants as attributes instead of inputs."""
    signature, returned = exported.graph_signature, _returned(exported)
    lifted = {s.arg.name: s.target for s in signature.input_specs if s.kind != InputKind.USER_INPUT}
    tensors: dict[str, Any] = {**exported.state_dict, **exported.constants}
    graph, seen = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in lifted:
            copy = graph.get_attr(str(lifted[node.name]))
            copy.meta.update(node.meta)
        elif node.op == "output":
            kept = [seen[_tensor(n, number)] for number, n in enumerate(returned) if not _is_none(n, number)]
            if not kept:
                raise TraceError("the model returns no tensor: there is nothing to compute")
            graph.output(kept[0] if len(kept) == 1 else tuple(kept))
            continue
        elif node.op == "placeholder" and node.meta["val"] is None:
            continue
        else:
            _refuse_subgraphs(node)
            _refuse_inputs(node)
            copy = graph.node_copy(node, lambda n: seen[n])
            settle(copy)
            _refuse_sizes_of_data(copy)
        seen[node] = copy
    root = {str(name): _plain(tensors[name]) for name in lifted.values() if name in tensors}
    module = FxquantGraph(root, graph)
    module.meta["fxq.batch"] = batch
    # All are buffers here; training makes these parameters again.
    module.meta[PARAMETERS] = tuple(str(s.target) for s in signature.input_specs if s.kind is InputKind.PARAMETER)
    set_stage(module, Stage.FLOAT)
    history.begin(module)
    names.give(module, _output_names(exported, returned))
    return module


def _returned(exported: ExportedProgram) -> list[Any]:
    """What the model returns. State that is set to what it is, moved to the device where it lies, is not changed."""
    signature = exported.graph_signature
    own = {s.target: s.arg.name for s in signature.input_specs if s.kind == InputKind.BUFFER}
    values = list(zip(exported.graph.output_node().args[0], signature.output_specs, strict=True))
    changed = {
        str(spec.target)
        for value, spec in values
        if spec.kind != OutputKind.USER_OUTPUT and getattr(value, "name", "") != own.get(str(spec.target))
    }
    if changed:
        raise TraceError(_told(sorted(changed)))
    return [value for value, spec in values if spec.kind == OutputKind.USER_OUTPUT]


def _told(changed: list[str]) -> str:
    """What a model changes besides what it returns, and what to do about it."""
    remedy = "give the new value back as an output, and take it as an input the next time"
    if any(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed):
        remedy = "it follows the statistics of its batches: call .eval() on the model before it is exported"
    return f"the model changes its own state or inputs in forward ({', '.join(changed)}): {remedy}"


def _output_names(exported: ExportedProgram, returned: Sequence[Any]) -> list[str]:
    """Of every tensor returned: its key, or its place: 'output', 'output_1', 'logits', 'hidden_0'."""
    structure = exported.call_spec.out_spec
    if structure is None or structure.num_leaves != len(returned):
        return list(names.by_position(len(returned)))
    paths, _ = tree_flatten_with_path(tree_unflatten(range(len(returned)), structure))
    return [_joined(path) for (path, _), value in zip(paths, returned, strict=True) if isinstance(value, fx.Node)]


def _joined(path: Sequence[Any]) -> str:
    """A dictionary's key, an attribute's name and a place in a tuple all have their own class in torch."""
    words = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return "_".join(["output", *words] if not path or isinstance(path[0], SequenceKey) else words)


def _plain(tensor: Any) -> Any:
    # A buffer of our own: passes replace tensors, and the user's parameters must not be touched.
    return tensor.detach() if isinstance(tensor, Tensor) else tensor


def _is_none(returned: Any, number: int) -> bool:
    if returned is None:
        warnings.warn(f"output {number} of the model is None and is left out", stacklevel=4)
    return returned is None


def _tensor(returned: Any, number: int) -> fx.Node:
    if isinstance(returned, fx.Node) and isinstance(returned.meta["val"], Tensor):
        return returned
    what = "a size" if isinstance(returned, fx.Node) else repr(returned)
    raise TraceError(f"output {number} of the model is {what}, not a tensor: return tensors only")


def _refuse_inputs(node: fx.Node) -> None:
    if node.op != "placeholder":
        return
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        raise TraceError(
            f"input {node.target} is a {type(value).__name__}, not a tensor: fix it in a module around the model"
        )
    if value.dtype.is_floating_point and value.dtype is not torch.float32:
        raise TraceError(
            f"input {node.target} is {value.dtype}: quantization starts from float32; call .float() on model and inputs"
        )


def _refuse_subgraphs(node: fx.Node) -> None:
    if node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator):
        raise TraceError(
            f"control flow or a nested graph cannot be quantized: {describe(node)}. Trace the branches by themselves."
        )


def _refuse_sizes_of_data(node: fx.Node) -> None:
    """Numbers and shapes that values decide: no memory can be planned for them, unless the values are constants."""
    value, sources = node.meta.get("val"), node.all_input_nodes
    if not free_unbacked_symbols(value) or any(free_unbacked_symbols(n.meta.get("val")) for n in sources):
        return
    # An index, a mask or a count beside what is picked from.
    deciding = [n for n in sources if n is not node.args[0]] or sources
    if not isinstance(value, Tensor) or not all(map(is_constant, deciding)):
        raise TraceError(
            f"{describe(node)} makes a size or a number out of values, which differs from input to input: keep it a "
            "tensor (torch.where, a mask or a product instead of a selection or .item()), or trace the model without it"
        )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _is_of_packed(error: BaseException) -> bool:
    """Whether a recurrent layer was called with a packed sequence."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code.co_filename.endswith("modules/rnn.py") and isinstance(frame.f_locals.get("batch_sizes"), Tensor)
        for frame in frames
    )


def _explain(error: Exception) -> str:
    """Torch's first line, and the last of the user's own lines that it names."""
    if _is_of_packed(error):
        return (
            "a recurrent layer is called with a packed sequence, which has as many steps as its data say: call it with "
            "the padded tensor, and pick the last step of each sequence from its output (gather), or mask the rest"
        )
    own = [line.strip() for line in str(error).splitlines() if 'File "' in line and "/torch/" not in line]
    return _first_line(error) + (f"\n  {own[-1]}" if own else "")
