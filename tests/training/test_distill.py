"""Distillation: what is compared, where gradients go, what is left behind, and what errors say."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import DistillationError, TrainingError
from fxquant.training.distillation import difference, divergence
from tests.training.models import DATA, Mixed, few, traced, trained

X = DATA[0]
EVERY = ["norm", "add", "cat", "rows", "last"]


def plain() -> Mixed:
    """The model that `traced` is of."""
    model = Mixed()
    named = dict(traced().named_buffers()) | dict(traced().named_parameters())
    state = model.state_dict()
    model.load_state_dict({name: named.get(name.replace(".", "_"), named.get(name, v)) for name, v in state.items()})
    return model.eval()


def test_equal_logits_diverge_by_nothing_and_others_as_hinton_has_it() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, 3, generator=generator) * 4 for _ in range(2))
    assert float(divergence(teacher, teacher, 2.0, 1)) == 0.0
    for temperature in (1.0, 4.0):
        p, q = (torch.softmax(x.double() / temperature, 1) for x in (teacher, student))
        expected = temperature**2 * float((p * (p / q).log()).sum(1).mean())
        assert math.isclose(float(divergence(student, teacher, temperature, 1)), expected, rel_tol=1e-4)
    # Gradients by logits of a high temperature are those of squared differences, (s - t) / classes, centred.
    own = (student[..., 0] - student[..., 0].mean(1, keepdim=True)).requires_grad_()
    other = teacher[..., 0] - teacher[..., 0].mean(1, keepdim=True)
    divergence(own, other, 1e3, 1).backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None and torch.allclose(own.grad * 6, (own.detach() - other) / 5, rtol=0.02, atol=1e-2)


def test_a_difference_is_a_share_of_the_teacher() -> None:
    teacher = torch.tensor([3.0, -4.0])
    assert float(difference(teacher * 1.1, teacher)) == pytest.approx(0.01)
    assert float(difference(teacher * 110, teacher * 100)) == pytest.approx(0.01)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("live", [True, False])
def test_gradients_reach_the_student_only(exact: bool, live: bool) -> None:
    student, teacher = trained(4, 0, live), plain()
    student.exact = exact
    with fxquant.distill(student, teacher, ["norm", "rows", "last"]) as distilled:
        student(X)
        distilled.loss().backward()  # type: ignore[no-untyped-call]
    missing = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing and all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("exact", [True, False])
def test_values_are_what_integers_stand_for(exact: bool) -> None:
    """With 8 bits they are near the float graph's, and as near as the integer graph's own are said to be."""
    student = fxquant.prepare_qat(traced(), few(8), DATA, freeze_after=0, progress=False)
    student.exact = exact
    expected = student(X)
    with fxquant.distill(student, traced(), EVERY) as distilled:
        assert torch.equal(student(X), expected), "watching changes nothing"
        terms = distilled.terms()
    assert list(terms.points) == EVERY
    assert all(0.0 < float(term.detach()) < 1e-2 for term in terms.points.values())
    assert float(terms.points["last"]) == pytest.approx(float(difference(expected, traced()(X))))
    assert terms.logits is not None and float(terms.logits) < 1e-2


def test_a_teacher_may_be_a_module_a_graph_or_a_training_graph() -> None:
    student = trained(4, 0)
    found = []
    for teacher in (traced(), plain(), trained(8, 0)):
        with fxquant.distill(student, teacher, ["stem", "rows"]) as distilled:
            student(X)
            found.append(distilled.terms().points)
    # A layer that computes convolution and norm is compared with the norm, also by the convolution's name.
    for name in ("stem", "rows"):
        assert float(found[0][name]) == pytest.approx(float(found[1][name]), rel=1e-3)
        assert float(found[0][name]) == pytest.approx(float(found[2][name]), rel=0.3)


def test_a_module_learns_from_a_wider_one_by_names_of_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner, self.act, self.last = nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.act(self.inner(self.act(x)))
            return {"hidden": hidden, "logits": self.last(hidden)}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, teacher, x = Twice(6), nn.Sequential(Twice(6)), torch.randn(64, 4)
    distilled = fxquant.distill(student, teacher, {"act@1": "0.act@1"}, logits=lambda found: found["logits"])
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        student(x)
        losses.append(distilled.loss(logits=0.5))
        losses[-1].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(losses[-1].detach()) < 0.3 * float(losses[0].detach()), [float(x) for x in losses]


def test_a_teacher_that_trains_is_asked_in_eval_mode_and_left_as_it_was() -> None:
    student, teacher = trained(8, 0), plain().train()
    teacher.norm.eval()
    modes, before = [part.training for part in teacher.modules()], copy.deepcopy(teacher.state_dict())
    with fxquant.distill(student, teacher) as distilled:
        student(X)
        loss = distilled.loss()
    assert float(loss.detach()) < 0.1, "by running statistics"
    assert modes == [part.training for part in teacher.modules()]
    assert all(torch.equal(v, before[name]) for name, v in teacher.state_dict().items())


@pytest.mark.parametrize("teacher", [traced, plain], ids=["graph", "module"])
def test_nothing_is_left_when_closed(teacher: Any) -> None:
    def traces(model: nn.Module) -> list[Any]:
        parts = model.modules()
        return [(set(p.__dict__), len(p._forward_hooks), len(p._forward_pre_hooks)) for p in parts]

    student, taught = trained(4, 0), teacher()
    before = traces(student), traces(taught)
    with pytest.raises(ZeroDivisionError), fxquant.distill(student, taught, ["rows"]) as distilled:
        student(X)
        distilled.terms()
        assert torch.equal(fxquant.convert(student)(X), student(X)), "converted meanwhile"
        raise ZeroDivisionError
    assert (traces(student), traces(taught)) == before


def test_errors_say_what_to_do() -> None:
    student, graph = trained(4, 0), traced()

    def refused(match: str, *args: Any, **settings: Any) -> None:
        with pytest.raises(DistillationError, match=match) as caught:
            fxquant.distill(*args, **settings)
        assert isinstance(caught.value, TrainingError)

    refused("of the student's points: no value called 'ros'.*did you mean rows", student, graph, ["ros"])
    refused("of the teacher's points: .*mean norm.*pairs names", student, graph, {"rows": "norms"})
    refused("no module called 'add'.*fxq.trace.*pairs names", student, plain(), ["add"])
    refused(r"'rows' is of shape \(.*16\), the teacher's 'norm' of \(.*8, 8, 8\).*same shape", student, graph,
            {"rows": "norm"})  # fmt: skip
    refused("its own teacher.*deepcopy", student, student)
    refused("temperature=0 cannot be", student, graph, temperature=0)
    refused("neither logits nor points", student, graph, logits=None)
    refused("the teacher is list", student, [])
    refused("values are integers.*FLOAT", student, fxquant.convert(trained(4, 0)), ["rows"])
    with fxquant.distill(student, graph, ["rows"]) as distilled:
        refused("another distillation: close", student, graph, ["rows"])
        with pytest.raises(DistillationError, match="call it, with gradients on"):
            distilled.terms()
        with torch.no_grad():
            student(X)
        with pytest.raises(DistillationError, match="call it, with gradients on"):
            distilled.loss()


def test_other_classes_and_several_outputs_are_refused() -> None:
    student = nn.Linear(4, 3)
    for teacher, match in ((nn.Linear(4, 5), r"\(2, 3\), the teacher of \(2, 5\)"), (nn.LSTM(4, 3), "gives tuple")):
        with fxquant.distill(student, teacher) as distilled:
            student(torch.randn(2, 4))
            with pytest.raises(DistillationError, match=match):
                distilled.loss()
