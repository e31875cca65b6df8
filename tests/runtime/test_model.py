"""Calling a compiled model: values, kinds of input, and bad input by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fxquant.errors import InputError, ObjectCodeError, WrongMachineError
from fxquant.runtime import CompiledModel, Port, load
from fxquant.runtime.binding import array_address
from tests.runtime.objects import COLUMNS, ROWS, mirror, mirrored, pair, prepared
from tests.runtime.tiny_elf import TEXT, tiny_object


def samples(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.random.default_rng(seed).integers(-1000, 1000, (count, ROWS, COLUMNS), dtype=np.int32)


@pytest.fixture(params=[1, 2, 3])
def model(request: pytest.FixtureRequest) -> CompiledModel:
    return CompiledModel(mirror(), threads=request.param)


@pytest.mark.parametrize("count", range(8))
def test_every_batch_size(model: CompiledModel, count: int) -> None:
    x = samples(count, count)
    y = model(x)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, mirrored(x))


def test_the_result_is_new_memory(model: CompiledModel) -> None:
    first, second = samples(1, 1), samples(1, 2)
    y = model(first)
    model(second)
    np.testing.assert_array_equal(y, mirrored(first))


@pytest.mark.parametrize("threads", [1, 2])
def test_weights_are_expanded_on_loading(threads: int, tmp_path: Path) -> None:
    x = samples(3)
    with CompiledModel(prepared(), threads) as compiled:
        np.testing.assert_array_equal(compiled(x), mirrored(x))
        path = compiled.save(tmp_path / "model.fxq")
    with load(path, threads) as loaded, load(path, threads) as again:
        np.testing.assert_array_equal(loaded(x), mirrored(x))
        np.testing.assert_array_equal(again(x), mirrored(x))
        assert "weights 16.0 KiB" in repr(loaded) and "weights in memory 0.1 KiB" in repr(loaded)
        # What was mapped and given back is still there.
        assert loaded.save(tmp_path / "copy.fxq").read_bytes() == path.read_bytes()


def test_weights_at_any_address_are_expanded() -> None:
    weights, x = memoryview(bytes(1) + bytes(range(COLUMNS)))[1:], samples(1)
    np.testing.assert_array_equal(CompiledModel(prepared(weights=weights), threads=1)(x), mirrored(x))


def test_code_that_cannot_expand_is_refused() -> None:
    with pytest.raises(ObjectCodeError, match="prepare"):
        CompiledModel(mirror(resident_bytes=64), threads=1)


def test_several_inputs_and_outputs() -> None:
    a, b = np.arange(8, dtype=np.int32)[None], np.array([[[-1, 0], [1, 2]]], np.float32)
    doubled, grown = CompiledModel(pair(), threads=1)(a, b)
    np.testing.assert_array_equal(doubled, 2 * a)
    np.testing.assert_allclose(grown, np.exp(b).reshape(1, 4) + 0.5, rtol=1e-6)


def test_several_ports_step_through_a_batch() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-99, 99, (5, 8), dtype=np.int32), rng.normal(size=(5, 2, 2)).astype(np.float32)
    doubled, grown = CompiledModel(pair(batched=True), threads=2)(a, b)
    np.testing.assert_array_equal(doubled, 2 * a)
    np.testing.assert_allclose(grown, np.exp(b).reshape(5, 4) + 0.5, rtol=1e-6)


def test_tensors_in_tensors_out(model: CompiledModel) -> None:
    x = torch.from_numpy(samples(3))
    y = model(x)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == torch.int32
    np.testing.assert_array_equal(y.numpy(), mirrored(x.numpy()))


def test_a_tensor_among_arrays_gives_tensors() -> None:
    a, b = np.zeros((1, 8), np.int32), torch.zeros((1, 2, 2), requires_grad=True)
    doubled, grown = CompiledModel(pair(), threads=1)(a, b)
    assert isinstance(doubled, torch.Tensor)
    assert isinstance(grown, torch.Tensor)
    assert not grown.requires_grad
    assert (grown == 1.5).all()


def strange_layouts() -> dict[str, Any]:
    x = samples(2, 5)
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.int32).reshape(x.shape)
    frozen = x.copy()
    frozen.flags.writeable = False
    return {
        "transposed": (np.ascontiguousarray(x.transpose(2, 1, 0)).transpose(2, 1, 0), x),
        "reversed": (x[::-1], x[::-1].copy()),
        "broadcast": (np.broadcast_to(x[:1], (3, ROWS, COLUMNS)), np.repeat(x[:1], 3, 0)),
        "misaligned": (misaligned, x),
        "read-only": (frozen, x),
        "transposed tensor": (torch.from_numpy(x.transpose(0, 2, 1).copy()).transpose(1, 2), x),
        "one channel last": (torch.from_numpy(x)[:, :, None, :].squeeze(2), x),
    }


def test_addresses_are_numpy_s_own() -> None:
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    for array in (np.zeros((4, 5))[1:, 2:], frozen, np.zeros(0), np.array(1.0), np.zeros(3).view(np.recarray)):
        assert array_address(array) == array.__array_interface__["data"][0]


@pytest.mark.parametrize("layout", strange_layouts())
def test_any_memory_layout(model: CompiledModel, layout: str) -> None:
    given, same = strange_layouts()[layout]
    np.testing.assert_array_equal(np.asarray(model(given)), mirrored(same))


BAD = {
    "count": ((samples(1), samples(1)), r"takes 1 inputs \(x\), got 2"),
    "none": ((), "got 0"),
    "list": (([[1, 2]],), "input 'x' of model 'mirror' is a list; pass a numpy array or a torch tensor"),
    "int64": ((samples(1).astype(np.int64),), "is int64, not int32; convert it explicitly"),
    "byte order": ((samples(1).astype(">i4"),), "is >i4, not int32"),
    "rank": ((samples(1)[0],), r"has shape \(16, 32\), not \(N, 16, 32\)"),
    "shape": ((samples(1)[:, :, 1:],), r"has shape \(1, 16, 31\), not \(N, 16, 32\)"),
    "float tensor": ((torch.zeros(1, ROWS, COLUMNS),), r"is torch\.float32, not torch\.int32"),
    "tensor shape": ((torch.zeros(2, 3, dtype=torch.int32),), r"has shape \(2, 3\)"),
    "device": ((torch.zeros(1, ROWS, COLUMNS, dtype=torch.int32, device="meta"),), "tensor on meta; pass a dense"),
    "sparse": ((torch.zeros(1, ROWS, COLUMNS, dtype=torch.int32).to_sparse(),), "sparse_coo tensor on cpu"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    inputs, message = BAD[case]
    with pytest.raises(InputError, match=message):
        CompiledModel(mirror(), threads=1)(*inputs)


def test_batch_sizes_must_agree() -> None:
    a, b = np.zeros((2, 8), np.int32), np.zeros((3, 2, 2), np.float32)
    with pytest.raises(InputError, match="input 'b' of model 'pair' has 3 samples, the inputs before it 2"):
        CompiledModel(pair(batched=True), threads=1)(a, b)
    with pytest.raises(InputError, match=r"has shape \(2, 8\), not \(1, 8\)"):
        CompiledModel(pair(), threads=1)(a, b)


def test_save_and_load(tmp_path: Path) -> None:
    path = CompiledModel(mirror(), threads=1).save(tmp_path / "mirror.fxq")
    with load(path, threads=2) as copy:
        np.testing.assert_array_equal(copy(samples(3)), mirrored(samples(3)))
        assert copy.report == {"layers": ["add", "flip"]}
        assert (copy.name, copy.threads) == ("mirror", 2)
        assert copy.inputs == (Port("x", "int32", (1, ROWS, COLUMNS)),)
        copy.save(path)  # over the file that its own weights are mapped from
        np.testing.assert_array_equal(copy(samples(1)), mirrored(samples(1)))
    np.testing.assert_array_equal(load(path, threads=1)(samples(1)), mirrored(samples(1)))


def test_repr_tells_ports_sizes_and_target() -> None:
    model = CompiledModel(mirror(), threads=1)
    assert repr(model).splitlines()[:3] == [
        "CompiledModel 'mirror' for x86_64 (avx2), 1 thread",
        "  in  x: int32[N, 16, 32]",
        "  out y: int32[N, 16, 32], 0.5 * (q - -3), q in [-128, 127]",
    ]
    assert "weights 0.1 KiB, arena 2.0 KiB, scratch 0.2 KiB" in repr(model)
    assert "in  a: int32[1, 8]" in repr(CompiledModel(pair(), threads=2))


def test_models_for_elsewhere_are_refused() -> None:
    with pytest.raises(WrongMachineError, match="model 'mirror' is compiled for aarch64"):
        CompiledModel(mirror(machine="aarch64"))
    with pytest.raises(ObjectCodeError, match="no symbol 'run'; it has f"):
        CompiledModel(mirror(code=tiny_object(b"\xc3", {"f": (TEXT, 0)}, [])))
    with pytest.raises(InputError, match="got 0 threads"):
        CompiledModel(mirror(), threads=0)


def test_running_needs_neither_torch_nor_tvm(tmp_path: Path) -> None:
    path = CompiledModel(mirror(), threads=1).save(tmp_path / "mirror.fxq")
    script = (
        "import sys, numpy as np\n"
        "from fxquant.runtime import load\n"
        "model = load(sys.argv[1], threads=2)\n"
        "for count in (1, 1, 5):\n"
        f"    y = model(np.ones((count, {ROWS}, {COLUMNS}), np.int32))\n"
        "assert y[0, 0, 1] == 33, y\n"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & set(sys.modules)\n"
    )
    for _ in range(3):  # with its worker awake or asleep, the process must end cleanly
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
