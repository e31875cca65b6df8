"""Distillation: a student learns what a teacher gives, besides the labels, or in their place.

    logits    T^2 * KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al. 2015, "Distilling the Knowledge in a
              Neural Network"); the factor keeps its gradients as large as those of labels, whatever T is
    points    mean (student - teacher)^2 / mean teacher^2 of a layer's values (Romero et al. 2015, "FitNets: Hints for
              Thin Deep Nets"), so that layers of unlike size count alike

The values of a layer are real numbers on both sides: of a TRAINING graph what its integers stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import DistillationError
from fxquant.names import layer_of, layers_of
from fxquant.source import name_of
from fxquant.training.watch import GraphWatch, Watch, sizes, watch

Logits = Callable[[Any], Tensor]
Points = Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class Terms:
    """Terms of a loss, scalars: of the logits, where they are compared, and of each point by the student's name."""

    logits: Tensor | None
    points: dict[str, Tensor]


@dataclass(frozen=True)
class _Call:
    """What a call of the student was given and gave."""

    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Any
    values: dict[str, Tensor]


def whole(output: Any) -> Tensor:
    """The logits of a model that gives nothing else. Raises DistillationError for several results."""
    found = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]
    if isinstance(found, Tensor):
        return found
    raise DistillationError(
        f"a model gives {type(output).__name__}, and not logits alone: say which of it they are, for example by "
        "logits=lambda output: output[0], or compare points only by logits=None"
    )


def distill(
    student: nn.Module,
    teacher: nn.Module,
    points: Points = (),
    *,
    temperature: float = 4.0,
    logits: Logits | None = whole,
    axis: int = 1,
) -> Distillation:
    """What makes `student` like `teacher`, in one's own loop:

        distilled = fxq.distill(model, graph, points=["layer1", "layer2"])
        loss = cross_entropy(model(x), y) + distilled.loss()

    Both are modules, or graphs of any stage before INTEGER; the FLOAT graph that a TRAINING one was made of is its
    natural teacher. It gets the student's own inputs, is called in `eval()` mode, and without gradients.

    `points` are names of layers, as reports have them (of plain modules: their paths), or a mapping from the student's
    names to the teacher's. A layer that computes several of the teacher's, as a convolution with a folded norm, is
    compared with the last of them. `logits` takes what a model gives to a tensor of classes on `axis`; None for points
    only. Raises DistillationError for a teacher that does not match, with the nearest names.
    """
    return Distillation(student, teacher, points, temperature, logits, axis)


