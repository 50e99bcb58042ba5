"""What the drain takes from the operand memory: 16-bit words of another value, in step with the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tensor import Memory, View

if TYPE_CHECKING:
    from ..step import Step


def beside(view: View, step: Step) -> str | None:
    """What keeps a value from going along with the whole result of a step, word for word, or None."""
    if view.tensor.memory is not Memory.OPERAND:
        return f"{view} is no operand of the drain"
    if not view.whole:
        return f"the operand {view} is a part of a value"
    wanted = step.sink.tokens.count if step.expert is None else step.expert.queue.tokens.count, step.columns * step.heads
    found = view.tokens.count, view.channels.count
    return None if found == wanted else f"the operand {view} is {list(found)}, the result {list(wanted)}"
