"""Whatever is passed: the right result, or an `InputError` that says what to pass instead. Never other numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from fxquant.errors import InputError, OutOfMemoryError
from fxquant.runtime import CompiledModel, Port
from fxquant.runtime import binding as binding_module
from fxquant.runtime.binding import NumpyBinding
from tests.runtime.objects import COLUMNS, ROWS, mirror, mirrored, pair

SHAPE = (3, ROWS, COLUMNS)
Ints = np.ndarray[Any, np.dtype[np.int32]]


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return CompiledModel(mirror(), threads=1)


def samples(shape: tuple[int, ...] = SHAPE) -> Ints:
    return np.random.default_rng(len(shape)).integers(-1000, 1000, shape, dtype=np.int32)


@st.composite
def views(draw: st.DrawFn) -> Ints:
    """Views of larger arrays, in any order of axes, with any steps, repeated, at any address, read-only."""
    count, order = draw(st.integers(0, 4)), draw(st.permutations(range(3)))
    steps = [draw(st.sampled_from([1, 2, 3, -1, -2, 0])) for _ in range(3)]
    sizes = [size * max(1, abs(step)) for size, step in zip((count, ROWS, COLUMNS), steps, strict=True)]
    whole = samples(tuple(sizes[axis] for axis in order)).transpose(np.argsort(order))
    shift = draw(st.integers(0, 3))
    if shift:  # at an odd address
        memory = np.zeros(whole.nbytes + 4, np.uint8)[shift : shift + whole.nbytes].view(np.int32)
        whole = memory.reshape([sizes[axis] for axis in order]).transpose(np.argsort(order))
        whole[...] = samples(whole.shape)
    view = whole[tuple(slice(None, None, step or None) for step in steps)]
    if draw(st.booleans()):
        view.flags.writeable = False
    if 0 in steps and count:  # stride 0
        view = np.broadcast_to(view[:1], (count, ROWS, COLUMNS))
    return view


@settings(max_examples=200, deadline=None)
@given(views(), st.booleans())
def test_every_view_gives_what_its_values_give(model: CompiledModel, view: Ints, as_tensor: bool) -> None:
    expected = mirrored(np.array(view))
    if as_tensor and min(view.strides, default=1) >= 0 and not any(s % 4 for s in view.strides):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of read-only arrays
            result: Any = model(torch.from_numpy(view))
        assert isinstance(result, torch.Tensor)
    else:
        result = model(view)
    np.testing.assert_array_equal(np.asarray(result), expected)


class Tagged(np.ndarray[Any, Any]):
    """A subclass that answers for itself where it can."""

    def __array_finalize__(self, obj: Any) -> None:
        self.tag = getattr(obj, "tag", "none")

    def __array_function__(self, *_: Any) -> Any:
        raise AssertionError("computed by a subclass")

    @property
    def flags(self) -> Any:
        raise AssertionError("asked of a subclass")


class Subclass(torch.Tensor):
    """A subclass that only refuses."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise AssertionError("computed by a subclass")


def tensor() -> torch.Tensor:
    return torch.from_numpy(X.copy())


def inference() -> torch.Tensor:
    with torch.inference_mode():
        return tensor() + 0


X = samples()
GOOD: dict[str, tuple[Callable[[], Any], Ints]] = {
    "order F": (lambda: np.asfortranarray(X), X),
    "subclass": (lambda: X.view(Tagged), X),
    "subclass, not contiguous": (lambda: X[:, ::-1].view(Tagged), X[:, ::-1]),
    "bytes seen as integers": (lambda: X.view(np.uint8).view(np.int32), X),
    "memory map": (lambda: X.view(np.memmap), X),
    "negative view": (lambda: torch._neg_view(tensor()), -X),
    "negative view, transposed": (lambda: torch._neg_view(tensor().transpose(1, 2).contiguous().transpose(1, 2)), -X),
    "zeros without memory": (lambda: torch._efficientzerotensor(SHAPE, dtype=torch.int32), 0 * X),
    "parameter": (lambda: torch.nn.Parameter(tensor(), requires_grad=False), X),
    "subclass of tensor": (lambda: tensor().as_subclass(Subclass), X),
    "inference mode": (inference, X),
    "expanded": (lambda: tensor()[:1].expand(SHAPE), np.repeat(X[:1], 3, 0)),
    "part of a storage": (lambda: tensor()[1:], X[1:]),
    "channels last": (lambda: tensor()[:, None].to(memory_format=torch.channels_last)[:, 0], X),
    "no samples": (lambda: X[:0], X[:0]),
    "a tensor of no samples": (lambda: tensor()[:0], X[:0]),
}


@pytest.mark.parametrize("case", GOOD)
def test_right_results(model: CompiledModel, case: str) -> None:
    make, plain = GOOD[case]
    value = make()
    result = model(value)
    assert type(result) is (torch.Tensor if isinstance(value, torch.Tensor) else np.ndarray)
    np.testing.assert_array_equal(np.asarray(result), mirrored(plain))


def test_gradients_are_not_tracked() -> None:
    with CompiledModel(pair(), threads=1) as compiled:
        b = torch.ones((1, 2, 2), requires_grad=True)
        _, grown = compiled(torch.zeros((1, 8), dtype=torch.int32), b * 1)
        assert not grown.requires_grad
        np.testing.assert_allclose(grown.numpy(), np.e + 0.5, rtol=1e-6)


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(SHAPE, dtype=torch.int32)


