"""Make the pictures of README.md anew: `python docs/screenshots.py`. Needs Chromium, and playwright (the test extra).

Trains the demo's small network on real images of digits, quantizes it, and takes pictures of its page.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import fxquant
from fxquant.tools import digits

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1280, "height": 720}


def page_of_digits(path: Path) -> None:
    """The whole pipeline run over the network of digits, as a page."""
    torch.manual_seed(0)
    x, y, x_test, _ = digits.images()
    model = digits.Digits()
    digits.train(model, x, y)
    graph = fxquant.trace(model, x[:1])
    recorder = fxquant.Recorder(graph, "digits")
    fxquant.quantize(graph, torch.split(x[:256], 32), observe=recorder, progress=False)
    fxquant.view(recorder, path, data=torch.split(x_test, 50), targets=("cortex-m4",), progress=False)


def main() -> None:
    """Write docs/images/viewer.png and viewer-memory.png."""
    chromium = shutil.which("chromium") or sys.exit("no chromium: bash tools/setup.sh tests")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "digits.html"
        page_of_digits(path)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, scheme, tab in (("viewer", "light", "node"), ("viewer-memory", "dark", "memory")):
            page = browser.new_page(viewport=SIZE, color_scheme=scheme)
            page.goto(path.as_uri())
            page.wait_for_function("window.fxquant")
            page.evaluate("""() => {
              const { document: found, select } = window.fxquant, run = found.runs[0];
              const worst = Object.values(run.measured).sort((a, b) => a.local_db - b.local_db)[0];
              select(worst.name);
            }""")
            page.click(f'[data-tab="{tab}"]')
            page.wait_for_timeout(200)
            page.screenshot(path=IMAGES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
