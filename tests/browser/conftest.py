"""A headless Chromium, pages of the bundled example, and what they did wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import shutil
import time

from playwright.sync_api import Browser, Page, sync_playwright
import pytest

from hwgen import api
from hwgen.arrays import read_npz
from hwgen.errors import InputError
from hwgen.page import compare_page

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "m3vit_digits"
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Raises RuntimeError without a Chromium: this tier is not skipped."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        raise RuntimeError("no Chromium; next: make test-browser installs chromium-headless-shell")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{name: page} of the example: estimated, simulated, as HLS without calibration images, and the first and the last compared."""
    place = tmp_path_factory.mktemp("pages")
    estimated = api.compile(EXAMPLE / "model.onnx", target="zcu104", calib=EXAMPLE / "calib.npz", out=place / "estimated")
    (place / "estimated.html").write_text(estimated.page())
    images = read_npz(EXAMPLE / "test.npz", "the input", InputError)["x"][:1]
    estimated.keep(estimated.simulate({"x": images}))
    (place / "simulated.html").write_text(estimated.page())
    hls = api.compile(EXAMPLE / "model.onnx", target="zcu104", backend="hls", out=place / "hls")
    (place / "hls.html").write_text(hls.page())
    (place / "compared.html").write_text(compare_page(api.compare([place / "estimated", place / "hls"]), time.time()))
    return {name: place / f"{name}.html" for name in ("estimated", "simulated", "hls", "compared")}


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> Iterator[Callable[..., Page]]:
    """opened(name, **context) -> the page, shown. Afterwards: no error in it, and it asked for nothing but itself."""
    wrong: list[str] = []
    contexts = []

    def show(name: str, **context) -> Page:
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 900}, **context))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
        page.on("request", lambda request: wrong.append(f"request: {request.url[:200]}")
                if request.url != pages[name].as_uri() and not request.url.startswith("data:") else None)
        page.goto(pages[name].as_uri())
        return page
    yield show
    for context in contexts:
        context.close()
    assert wrong == []
