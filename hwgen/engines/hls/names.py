"""C identifiers from ONNX names: one injective function and its inverse.

Letters and digits stay, and so does a single underscore inside the name. ``Z`` starts an escape: ``ZZ`` Z, ``Zd`` dot, ``Zs`` slash,
``Zc`` colon, ``Zm`` minus, ``Zu`` an underscore at the start or after another (C++ reserves those), ``Zx<hex>Z`` any other character.
``Zk`` in front marks what is no identifier by itself: a leading digit, a keyword, the empty name.
"""

from __future__ import annotations

import re
import string

ESCAPES = {"Z": "ZZ", ".": "Zd", "/": "Zs", ":": "Zc", "-": "Zm"}
PLAIN = frozenset(string.ascii_letters + string.digits) - {"Z"}
KEYWORDS = frozenset(re.findall(r"\w+", """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class compl concept const constexpr
    const_cast continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto if
    inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
    reinterpret_cast requires return short signed sizeof static static_assert static_cast struct switch template this thread_local throw
    true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
    linux unix assert errno stdin stdout stderr NULL EOF"""))
TOKEN = re.compile(r"Zx([0-9a-f]+)Z|Z([Zdscmu])|([^Z])")


def identifier(name: str) -> str:
    """A C++ identifier of its own for every string; plain names stay as they are."""
    parts: list[str] = []
    for char in name:
        if char in PLAIN:
            parts.append(char)
        elif char == "_":
            parts.append("Zu" if not parts or parts[-1] == "_" else "_")
        else:
            parts.append(ESCAPES.get(char) or f"Zx{ord(char):x}Z")
    text = "".join(parts)
    return f"Zk{text}" if not text or text[0].isdigit() or text in KEYWORDS else text


def original(text: str) -> str:
    """The name an identifier was made of; raises ValueError when `identifier` never gives ``text``."""
    back = {escape[1]: char for char, escape in ESCAPES.items()} | {"u": "_"}
    body = text.removeprefix("Zk")
    tokens = list(TOKEN.finditer(body))
    name = "".join(chr(int(hexa, 16)) if hexa else back[escape] if escape else plain
                   for hexa, escape, plain in (token.groups() for token in tokens))
    if "".join(t[0] for t in tokens) != body or identifier(name) != text:
        raise ValueError(f"{text!r} is not an identifier of an ONNX name")
    return name
