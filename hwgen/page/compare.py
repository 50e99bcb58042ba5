"""Several builds side by side: their figures, what differs, which are better, and a page with Pareto plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import csv
from dataclasses import dataclass
import io
from typing import Any

from ..errors import InputError
from ..foreign import REPR, visible
from ..render import render
from .charts import colour
from .drawing import Drawing, alone
from .page import style, when
from .story import KINDS, Story
from .svg import Markup, element, join, label, line, picture, title
from .words import decibels, digits, percent

Number = float | None


@dataclass(frozen=True)
class Figure:
    """What is compared. key: of JSON and CSV, with its unit; better: -1 where less is, 1 where more is, 0 where neither."""

    key: str
    name: str
    better: int
    of: Callable[[Story], Number | str]


def _cells(kind: str) -> Callable[[Story], Number]:
    return lambda story: story.used[kind][0] if kind in story.used else None


def _error(story: Story) -> Number:
    return decibels(max(story.output_errors.values())) if story.output_errors else None


def _array(story: Story) -> str | None:
    array = story.data.get("array")
    return f"{array['ti']}x{array['to']}" if array else None


FIGURES = (
    Figure("network", "network", 0, lambda story: story.name),
    Figure("board", "board", 0, lambda story: story.board_name),
    Figure("backend", "backend", 0, lambda story: story.backend),
    Figure("array", "array", 0, _array),
    Figure("precision", "weights and activations", 0, lambda story: str(story.data.get("precision", ""))),
    Figure("batch_images", "images a frame", 0, lambda story: story.data.get("batch")),
    Figure("clock_mhz", "clock (MHz, of the board file)", 0, lambda story: story.clock_mhz),
    Figure(
        "memory_bytes_per_cycle",
        "memory (bytes a cycle)",
        0,
        lambda story: story.speed.memory.get("bytes_per_cycle") if story.speed else None,
    ),
    Figure("stage", "cycles by", 0, lambda story: story.speed.stage if story.speed else None),
    Figure("cycles_per_image", "cycles an image", -1, lambda story: story.speed.cycles if story.speed else None),
    Figure("latency_ms", "latency (ms)", -1, lambda story: story.latency_ms),
    Figure("images_per_second", "images a second", 1, lambda story: story.images_per_second),
    Figure("utilization", "array used (share)", 1, lambda story: story.utilization),
    *(Figure(f"{kind}_cells", name, -1, _cells(kind)) for kind, name in KINDS.items()),
    Figure("weight_bytes", "weight image (bytes)", -1, lambda story: story.data.get("weight_bytes")),
    Figure("output_snr_db", "outputs against the float network (dB)", 1, _error),
    Figure("bound_by", "limited by", 0, lambda story: story.data.get("limits", {}).get("bound_by")),
)

OF_SPEED = ("cycles_per_image", "latency_ms", "images_per_second", "utilization")


@dataclass(frozen=True)
class Row:
    """A figure of every build. best: the builds that have the best value, none where all have the same or none is better."""

    figure: Figure
    values: tuple[Number | str, ...]
    best: frozenset[int]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1

    def shown(self, index: int) -> str:
        """As people read it."""
        value = self.values[index]
        if value is None or value == "":
            return "–"
        if isinstance(value, str):
            return value
        return percent(value) if self.figure.key == "utilization" else digits(value)


@dataclass(frozen=True)
class Comparison:
    """names: of the builds; notes: why figures may not be alike."""

    names: tuple[str, ...]
    stories: tuple[Story, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return visible(f"<Comparison of {len(self.names)} builds: {', '.join(self.names)}>", limit=REPR)

    def to_dict(self) -> dict[str, Any]:
        """See docs/reference/json.md."""
        return {
            "builds": [{"name": name, **{row.figure.key: row.values[index] for row in self.rows}} for index, name in enumerate(self.names)],
            "differs": [row.figure.key for row in self.rows if row.differs],
            "best": {row.figure.key: [self.names[index] for index in sorted(row.best)] for row in self.rows if row.best},
            "pareto": {
                key: [self.names[index] for index in front(self, key)] for key in AXES if any(v is not None for v in self.values(key))
            },
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """A line a build, headings with units."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["name", *(row.figure.key for row in self.rows)])
        writer.writerows(
            [name, *("" if row.values[index] is None else row.values[index] for row in self.rows)] for index, name in enumerate(self.names)
        )
        return buffer.getvalue()

    def lines(self) -> list[tuple[str, ...]]:
        """The table for a terminal: a row a figure, ``*`` in front of what differs, ``<`` behind what is best."""
        return [
            (
                f"{'*' if row.differs else ' '} {row.figure.name}",
                *(row.shown(index) + " <" * (index in row.best) for index in range(len(self.names))),
            )
            for row in self.rows
            if any(value not in (None, "") for value in row.values)
        ]

    def drawing(self, key: str) -> Drawing:
        """Latency over one figure, `AXES`: a point a build by its number, those of the front joined. Raises InputError for another figure, and where
        fewer than two builds have both."""
        if key not in AXES:
            raise InputError(f"there is no drawing of {key!r}", hint=f"there are {', '.join(AXES)}")
        drawn = plot(self, key)
        if not drawn:
            raise InputError(f"fewer than two builds have {key} and a latency", hint="compare builds that have both")
        return alone(drawn)

    def values(self, key: str) -> tuple[Number | str, ...]:
        """Of the figure with this key."""
        return next(row.values for row in self.rows if row.figure.key == key)


