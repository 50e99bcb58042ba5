"""A drawing of a page by itself: for notebooks, which show it, and for files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import re

from ..output import write_file
from ..paths import data_dir
from .svg import Markup

RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
SCOPE = ".hwgen-drawing"


@dataclass(frozen=True)
class Drawing:
    """An SVG that needs nothing else. In a notebook a cell that ends in one shows it."""

    svg: str

    def __repr__(self) -> str:
        return f"<Drawing, {len(self.svg):,} characters of SVG>"

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Raises OutputError."""
        write_file(path, f"{self.svg}\n")


def alone(body: Markup) -> Drawing:
    """The first drawing in a part of a page, with the style it needs. Raises ValueError when there is none."""
    found = re.search(r"<svg .*?</svg>", body, re.DOTALL)
    if found is None:
        raise ValueError("there is no drawing in it")
    drawing = found[0].replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" class="{SCOPE[1:]}" ', 1)
    drawing = re.sub(r'(<svg [^>]*?) class="chart"', r"\1", drawing, count=1)
    place = drawing.index(">") + 1
    return Drawing(f"{drawing[:place]}<style>{_style()}</style>{drawing[place:]}")


def _style() -> str:
    """Colours and the rules of drawings, for this drawing only: those of classes and of text, on a light ground."""
    css = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", (data_dir("templates") / "page.css").read_text())
    rules = [(selector.strip(), " ".join(body.split())) for selector, body in RULE.findall(css)]
    kept = [f"{SCOPE} {{ {body}; background: var(--back) }}" for selector, body in rules if selector == ":root"]
    kept += [
        f"{', '.join(f'{SCOPE} {part.strip()}' for part in selector.split(','))} {{ {body} }}"
        for selector, body in rules
        if all(re.match(r"(\.|text\b)", part.strip()) for part in selector.split(","))
    ]
    return "\n".join(kept)
