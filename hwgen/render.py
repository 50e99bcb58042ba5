"""Text from templates. The only module that knows jinja2; a template holds text and loops, every decision is made in Python."""

from __future__ import annotations

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .paths import data_dir


def render(template: str, **values) -> str:
    """The file ``templates/<template>`` with these values; a name that is not given is an error."""
    environment = Environment(loader=FileSystemLoader(data_dir("templates")), undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)
    return environment.get_template(template).render(**values)
