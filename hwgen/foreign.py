"""Text hwgen did not make (names in an ONNX file, file names, board files) on its way into a generated file or onto the terminal.

A name from a stranger may hold a newline, ``*/``, a terminal's escape sequence or no Unicode at all. Comments and tables mark such a
character as ``(U+000A)``, wherever it stands, so that no two pieces of text can make up what neither of them holds; strings spell it as
their language does and keep their value. The filters of `render` and everything else that writes names call these functions.
"""

from __future__ import annotations

from collections.abc import Callable
import re

REPR = 280                                  # characters of a `repr`: two or three lines of a terminal
IN_COMMENTS = frozenset("*\\?{}")           # */ and /*, a backslash that joins lines, ??/ (a trigraph), braces that Tcl counts
IN_MARKDOWN = frozenset("*\\`<>[]|&")
IN_C_STRINGS = frozenset("\"\\?")
IN_TCL = frozenset("\"\\$[]{};")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _spelt(text: str, bad: Callable[[str], bool], spell: Callable[[str], str]) -> str:
    """``text`` with each bad character as ``spell`` writes it. The one place where foreign text is looked at."""
    return "".join(spell(char) if bad(char) else char for char in text)


def _mark(char: str) -> str:
    return f"(U+{ord(char):04X})"


def visible(text: object, keep: str = "", limit: int | None = None) -> str:
    """As one printable line, cut to ``limit`` characters.

    Marked are controls, line ends, escape sequences, marks that turn the direction of writing, half surrogates (bytes that are no UTF-8);
    the characters of ``keep`` stay.
    """
    line = _spelt(str(text), lambda char: not char.isprintable() and char not in keep, _mark)
    return line if limit is None or len(line) <= limit else line[:limit - 1] + "…"


def comment(text: object) -> str:
    """Inside a comment of C, C++, Verilog, Tcl or a listing, line or block."""
    return _spelt(str(text), lambda char: char in IN_COMMENTS or not char.isprintable(), _mark)


def markdown(text: object) -> str:
    """Inside a line of Markdown."""
    return _spelt(str(text), lambda char: char in IN_MARKDOWN or not char.isprintable(), _mark)


def c_string(text: object) -> str:
    """A C or C++ string literal, quotes included, of the text in UTF-8; bytes that are no UTF-8 stay what they were."""
    def octal(char: str) -> str:
        data = char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")
        return "".join(f"\\{byte:03o}" for byte in data)
    return f'"{_spelt(str(text), lambda char: char in IN_C_STRINGS or not " " <= char <= "~", octal)}"'


def tcl(text: object) -> str:
    """One word of Tcl, quotes included; nothing in it is substituted."""
    def spell(char: str) -> str:
        return "\\" + char if char in IN_TCL else "".join(f"\\u{int.from_bytes(pair, 'big'):04x}" for pair in _utf16(char))
    return f'"{_spelt(str(text), lambda char: char in IN_TCL or not " " <= char <= "~", spell)}"'


def _utf16(char: str) -> list[bytes]:
    data = char.encode("utf-16-be", "surrogatepass")
    return [data[i:i + 2] for i in range(0, len(data), 2)]


def identifier(text: object) -> str:
    """An identifier of C, C++ or Verilog that hwgen made; raises ValueError when it is none."""
    if not IDENTIFIER.fullmatch(str(text)):
        raise ValueError(f"{text!r} is no identifier")
    return str(text)
