"""Text from templates. The only module that knows jinja2; a template holds text and loops, every decision is made in Python.

What a template prints is a number, or text that went through a filter for the place it stands in (`foreign`): ``comment``, ``c_string``,
``tcl``, ``markdown``, ``identifier``, or ``code`` for what hwgen wrote itself. Bare text is an error. In a page of HTML all text is
escaped without a filter.
"""

from __future__ import annotations

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import foreign
from .paths import data_dir


class Filtered(str):
    """Text that may stand where the filter says."""


def _filter(spell):
    return lambda text: Filtered(spell(text))


FILTERS = {name: _filter(spell) for name, spell in {
    "comment": foreign.comment, "c_string": foreign.c_string, "tcl": foreign.tcl, "markdown": foreign.markdown,
    "identifier": foreign.identifier, "code": str}.items()}


def _checked(value):
    """What an expression of a template gives, as it may be printed. Raises TypeError for text without a filter."""
    if isinstance(value, str) and not isinstance(value, Filtered):
        raise TypeError(f"a template prints the text {str(value)!r} without a filter ({', '.join(FILTERS)})")
    return value


def _visible(value):
    return foreign.visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def render(template: str, **values) -> str:
    """The file ``templates/<template>`` with these values. A name that is not given, or text without a filter, is an error."""
    page = template.endswith(".html.j2")
    environment = Environment(loader=FileSystemLoader(data_dir("templates")), undefined=StrictUndefined, trim_blocks=True, autoescape=page,
                              lstrip_blocks=True, keep_trailing_newline=True, finalize=_visible if page else _checked)
    environment.filters |= FILTERS
    return environment.get_template(template).render(**values)
