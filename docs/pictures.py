"""Makes the pictures of the README from the bundled example: ``python docs/pictures.py`` (after ``make test-browser``, which installs the browser).

``docs/images/report.png`` and ``compare.png`` are screenshots of the pages of a build and of three builds, ``engine.svg`` the drawing of its engine.
"""

from __future__ import annotations

from pathlib import Path
import shutil
import tempfile
import time

from playwright.sync_api import sync_playwright

from hwgen import api
from hwgen.arrays import read_npz
from hwgen.errors import InputError
from hwgen.page import compare_page

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
EXAMPLE = ROOT / "examples" / "m3vit_digits"
BUILDS = {"w8a8, array 64x32": {}, "w8a8, array 16x16": {"array": (16, 16)}, "w4a8, array 32x32": {"array": (32, 32), "precision": "w4a8"}}
SIMULATED = 20           # images
WIDTH = 1100             # CSS pixels
HEIGHTS = {"report": 1150, "compare": 560}


def main() -> None:
    browser = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))))
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pages = _pages(Path(folder))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            for name, content in pages.items():
                file = Path(folder) / f"{name}.html"
                file.write_text(content)
                page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHTS[name]}, color_scheme="light")
                page.goto(file.as_uri())
                page.screenshot(path=IMAGES / f"{name}.png")
            chromium.close()


def _pages(folder: Path) -> dict[str, str]:
    """{name: page}; the drawing of the engine is written on the way."""
    builds = {name: api.compile(EXAMPLE / "model.onnx", target="zcu104", calib=EXAMPLE / "calib.npz", out=folder / name, **options)
              for name, options in BUILDS.items()}
    first = next(iter(builds.values()))
    images = read_npz(EXAMPLE / "test.npz", "the input", InputError)["x"][:SIMULATED]
    first.keep(first.simulate({"x": images}))
    first.drawing("engine").save(IMAGES / "engine.svg")
    compared = api.compare([folder / name for name in builds])
    return {"report": first.page().replace(str(folder), "builds"), "compare": compare_page(compared, time.time()).replace(str(folder) + "/", "")}


if __name__ == "__main__":
    main()
