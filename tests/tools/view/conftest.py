"""A real browser, and documents of real networks, made once for all tests of the viewer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, fx

import fxquant
from fxquant.tools.view.view import View
from tests import zoo

Opened = Callable[..., Any]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def recorded(name: str, batch: int = 4) -> tuple[fxquant.Recorder, list[tuple[Tensor, ...]]]:
    """A whole pipeline run over a zoo network, and its data."""
    data = [zoo.inputs(name, batch, seed=seed) for seed in range(2)]
    graph = fxquant.trace(zoo.build(name, shallow=True), data[0])
    recorder = fxquant.Recorder(graph, name)
    fxquant.quantize(graph, data, observe=recorder, progress=False)
    return recorder, data


@pytest.fixture(scope="session")
def resnet8() -> View:
    """Every stage, errors, memory on two targets."""
    recorder, data = recorded("resnet8")
    return fxquant.view(recorder, data=data, targets=("cortex-m4", "x86-avx2"), progress=False)


@pytest.fixture(scope="session")
def unet() -> View:
    """A network with concats and skips."""
    recorder, data = recorded("unet", 2)
    return fxquant.view(recorder, data=data, progress=False)


@pytest.fixture(scope="session")
def mobilenet() -> View:
    """A deep network of many modules, the last stage alone."""
    recorder, data = recorded("mobilenet_v2", 1)
    return fxquant.view(recorder.last, model=recorder.stages[0][1], data=data[:1], progress=False)


@pytest.fixture(scope="session")
def densenet() -> View:
    """Long concats, and errors that nobody asked for."""
    recorder, _ = recorded("densenet121", 1)
    return fxquant.view(recorder, progress=False)


@pytest.fixture(scope="session")
def quantized() -> fx.GraphModule:
    """ResNet-8, the INTEGER graph alone."""
    return recorded("resnet8")[0].last


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, the system's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium: bash tools/setup.sh tests")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """Opens a view as a file; at the end nothing may have been requested but that file, and no error shown."""
    contexts: list[Any] = []
    requests: list[str] = []
    errors: list[str] = []

    def open_page(view: View, **options: Any) -> Any:
        path = view.save(tmp_path / f"page{len(contexts)}.html")
        context = browser.new_context(viewport={"width": 1366, "height": 768}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
        page.goto(path.as_uri())
        page.wait_for_function("window.fxquant")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert requests and all(url.startswith(("file:", "blob:")) for url in requests)
    assert sum(url.startswith("file:") for url in requests) == len(contexts)
