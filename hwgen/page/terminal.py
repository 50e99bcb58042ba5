"""The story of a report in a terminal: 25 lines."""

from __future__ import annotations

from .nodes import counted
from .story import Story
from .words import digits, percent

SLOWEST = 5  # nodes that are listed
BAR = 30  # characters
NAME = 40  # of a node


def summary(story: Story) -> list[str]:
    """Lines of at most about 100 characters, file and node names apart: the six answers, where the cycles go, the slowest nodes, conditions."""
    stage = f" ({story.speed.stage})" if story.speed else ""
    lines = [f"{story.name} on {story.board.get('name', 'no board')}, {story.backend}"]
    lines += [f"  {answer.question:24} {answer.short}{f'  [{answer.stage}]' if answer.stage else ''}" for answer in story.answers]
    causes, nodes = story.cycles_by_cause, story.cycles_by_node
    total = sum(causes.values())
    if total:
        lines.append(f"where {digits(total)} cycles go{stage}")
        lines += [
            f"  {name:24} {'#' * round(BAR * cycles / total):{BAR}} {percent(cycles / total)}" for name, cycles in causes.items() if cycles
        ]
    if nodes:
        whole = sum(row["cycles"] for row in nodes)
        lines.append(f"slowest of {len(counted(nodes))} nodes{'':18} cycles    share  array used")
        lines += [
            f"  {_short(row['node']):{NAME}} {digits(row['cycles']):>8} {percent(row['cycles'] / whole):>8} {percent(row['utilization']):>8}"
            for row in sorted(counted(nodes), key=lambda row: -row["cycles"])[:SLOWEST]
        ]
    return [*lines, "under: " + "; ".join(story.conditions)]


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"...{name[3 - NAME :]}"
