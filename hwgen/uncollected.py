"""Without garbage collection, for work that makes many objects which all stay alive: looking through them again and again takes most of the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import gc


@contextmanager
def uncollected() -> Iterator[None]:
    """No cyclic garbage collection inside; counted references are freed as ever."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