def freed() -> torch.Tensor:
    value = torch.zeros(SHAPE, dtype=torch.int32)
    value.untyped_storage().resize_(0)
    return value


def masked() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.masked.masked_tensor(tensor(), tensor() > 0)


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor(list(tensor()))


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "big-endian": (lambda: X.astype(">i4"), r"is >i4, not int32; convert it explicitly, with \.astype\('int32'\)"),
    "structured": (lambda: np.zeros(SHAPE, [("a", "i2"), ("b", "i2")]), r"is \[\('a', '<i2'\).*, not int32"),
    "objects": (lambda: X.astype(object), "is object, not int32"),
    "masked array": (lambda: np.ma.masked_greater(X, 0), r"is a MaskedArray, .*pass its \.filled\(value\)"),
    "no dimensions": (lambda: np.array(1, np.int32), r"has shape \(\), not \(N, 16, 32\)"),
    "nothing within a sample": (lambda: X[:, :0], r"has shape \(3, 0, 32\)"),
    "scalar": (lambda: np.int32(1), "is a int32; pass a numpy array"),
    "buffer": (lambda: X.data, "is a memoryview; pass a numpy array"),
    "none": (lambda: None, "is a NoneType"),
    "fake": (fake, r"is a FakeTensor; pass a plain torch\.Tensor with its values"),
    "masked tensor": (masked, r"is a MaskedTensor; pass a plain torch\.Tensor"),
    "nested": (nested, "has no plain values .*pass a dense tensor on the CPU"),
    "freed": (freed, "has a shape and no memory"),
    "meta": (lambda: tensor().to("meta"), "tensor on meta; pass a dense tensor on the CPU"),
    "sparse": (lambda: tensor().to_sparse(), "sparse_coo tensor on cpu; pass a dense tensor"),
    "compressed": (lambda: tensor()[0].to_sparse_csr(), "sparse_csr tensor on cpu; pass a dense tensor"),
    "quantized": (lambda: torch.quantize_per_tensor(tensor().float(), 1.0, 0, torch.qint32), r"is torch\.qint32, not"),
    "complex": (lambda: torch.zeros(SHAPE, dtype=torch.complex64).conj(), r"is torch\.complex64, not torch\.int32"),
    "tensor of no dimensions": (lambda: torch.tensor(1, dtype=torch.int32), r"has shape \(\), not"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_named(model: CompiledModel, case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(InputError, match=f"input 'x' of model 'mirror' .*{message}"):
        model(make())


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")
def test_within_transformations_of_torch(model: CompiledModel) -> None:
    real = tensor()
    for transform in (torch.vmap, torch.func.functionalize):
        with pytest.raises(InputError, match=r"no plain values|no memory"):
            transform(lambda x: model(x.reshape(-1, ROWS, COLUMNS)))(real)
    with FakeTensorMode(), pytest.raises(InputError, match=r"FakeTensor|no memory"):
        model(torch.zeros(SHAPE, dtype=torch.int32))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(InputError, match=r"no memory|no plain values"):
        model(real)
    np.testing.assert_array_equal(model(X), mirrored(X))  # as usual afterwards


def test_a_port_without_dimensions_is_one_number() -> None:
    bind = NumpyBinding(Port("x", "int32", ()), "m", False)
    assert bind.accept(np.array(3, np.int32))[2] == 1
    assert bind.allocate(1)[0].shape == ()
    with pytest.raises(InputError, match=r"has shape \(1\), not \(\); reshape it"):
        bind.accept(np.zeros(1, np.int32))


def test_too_many_samples_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = NumpyBinding(Port("x", "int8", (1, 4)), "m", True)
    many = np.broadcast_to(np.zeros((1, 4), np.int8), (1 << 40, 4))
    with pytest.raises(InputError, match="has 1099511627776 samples, of 2147479552 at most; pass them in parts"):
        bind.accept(many)
    monkeypatch.setattr(binding_module, "MOST_SAMPLES", 1 << 62)
    with pytest.raises(OutOfMemoryError, match="no memory for a contiguous copy of input 'x'"):
        bind.accept(many)
    with pytest.raises(OutOfMemoryError, match="no memory for 1099511627776 samples of output 'x'"):
        bind.allocate(1 << 40)
    with pytest.raises(OutOfMemoryError, match=r"no memory for .* samples of output 'x'"):
        bind.allocate(1 << 62)


@pytest.mark.parametrize("threads", [0, -1, 100_000, 1 << 70, 1.0, "2", True, np.float32(1)])
def test_impossible_numbers_of_threads_are_named(threads: Any) -> None:
    with pytest.raises(InputError, match=r"model 'mirror' got .* threads; give an integer from 1 to \d+, or None"):
        CompiledModel(mirror(), threads)


def test_the_most_threads_that_are_allowed() -> None:
    with CompiledModel(mirror(), threads=np.int64(256)) as many:  # type: ignore[arg-type]
        assert many.threads == 256 and type(many.threads) is int
        np.testing.assert_array_equal(many(X), mirrored(X))
