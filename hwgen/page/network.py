"""The network as a graph, with time and error on it: ONNX nodes from top to bottom, what they read above them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..steps.step import Network
from ..steps.walk import views
from .story import NO_LOSS, Story
from .svg import Markup, element, label, picture, rectangle, title
from .words import digits, percent, tail

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MOST_IN_A_ROW = 210, 22, 14, 16, 6
CHARACTERS = 30
SIDE = 190  # pixels on either side of a row of one node: its figures stand there
NOTHING = "no cycles of its own known"
HOT = 0.08  # share of the cycles from which a node has the strongest colour
SOUND, POOR = 40.0, 20.0  # dB: no mark from the first on, the strongest from the second down


@dataclass
class Node:
    """An ONNX node of which there are steps: what it reads, and how far from the input it stands."""

    name: str
    reads: list[str] = field(default_factory=list)
    rank: int = 0


def nodes_of(network: Network) -> dict[str, Node]:
    """The ONNX nodes in the order of the steps. A node reads another when one of its steps reads, or adds to, a tensor that the other wrote
    last; nodes are never below themselves."""
    found: dict[str, Node] = {}
    written: dict[str, str] = {}  # tensor -> node that wrote it last
    for step in network.steps:
        name = step.node or step.value
        node = found.setdefault(name, Node(name))
        read, sinks = views(step)
        for view in (*read, *sinks):
            writer = written.get(view.tensor.name)
            if writer is not None and writer != name and writer not in node.reads:
                node.reads.append(writer)
        for view in sinks:
            written[view.tensor.name] = name
    order = {name: index for index, name in enumerate(found)}
    for node in found.values():
        node.reads = [name for name in node.reads if order[name] < order[node.name]]
        node.rank = max((found[name].rank + 1 for name in node.reads), default=0)
    return found


def graph(story: Story, network: Network) -> Markup:
    """Colour: share of the cycles. Mark on the left: error, where it is known."""
    nodes = nodes_of(network)
    cycles = {row["node"]: row["cycles"] for row in story.cycles_by_node}
    total = sum(cycles.values()) or 1.0
    worst = {layer.node: layer.snr_db for layer in sorted(story.layers, key=lambda layer: -layer.snr_db)}
    places, width, height = _places(nodes.values())
    rows = Counter(y for _, y in places.values())
    edges = [element("path", d=_edge(places[reader], places[node.name])) for node in nodes.values() for reader in node.reads]
    boxes = []
    for name, (x, y) in places.items():
        share = cycles.get(name, 0.0) / total
        error = worst.get(name, NO_LOSS)
        heat = min(1.0, share / HOT)
        figures = [f"{digits(cycles[name])} cycles, {percent(share)}"] if name in cycles else []
        figures += [f"{digits(error)} dB"] if error < NO_LOSS else []
        about = f"{name}: {', '.join(figures) or NOTHING}"
        mark = (
            ""
            if error >= SOUND
            else rectangle(x, y, 8, BOX_HEIGHT, class_="error", opacity=round(min(1.0, (SOUND - error) / (SOUND - POOR)), 2))
        )
        shown = tail(name, CHARACTERS)
        boxes.append(
            element(
                "g",
                title(about),
                rectangle(x, y, BOX_WIDTH, BOX_HEIGHT, rx=3, class_="node"),
                rectangle(x, y, BOX_WIDTH, BOX_HEIGHT, rx=3, class_="heat", opacity=round(heat, 2)) if heat >= 0.01 else "",
                mark,
                label(x + 12, y + 15, shown, class_="name"),
                label(x + BOX_WIDTH + 10, y + 15, ", ".join(figures), class_="small") if rows[y] == 1 else "",
            )
        )
    drawn = element("g", *edges, class_="edges")
    return element(
        "div",
        picture(width, height, f"The network: {len(nodes)} ONNX nodes from input to output", drawn, *boxes),
        class_="scroll",
        tabindex=0,
        role="group",
        aria_label="network graph, scrolls",
    )


def _places(nodes: Iterable[Node]) -> tuple[dict[str, tuple[float, float]], float, float]:
    """({node: top left corner}, width, height): a row a rank, long rows broken."""
    ranks: dict[int, list[str]] = defaultdict(list)
    for node in nodes:
        ranks[node.rank].append(node.name)
    columns = min(MOST_IN_A_ROW, max((len(names) for names in ranks.values()), default=1))
    width = max(columns * (BOX_WIDTH + GAP_X) + GAP_X, BOX_WIDTH + 2 * SIDE)
    places, y = {}, 8.0
    for rank in sorted(ranks):
        names = ranks[rank]
        for start in range(0, len(names), MOST_IN_A_ROW):
            row = names[start : start + MOST_IN_A_ROW]
            left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
            for index, name in enumerate(row):
                places[name] = (left + index * (BOX_WIDTH + GAP_X), y)
            y += BOX_HEIGHT + 6
        y += GAP_Y - 6
    return places, float(width), y + 4


def _edge(above: tuple[float, float], below: tuple[float, float]) -> str:
    """A curve from the lower side of one box to the upper side of another; the further, the more to the side."""
    x1, y1, x2, y2 = above[0] + BOX_WIDTH / 2, above[1] + BOX_HEIGHT, below[0] + BOX_WIDTH / 2, below[1]
    reach = y2 - y1
    if reach <= BOX_HEIGHT + 2 * GAP_Y or abs(x1 - x2) > 1:
        return f"M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + reach / 2:.0f} {x2:.0f} {y2 - reach / 2:.0f} {x2:.0f} {y2:.0f}"
    side = x1 - BOX_WIDTH / 2 - min(40.0, 6 + reach / 30)
    return f"M{x1 - BOX_WIDTH / 2:.0f} {y1 - 6:.0f}C{side:.0f} {y1 + 10:.0f} {side:.0f} {y2 - 10:.0f} {x2 - BOX_WIDTH / 2:.0f} {y2 + 6:.0f}"
