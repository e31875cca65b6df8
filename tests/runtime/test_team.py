"""Threads: layers in order, calls that do not disturb each other, and an orderly end."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fxquant.errors import InputError, OutOfMemoryError
from fxquant.runtime import CompiledModel
from tests.runtime.objects import COLUMNS, RING, ROWS, mirror, mirrored, ring

LAYERS = 50

Ints = NDArray[np.int32]


def ring_expected(x: Ints) -> Ints:
    return np.roll(x, -LAYERS, 1) + LAYERS


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fxquant-")]


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_layers_never_overtake_each_other(threads: int) -> None:
    rng = np.random.default_rng(threads)
    with CompiledModel(ring(LAYERS), threads) as model:
        for _ in range(200):  # 10,000 layers
            x = rng.integers(-1000, 1000, (1, RING), dtype=np.int32)
            y, who = model(x)
            np.testing.assert_array_equal(y, ring_expected(x))
            assert who.min() >= 0
            assert who.max() < threads


def test_the_workers_do_work() -> None:
    with CompiledModel(ring(LAYERS, work=500), threads=2) as model:
        x = np.zeros((1, RING), np.int32)
        seen: set[int] = set()

        def both() -> bool:  # not in one run: on a busy machine both may share a core
            seen.update(model(x)[1][0].tolist())
            return seen == {0, 1}

        assert eventually(both), f"only threads {seen} ever computed anything"
        x = np.zeros((8, RING), np.int32)
        np.testing.assert_array_equal(model(x)[0], ring_expected(x))


def test_workers_that_fell_asleep_wake_up() -> None:
    with CompiledModel(mirror(), threads=3) as model:
        for count in range(40):
            time.sleep(0.003)
            x = np.full((count % 4, ROWS, COLUMNS), count, np.int32)
            np.testing.assert_array_equal(model(x), mirrored(x))


@pytest.mark.parametrize("threads", [1, 2])
def test_concurrent_calls_do_not_disturb_each_other(threads: int) -> None:
    models = [CompiledModel(mirror(), threads), CompiledModel(ring(LAYERS), threads)]

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for count in range(60):
            x = rng.integers(-1000, 1000, (count % 5, ROWS, COLUMNS), dtype=np.int32)
            np.testing.assert_array_equal(models[0](x), mirrored(x))
            x = rng.integers(-1000, 1000, (1 + count % 3, RING), dtype=np.int32)
            np.testing.assert_array_equal(models[1](x)[0], ring_expected(x))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for model in models:
        model.close()


def test_close_ends_the_threads() -> None:
    before = len(workers())
    model = CompiledModel(mirror(), threads=3)
    x = np.zeros((1, ROWS, COLUMNS), np.int32)
    model(x)
    assert len(workers()) == before + 2
    model.close()
    model.close()
    assert len(workers()) == before
    assert "closed" in repr(model)
    with pytest.raises(InputError, match="'mirror' is closed; load it again"):
        model(x)


def test_an_abandoned_model_ends_its_threads() -> None:
    before = len(workers())
    model = CompiledModel(mirror(), threads=2)
    model(np.zeros((1, ROWS, COLUMNS), np.int32))
    assert len(workers()) == before + 1
    del model
    gc.collect()
    assert eventually(lambda: len(workers()) == before)


def test_a_system_that_starts_no_more_threads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = len(workers()), threading.Thread.start

    def reluctant(thread: threading.Thread) -> None:
        if thread.name == "fxquant-3":
            raise RuntimeError("can't start new thread")
        start(thread)

    x = np.ones((4, ROWS, COLUMNS), np.int32)
    with CompiledModel(mirror(), threads=5) as model:
        monkeypatch.setattr(threading.Thread, "start", reluctant)
        with pytest.raises(OutOfMemoryError, match=r"starts no more than 3 of 5 threads .*ask for fewer"):
            model(x)
        assert len(workers()) == before
        monkeypatch.undo()
        np.testing.assert_array_equal(model(x), mirrored(x))


def test_memory_that_the_system_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise MemoryError

    model = CompiledModel(mirror(), threads=1)
    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(OutOfMemoryError, match="no 2048 bytes of memory for the model"):
        model._run([0, 0], 1)


def test_none_means_all_cores() -> None:
    assert CompiledModel(mirror()).threads == len(os.sched_getaffinity(0))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_computes_too(threads: int) -> None:
    with CompiledModel(mirror(), threads) as model:
        x = np.ones((3, ROWS, COLUMNS), np.int32)
        model(x)
        child = os.fork()
        if child == 0:
            good = all((model(x) == mirrored(x)).all() for _ in range(20))
            os._exit(0 if good else 1)
        ended: list[tuple[int, int]] = []

        def over() -> bool:
            ended.append(os.waitpid(child, os.WNOHANG))
            return ended[-1][0] == child

        assert eventually(over)
        assert ended[-1] == (child, 0)
        np.testing.assert_array_equal(model(x), mirrored(x))
