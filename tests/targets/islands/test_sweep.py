"""Operators in float, compiled: all that were ever wrong, one of each family; benchmarks/islands.py has the rest."""

from __future__ import annotations

import pytest
import torch

with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    from tests.targets.islands import cases_core, cases_elements, cases_layers, cases_tensors
from tests.targets.islands.core import NOT_TRIED, core_operators, reached
from tests.targets.islands.sweep import outcome

ALL = {case.name: case for module in (cases_elements, cases_tensors, cases_layers, cases_core) for case in module.CASES}

EQUAL = """
    activation/gelu activation/elu activation/relu6 activation/selu activation/softshrink alpha/add
    alpha/both-broadcast alpha/rsub-number alpha/sub attention/is_causal avg-pool2/divisor avg-pool2/padded-ceil
    binary/floor_divide binary/fmax binary/maximum binary/ne binary/remainder bits/left-shift
    choose/written-by-mask clamp/wrong-way-round conv2/transposed-dilated conv3/settings distance/2
    divide/floor-integers grid/bilinear-zeros grid/nearest-border index/apart index/bag-mean index/below-zero
    index/pairs index/rows index/take integer/div max-pool1/dilated max-pool2/indices max-pool3/padded
    adaptive-max2/indices move/col2im-overlapping move/im2col move/select-last move/unfold
    norm1/instance-statistics norm2/group-plain norm3/batch norm3/batch-training norm/normalize norm/inf
    order/bucketize order/sort order/topk order/topk-values pad/circular power/0.5 product/mm-integers
    reduce-dim/any reduce-dim/cumsum reduce-dim/max reduce-dim/var_mean reduce/argmax resample2/bilinear-given
    resample2/nearest-given resample3/nearest-size resample2/bicubic unary/isfinite write/index-put-added
    write/scatter write/scatter-add write/slice core/full_like core/batch_norm-statistics core/sub-integers
""".split()
REFUSED = {
    "resample2/antialias": "bilinear2d_aa",
    "random/uniform": "gives random numbers",
    "type/brain-float": "torch.bfloat16",
    "algebra/svd": "aten.linalg_svd",
    "grid/bicubic-zeros": "aten.grid_sampler",
}


def test_every_core_operator_is_tried_or_it_is_said_why_not() -> None:
    """A new version of torch with another one in its core fails here."""
    core, tried = core_operators(), reached(ALL.values())
    assert core - tried == NOT_TRIED.keys()


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_compiled_is_what_torch_computes(name: str) -> None:
    found = outcome(ALL[name])
    assert (found.kind, found.reason) == ("equal", "")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused_by_name(name: str) -> None:
    found = outcome(ALL[name])
    assert found.kind == "refused"
    for word in (REFUSED[name], "cannot be compiled in float", ".py:", "Remedy:"):
        assert word in found.reason