class Distillation:
    """A student, watched until `close` or the end of a `with` block, and its teacher; then nothing is left of it.

    Made by `distill`, which says what the arguments are.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        points: Points,
        temperature: float,
        logits: Logits | None,
        axis: int,
    ) -> None:
        _require_models(student, teacher)
        if not temperature > 0.0:
            raise DistillationError(f"temperature={temperature} cannot be: logits are divided by it; 1 to 20 are usual")
        self.temperature, self.logits, self.axis = float(temperature), logits, axis
        self.student, self.teacher = student, teacher
        names = [points] if isinstance(points, str) else list(points)
        if not names and logits is None:
            raise DistillationError("neither logits nor points are compared: name points, or leave logits as it is")
        own = watch(student, "student", names)
        self.pairs = dict(points) if isinstance(points, Mapping) else {name: _counterpart(own, name) for name in names}
        other = watch(teacher, "teacher", list(dict.fromkeys(self.pairs.values())))
        for name, called in self.pairs.items():
            _require_alike(name, own.sizes(name), called, other.sizes(called))
        self._call: _Call | None = None
        self._own, self._other = own, other
        own.open()

        # A function, and not a method: what is copied of the student (convert begins so) has it, and nothing of this.
        def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            # Without gradients somebody only looks how good the student is.
            if module is student and torch.is_grad_enabled():
                self._call = _Call(args, named, output, dict(own.values))

        self._hook: Any = student.register_forward_hook(note, with_kwargs=True)

    def terms(self) -> Terms:
        """The terms for the student's last call, each to be weighted as one likes.

        Raises DistillationError where the student was not called since the last time, and where shapes differ.
        """
        call, self._call = self._call, None
        if call is None:
            raise DistillationError(
                "there is no call of the student to compare: call it, with gradients on, before each terms() or loss()"
            )
        output, theirs = self._ask(call)
        points = {}
        for name, called in self.pairs.items():
            _require_alike(name, sizes(call.values[name]), called, sizes(theirs[called]))
            points[name] = difference(call.values[name], theirs[called])
        return Terms(None if self.logits is None else self._divergence(self.logits, call.output, output), points)

    def _ask(self, call: _Call) -> tuple[Any, dict[str, Tensor]]:
        """What the teacher gives for the same inputs, and its values at the points."""
        self._other.open()
        try:
            with torch.no_grad(), _evaluating(self.teacher):
                output = self.teacher(*call.args, **call.named)
            return output, dict(self._other.values)
        finally:
            self._other.close()

    def loss(self, logits: float = 1.0, points: float = 1.0) -> Tensor:
        """The sum of all terms of the student's last call, those of logits and of points by these factors."""
        terms = self.terms()
        parts = [points * term for term in terms.points.values()]
        if terms.logits is not None:
            parts.append(logits * terms.logits)
        return torch.stack(parts).sum()

    def _divergence(self, logits: Logits, own: Any, other: Any) -> Tensor:
        student, teacher = (x if isinstance(x, Tensor) else logits(x) for x in (own, other))
        if student.shape != teacher.shape:
            raise DistillationError(
                f"the student gives logits of shape {tuple(student.shape)}, the teacher of {tuple(teacher.shape)}: "
                "both must be of the same classes; say what of the outputs they are by logits=, or take logits=None"
            )
        return divergence(student, teacher, self.temperature, self.axis)

    def close(self) -> None:
        """Watch no more: student and teacher are as they were."""
        self._hook.remove()
        self._own.close()
        self._call = None

    def __enter__(self) -> Distillation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def divergence(student: Tensor, teacher: Tensor, temperature: float, axis: int) -> Tensor:
    """T^2 * KL(teacher || student) of logits at a temperature T, the mean over all but the axis of the classes."""
    own = torch.log_softmax(student.float() / temperature, axis)
    other = torch.log_softmax(teacher.float() / temperature, axis)
    return (other.exp() * (other - own)).sum(axis).mean() * temperature**2


def difference(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference as a share of the teacher's mean square."""
    size = teacher.float().square().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return (student.float() - teacher.float()).square().mean() / size


def _counterpart(own: Watch, name: str) -> str:
    """What the student's value `name` is in a FLOAT graph: the last of the operations that it computes."""
    if not isinstance(own, GraphWatch):
        return name
    node: fx.Node = own.named[name]
    layers = layers_of(node)
    return layers[-1] if layers else layer_of(node) if node.op != "placeholder" else name_of(node)


def _require_models(student: nn.Module, teacher: nn.Module) -> None:
    for role, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, nn.Module):
            raise DistillationError(f"the {role} is {type(model).__name__}: it must be a module, or a graph")
    if student is teacher:
        raise DistillationError(
            "the student is its own teacher, from whom it learns nothing: give the FLOAT graph, or a copy.deepcopy"
        )


def _require_alike(name: str, own: tuple[Any, ...] | None, called: str, other: tuple[Any, ...] | None) -> None:
    """Raise where the shapes of two values are known, and differ in more than what is free."""
    if own is None or other is None:
        return
    pairs = zip(own, other, strict=False)
    if len(own) != len(other) or any(a != b and not isinstance(a, str) and not isinstance(b, str) for a, b in pairs):
        raise DistillationError(
            f"the student's {name!r} is of shape {_shown(own)}, the teacher's {called!r} of {_shown(other)}: "
            "values are compared number by number; choose two of the same shape, by points={student's: teacher's}"
        )


def _shown(found: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, found))})"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In `eval()` mode meanwhile: else a teacher's norms would go by the batch, and move."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
