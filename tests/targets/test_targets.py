"""A target that cannot be is refused when it is made, by field, with what the field takes; names of LLVM when used."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant import targets
from fxquant.errors import TargetError
from fxquant.target import ISAS, Target, Toolchain
from fxquant.targets import TARGETS, register
from fxquant.targets.kernels.catalogue import CATALOGUE
from fxquant.targets.standalone.export import standalone

LINUX = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
# A target to start from, what is changed, and what is said.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("x86-avx2", {"isa": "avx3"}, r"isa is 'avx3': one of avx2, .* Did you mean 'avx2'\?"),
    ("x86-avx2", {"isa": ["avx2"]}, r"isa is \['avx2'\]: one of avx2"),
    ("x86-avx2", {"form": "dll"}, "form is 'dll': one of hosted, static, shared, sources"),
    ("x86-avx2", {"machine": "x86"}, r"machine is 'x86': one of .*Did you mean 'x86_64'"),
    ("x86-avx2", {"name": " "}, "name is ' ': a word"),
    ("x86-avx2", {"s8_bias": 0}, "isa 'avx2' keeps activations with s8_bias 128, and s8_bias is 0"),
    ("x86-avx2", {"isa": "scalar"}, r"isa 'scalar' gives static .* code, and form is 'hosted' \(isa: avx2, avxvnni"),
    ("x86-avx2", {"form": "static"}, "isa 'avx2' gives hosted code, and form is 'static'"),
    ("x86-avx2", {"machine": "aarch64"}, "isa 'avx2' is for the machine x86_64, and machine is 'aarch64'"),
    ("x86-avx2", {"tvm": "llvm -mcpu=haswell"}, "tvm is a str: a dictionary"),
    ("x86-avx2", {"tvm": {**LINUX, "kind": "lvm"}}, r"tvm's 'kind' is 'lvm': one of llvm, c\. Did you mean 'llvm'"),
    ("x86-avx2", {"tvm": {**LINUX, "mpcu": "haswell"}}, r"a key of tvm is 'mpcu': .*Did you mean 'mcpu'"),
    (
        "x86-avx2",
        {"tvm": {**LINUX, "mcpu": "x86-64"}},
        r"isa 'avx2' has instructions that the mcpu 'x86-64' lacks.*'\+avx2'",
    ),
    (
        "x86-avx2",
        {"tvm": {**LINUX, "mcpu": "x86-64-v3", "mattr": "+avx2"}},
        r"tvm's 'mattr' is '\+avx2': names, each by",
    ),
    (
        "x86-avx2",
        {"tvm": {"kind": "llvm", "mtriple": "foo-bar"}},
        "mtriple is 'foo-bar', and that of the machine 'x86_64' begins",
    ),
    (
        "x86-avx2",
        {"tvm": {"kind": "llvm"}},
        "tvm's mtriple is '', and that of the machine 'x86_64' begins with 'x86_64'",
    ),
    ("x86-avx2", {"tvm": {"kind": "c"}}, "tvm's kind 'c' is for the form 'sources' and only that"),
    ("x86-avx2", {"cpu_features": "avx2"}, "cpu_features is 'avx2': names, each by itself"),
    ("x86-64", {"toolchain": "gcc"}, r"toolchain is a str: a fxquant\.target\.Toolchain, or None"),
    (
        "cortex-m0",
        {"isa": "mve"},
        r"isa 'mve' has instructions that the mcpu 'cortex-m0' lacks: tvm's mcpu cortex-m52 or",
    ),
    ("cortex-m3", {"isa": "dsp"}, "isa 'dsp' has instructions that the mcpu 'cortex-m3' lacks"),
    (
        "aarch64-neon",
        {"isa": "dotprod"},
        r"isa 'dotprod' has instructions that the mcpu '' lacks: another mcpu, or '\+dotprod'",
    ),
    ("riscv64", {"isa": "rvv"}, r"isa 'rvv' has instructions that the mcpu 'generic-rv64' lacks: .*'\+v' among"),
    ("riscv64-rvv", {"isa": "mve"}, "isa 'mve' is for the machine arm, and machine is 'riscv64'"),
    ("c", {"form": "static"}, "kind is 'c', form is 'static'"),
]


@pytest.mark.parametrize(("name", "changes", "words"), WRONG)
def test_what_cannot_be_is_refused_when_it_is_made(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError, match=words) as error:
        replace(targets.get(name), **changes)
    assert "cannot be:" in str(error.value)


GOOD = targets.get("x86-64").__dict__
# Fields that are wrong by their names, and what is said.
WRONG_FIELDS: list[tuple[tuple[Any, ...], dict[str, Any], list[str]]] = [
    ((), {}, ["name is missing", "description is missing", "machine is missing", "isa is missing", "tvm is missing"]),
    (("mine", "what"), {"machine": "x86_64", "tvm": LINUX}, ["isa is missing"]),
    ((), {**GOOD, "mashine": "arm"}, ["a field is 'mashine': one of name, .* Did you mean 'machine'"]),
    (("mine",), GOOD, ["name is given twice"]),
    (("x",) * 12, {}, ["there are 12 values for 10 fields: name, description"]),
    ((), {**GOOD, "description": None, "recipe": 7}, ["description is None: text", "recipe is 7: text"]),
    ((), {**GOOD, "cpu_features": None}, ["cpu_features is None: names, each by itself"]),
    ((), {**GOOD, "tvm": {**LINUX, "mattr": 5, "mcpu": 5}}, ["'mcpu' is 5: text", "'mattr' is 5: names"]),
    ((), {**GOOD, "tvm": {"kind": "llvm", "mtriple": None}}, ["'mtriple' is None: text"]),
]


@pytest.mark.parametrize(("values", "named", "words"), WRONG_FIELDS)
def test_fields_that_are_missing_or_unknown(values: tuple[Any, ...], named: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TargetError) as error:
        Target(*values, **named)
    assert all(re.search(told, str(error.value)) for told in words) and "cannot be:" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "compiler is missing"),
        ({"compiler": "gcc", "flags": "-O2"}, "flags is '-O2': names, each by itself"),
        ({"compiler": None, "machine": "cortexm"}, r"compiler is None: .*\n.*Did you mean 'cortex-m'"),
    ],
)
def test_a_toolchain_is_refused_as_well(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        Toolchain(**fields)


def test_a_target_knows_the_instruction_sets_that_there_are_kernels_for() -> None:
    assert set(ISAS) == set(CATALOGUE)
    assert all(target.s8_bias == ISAS[target.isa].s8_bias for target in TARGETS.values())


# Names of LLVM's: a CPU for whose name it would take another one without a word, a feature that it would ignore.
UNKNOWN = [
    (
        "cortex-m3",
        {"mcpu": "cortex-m9"},
        r"LLVM knows no mcpu 'cortex-m9' for the mtriple 'thumbv7m-none-eabi'; .*cortex-m3",
    ),
    ("x86-64", {"mattr": ["+avx99"]}, r"LLVM knows no feature '\+avx99' \(mattr\) for the mtriple 'x86_64-linux-gnu'"),
    ("cortex-m3", {"vector-width": "wide"}, r"TVM takes no target \{.*'vector-width': 'wide'"),
]


@pytest.mark.parametrize(("name", "changes", "words"), UNKNOWN)
def test_names_that_llvm_does_not_know(name: str, changes: dict[str, Any], words: str) -> None:
    target = targets.get(name)
    wrong = replace(target, form="static", tvm={**target.tvm, **changes})
    x = torch.randn(2, 4)
    quantized = fxquant.quantize(fxquant.trace(nn.Linear(4, 3).eval(), x), [x], progress=False)
    with pytest.raises(TargetError, match=words):
        standalone(fxquant.integer_ports(quantized), wrong, "net")


def test_a_name_stands_for_one_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "TARGETS", dict(TARGETS))
    mine = replace(targets.get("x86-64"), name="mine")
    assert register(mine) is register(mine) is targets.get("mine")
    other = replace(mine, description="another one")
    for taken in (other, replace(mine, name="cortex-m4"), replace(mine, name="native")):
        with pytest.raises(TargetError, match=rf"a target is called '{taken.name}' already"):
            register(taken)
    assert register(other, replaces=True) is targets.get("mine")
    with pytest.raises(TargetError, match=r"register takes a fxquant\.Target, not 'mine'"):
        register("mine")  # type: ignore[arg-type]


def test_every_target_of_ones_own_may_be_made_from_another() -> None:
    for target in TARGETS.values():
        assert Target(**{**target.__dict__, "name": "copy"}).isa == target.isa
