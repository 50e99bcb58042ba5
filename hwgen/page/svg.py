"""Elements of HTML and SVG as text. Everything that is put into one is escaped; a file or node name cannot become markup."""

from __future__ import annotations

from html import escape

from ..foreign import visible

Value = str | int | float | None


class Markup(str):
    """Text that is HTML or SVG already."""

    def __html__(self) -> str:
        return str(self)


def number(value: float) -> str:
    """A coordinate: two digits behind the point at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text(value: object) -> Markup:
    """What stands for a value between tags: markup as it is, all else escaped."""
    return value if isinstance(value, Markup) else Markup(escape(visible(str(value), keep="\n")))


def element(tag: str, *children: object, **attributes: Value) -> Markup:
    """``<tag attributes>children</tag>``. Names of attributes: ``_`` is ``-``, a last one is left away (``class_``); None: without it."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(visible(number(value) if isinstance(value, float) else str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{given}>{join(children)}</{tag}>")


def join(parts) -> Markup:
    """One after the other."""
    return Markup("".join(text(part) for part in parts))


def rectangle(x: float, y: float, width: float, height: float, *children: object, **attributes: Value) -> Markup:
    return element("rect", *children, x=float(x), y=float(y), width=float(width), height=float(height), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: Value) -> Markup:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), **attributes)


def label(x: float, y: float, words: object, **attributes: Value) -> Markup:
    """Text whose base line starts (``text_anchor``: ends, is centred) at (x, y)."""
    return element("text", words, x=float(x), y=float(y), **attributes)


def title(words: object) -> Markup:
    """What is shown when the pointer rests on the element around it, and read aloud."""
    return element("title", words)


def picture(width: float, height: float, about: str, *children: object, **attributes: Value) -> Markup:
    """An SVG of this size (CSS pixels) that shrinks with the page. about: what is to be seen, for those who do not see it."""
    return element(
        "svg",
        title(about),
        *children,
        role="img",
        aria_label=about,
        viewBox=f"0 0 {number(float(width))} {number(float(height))}",
        width=float(width),
        height=float(height),
        **attributes,
    )
