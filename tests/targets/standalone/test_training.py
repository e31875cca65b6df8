"""Training on the device: steps on every emulated machine leave the bytes that they leave in Python."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fxquant
from fxquant.errors import BudgetError
from fxquant.graph import placeholders
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from tests.targets.standalone.made import emulated
from tests.training.learners import IMAGES, LABELS, both, quantized

LEARNING = emulated("c", "cortex-m4", "cortex-m55", "riscv32imc", "x86-64")


@pytest.mark.parametrize("target", LEARNING)
def test_steps_are_those_of_python(target: Target) -> None:
    """The self-test makes three steps and a run: outputs and all bytes of the state."""
    made = standalone(fxquant.train_on_device(quantized("softmax"), ["head"], rate=0.5).graph, target, "net")
    run = emulate(made.files, "net", made.report, target)
    assert run.wrong == 0
    assert run.instructions is None or (run.step is not None and run.step > run.instructions)


@pytest.mark.parametrize("target", emulated("c"))
def test_biases_alone_and_several_ports(target: Target) -> None:
    for graph, layers in ((quantized(bits=4), ["head.bias"]), (both(), ["head"])):
        made = standalone(fxquant.train_on_device(graph, layers, rate=0.5).graph, target, "net")
        assert emulate(made.files, "net", made.report, target).wrong == 0


def test_the_selftest_finds_another_rate() -> None:
    """Code that learns a little faster leaves other bytes."""
    (case,) = emulated("c")
    (target,) = case.values
    assert isinstance(target, Target)
    made, other = (
        standalone(fxquant.train_on_device(quantized(), ["head"], rate=rate).graph, target, "net")
        for rate in (0.5, 0.5001)
    )
    mixed = {**made.files, "net_selftest.c": other.files["net_selftest.c"]}
    assert emulate(mixed, "net", made.report, target).wrong > 0


def _loaded(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("learner", folder / "learner.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="a shared library for Linux")
def test_the_library_learns_from_python(tmp_path: Path) -> None:
    """Forty steps by ctypes; what a caller can get wrong is a status, and changes nothing."""
    graph = quantized()
    fxquant.export(graph, "x86-64", tmp_path, name="learner", train=["head"], rate=0.25, progress=False)
    learner, training = _loaded(tmp_path), fxquant.train_on_device(graph, ["head"], rate=0.25)
    state, wanted = learner.train_init(), training.start()
    for i in range(40):
        x, label = IMAGES[i % 64], int(LABELS[i % 64])
        outputs, wanted = training.step(x[None], label, wanted)
        (found,) = learner.train_step(learner.quantize(x.numpy())[None], label=label, state=state)
        assert found.reshape(-1).tolist() == outputs[0].reshape(-1).tolist()
    held = state.tobytes()
    assert held.startswith(wanted["head_weight"].numpy().tobytes())
    plain = fxquant.integer_ports(training.trained(wanted))
    x = learner.quantize(IMAGES[3].numpy())
    assert learner.run(x[None], state=state)[0].tolist() == plain(torch.from_numpy(x)[None]).tolist()
    for label in (-1, 5):
        with pytest.raises(RuntimeError, match="the label is none of the classes"):
            learner.train_step(x[None], label=label, state=state)
    with pytest.raises(ValueError, match=f"the state is {len(held)} bytes"):
        learner.run(x[None], state=state[:-1])
    assert state.tobytes() == held
    library, out = learner._library, learner._aligned(16)
    places = x.ctypes.data, out.ctypes.data, state.ctypes.data + 1, learner._aligned(learner.ARENA).ctypes.data
    assert library.learner_run(*map(learner.ctypes.c_void_p, places)) == 5


def test_the_interface_is_told(tmp_path: Path) -> None:
    """Signatures, sizes and what a budget counts; without training nothing of it is there."""
    made = fxquant.export(quantized(), "cortex-m4", tmp_path, name="net", train=["head"], progress=False)
    header = str(made.files["net.h"])
    run, step = "int net_run(const int8_t *x, int8_t *output, const uint8_t *state, uint8_t *arena);", (
        "int net_train_step(const int8_t *x, int32_t label, int8_t *output, uint8_t *state, uint8_t *arena);"
    )  # fmt: skip
    assert run in header and step in header and "int net_train_init(uint8_t *state);" in header
    training = made.report["training"]
    assert training["classes"] == 5 and f"#define NET_STATE {training['state_bytes']} " in header
    # Weights of 3 bytes, biases of 5, each piece at a multiple of 16.
    assert training["state_bytes"] == 64 + 128 + 32 + 16
    ram = made.report["arena_bytes"] + training["state_bytes"] - 1
    with pytest.raises(BudgetError, match=rf"{training['state_bytes']} of state"):
        fxquant.export(quantized(), "cortex-m4", tmp_path, name="net", train=["head"], fits=f"ram={ram}")
    plain = fxquant.export(quantized(), "cortex-m4", tmp_path / "plain", name="net")
    told = str(plain.files["net.h"]).replace("no global state", "")
    assert plain.report["training"] is None and not re.search("state|train", told, re.IGNORECASE)


def test_hosted_code_takes_the_state_as_ports() -> None:
    """The same graph under the runtime, whose caller hands the state around: the same integers."""
    training = fxquant.train_on_device(quantized(), ["head"], rate=0.5)
    net = fxquant.compile(training.graph, target="native")
    plain, state = fxquant.integer_ports(quantized()), training.start()
    for i in range(3):
        outputs, following = training.step(IMAGES[i][None], i, state)
        x = placeholders(plain.graph)[0].meta["fxq.port"].quantize(IMAGES[i][None])
        found = net(x, torch.tensor([i], dtype=torch.int32), *state.values())
        assert all(torch.equal(a, b) for a, b in zip(found, [*outputs, *following.values()], strict=False))
        state = following