def compare(reports: Sequence[tuple[str, dict[str, Any]]]) -> Comparison:
    """Compare reports, each with a name. Raises InputError for fewer than two."""
    if len(reports) < 2:
        raise InputError(f"{len(reports)} build is given, and a comparison takes two or more", hint="hwgen compare BUILD BUILD ...")
    stories = tuple(Story(data) for _, data in reports)
    rows = tuple(_row(figure, stories, of_speed=figure.key in OF_SPEED) for figure in FIGURES)
    return Comparison(_names([name for name, _ in reports]), stories, rows, tuple(_notes(stories)))


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """Different ones: a build that is named twice gets its place behind it."""
    return tuple(name if given.count(name) == 1 else f"{name} #{index + 1}" for index, name in enumerate(given))


def _row(figure: Figure, stories: Sequence[Story], of_speed: bool) -> Row:
    """of_speed: a figure that comes from cycles; estimated and simulated ones have no best among them."""
    values = tuple(figure.of(story) for story in stories)
    numbers = [value for value in values if isinstance(value, (int, float))]
    best = (
        {index for index, value in enumerate(values) if figure.better and value == (max(numbers) if figure.better > 0 else min(numbers))}
        if numbers
        else set()
    )
    alike = not of_speed or len(_stages(stories)) < 2
    return Row(figure, values, frozenset(best if alike and len(set(values)) > 1 else ()))


def _stages(stories: Sequence[Story]) -> set[str]:
    """Where their cycles come from."""
    return {story.speed.stage for story in stories if story.speed}


def _notes(stories: Sequence[Story]) -> list[str]:
    """What has to be known before the figures are compared."""
    found = []
    if len({story.data.get("source", {}).get("sha256") for story in stories}) > 1:
        found.append(f"the builds are of different networks or files: {', '.join(dict.fromkeys(story.name for story in stories))}")
    if len(_stages(stories)) > 1:
        found.append("cycles of some builds are simulated, of others estimated: none is the best in time, and none beats one of the other stage")
    if len({tuple(sorted(story.speed.memory.items())) for story in stories if story.speed and story.speed.stage == "rtl simulation"}) > 1:
        found.append("the simulations had different memories")
    if any(story.data.get("calibration") == "random" for story in stories):
        found.append("builds calibrated with seeded noise have no accuracy")
    return found


# ---------------------------------------------------------------- Pareto

AXES = {"dsp_cells": -1, "lut_cells": -1, "output_snr_db": 1}
"""What latency is drawn against, and which way is better."""


