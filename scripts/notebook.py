"""Runs a notebook: its code cells in order, in one namespace, as Jupyter would; what they print and show goes back into the file.

    python scripts/notebook.py examples/notebook.ipynb

The kernel of Jupyter is not needed, so the tests run notebooks with what is installed anyway. Beside an SVG lies a PNG of it where Playwright and
a Chromium are there (``make test-browser`` installs them): some viewers show only that.
"""

from __future__ import annotations

import ast
import base64
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
import io
import json
from pathlib import Path
import shutil
import sys

RICH = {"_repr_svg_": "image/svg+xml", "_repr_html_": "text/html", "_repr_markdown_": "text/markdown"}
CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def executed(notebook: dict, folder: Path, png: Callable[[str], str] | None = None) -> dict:
    """The notebook with the outputs of its cells, which run in this folder. png: makes a picture (base64) of an SVG. Raises what a cell raises."""
    space: dict = {"__name__": "__main__"}
    cells, number = [], 0
    with chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code":
                cells.append(cell)
                continue
            number += 1
            cells.append(cell | {"execution_count": number, "outputs": _outputs(source(cell), space, number, png)})
    return notebook | {"cells": cells}


def source(cell: dict) -> str:
    return "".join(cell["source"])


def _outputs(code: str, space: dict, number: int, png: Callable[[str], str] | None) -> list[dict]:
    """Of one cell: what it printed, and its last expression."""
    name = f"cell {number}"
    body = ast.parse(code, name)
    last = ast.Expression(body.body.pop().value) if body.body and isinstance(body.body[-1], ast.Expr) else None
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(body, name, "exec"), space)
        value = eval(compile(last, name, "eval"), space) if last else None
    found = [{"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())}] if printed.getvalue() else []
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        data |= {kind: _lines(getattr(value, method)()) for method, kind in RICH.items() if hasattr(value, method)}
        if png and "image/svg+xml" in data:
            data["image/png"] = png("".join(data["image/svg+xml"]))
        found.append({"output_type": "execute_result", "execution_count": number, "data": data, "metadata": {}})
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _painter() -> Callable[[str], str] | None:
    """What makes a PNG of an SVG, if a browser is there."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None

    def paint(svg: str) -> str:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page(viewport={"width": 760, "height": 600})
            page.set_content(f"<body style='margin:0'>{svg}</body>")
            data = page.locator("svg").screenshot()
            chromium.close()
        return base64.b64encode(data).decode()
    return paint if browser else None


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        done = executed(json.loads(path.read_text()), path.parent, _painter())
        path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
        print(f"{path}: {sum(cell['cell_type'] == 'code' for cell in done['cells'])} cells")


if __name__ == "__main__":
    main()
