"""``python -m hwgen`` is the same as ``hwgen``."""

from .cli import main

main()