def front(comparison: Comparison, key: str) -> list[int]:
    """Builds that no other with cycles of the same stage beats in latency and in this figure, by latency."""
    better = AXES[key]
    stages = comparison.values("stage")
    points = [
        (latency, -better * value, index)
        for index, (latency, value) in enumerate(zip(comparison.values("latency_ms"), comparison.values(key), strict=True))
        if isinstance(latency, (int, float)) and isinstance(value, (int, float))
    ]
    return [index for x, y, index in sorted(points) if not any(a <= x and b <= y and (a, b) != (x, y) and stages[i] == stages[index]
                                                                for a, b, i in points)]


def plot(comparison: Comparison, key: str) -> Markup:
    """Latency over one figure: a point a build, those of the front joined. Empty where fewer than two builds have both."""
    width, height, left, bottom = 320, 240, 60, 44
    latency, values = comparison.values("latency_ms"), comparison.values(key)
    points = {
        index: (float(x), float(y))
        for index, (x, y) in enumerate(zip(latency, values, strict=True))
        if isinstance(x, (int, float)) and isinstance(y, (int, float))
    }
    if len(points) < 2:
        return Markup()
    x_low, x_high = _span([x for x, _ in points.values()])
    y_low, y_high = _span([y for _, y in points.values()])

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (
            left + (width - left - 16) * (point[0] - x_low) / (x_high - x_low),
            10 + (height - 10 - bottom) * (y_high - point[1]) / (y_high - y_low),
        )

    drawn = []
    for x in _ticks([x for x, _ in points.values()], 3):
        across, _ = place((x, y_low))
        drawn += [line(across, 10, across, height - bottom, class_="grid"),
                  label(across, height - bottom + 16, digits(x, 4), text_anchor="middle", class_="small")]
    for y in _ticks([y for _, y in points.values()], 5):
        _, up = place((x_low, y))
        drawn += [line(left, up, width - 16, up, class_="grid"), label(left - 6, up + 4, digits(y), text_anchor="end", class_="small")]
    best = front(comparison, key)
    if len(best) > 1 and len(_stages(comparison.stories)) == 1:
        drawn.append(
            element("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(points[index]) for index in best)), class_="front")
        )
    for index, point in points.items():
        x, y = place(point)
        about = f"{comparison.names[index]}: {digits(point[0])} ms, {digits(point[1])}{', on the front' if index in best else ''}"
        drawn += [
            element("circle", title(about), cx=x, cy=y, r=6.0 if index in best else 4.0, class_=colour(index)),
            label(x + 8, y - 7, str(index + 1), class_="small"),
        ]
    name = next(figure.name for figure in FIGURES if figure.key == key)
    drawn += [label(width - 16, height - 8, "latency (ms)", text_anchor="end", class_="small"), label(0, 12, name, class_="small halo")]
    return picture(width, height, f"Latency against {name}; builds that no other beats are joined", *drawn, class_="chart")


def _ticks(values: Sequence[float], most: int) -> list[float]:
    """Marks of an axis: so many from the least to the largest, one where all are the same."""
    low, high = min(values), max(values)
    return [low + (high - low) * part / (most - 1) for part in range(most)] if high > low else [low]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """A range round some values, never empty."""
    low, high = min(values), max(values)
    edge = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return (max(0.0, low - edge) if low >= 0 else low - edge), high + edge


def page(comparison: Comparison, now: float) -> str:
    """One self-contained HTML page. now: seconds since 1970."""
    names = join(
        element("li", element("i", class_=f"key {colour(index)}"), f"{index + 1}: {name}") for index, name in enumerate(comparison.names)
    )
    head = element(
        "tr", element("th", "figure", scope="col"), *(element("th", f"{index + 1}", scope="col") for index in range(len(comparison.names)))
    )
    body = [
        element(
            "tr",
            element("th", row.figure.name, scope="row"),
            *(
                element("td", row.shown(index), *((Markup(' <span class="best">best</span>'),) if index in row.best else ()))
                for index in range(len(comparison.names))
            ),
            class_="differs" if row.differs else None,
        )
        for row in comparison.rows
    ]
    plots = join(plot(comparison, key) for key in AXES)
    return render(
        "compare.html.j2",
        names=element("ul", names, class_="legend"),
        table=element("table", element("thead", head), element("tbody", *body)),
        plots=plots or element("p", "Fewer than two builds have these figures.", class_="missing"),
        notes=comparison.notes,
        written=when(now),
        **style(),
    )
