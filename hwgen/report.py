"""Reports for people: the same sections as a terminal table and as one self-contained HTML page.

The input is JSON-able data (``acc.report()``, ``result.to_dict()``); docs/reference/json.md has its keys. Nothing is computed
here but the formatting. A ``stage`` (estimate, rtl simulation, ...) goes into the heading of its section, so that no figure
stands without the stage it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import page
from .errors import HwgenError, InputError
from .foreign import visible
from .page import readable

UNITS = {"_ms": "ms", "_mhz": "MHz", "_bytes": "bytes", "_mb": "MB", "_gb_s": "GB/s", "_percent": "%"}
FRACTIONS = ("utilization", "accuracy")         # shown in percent
SHARES = ("clipped", "input_clipped")           # in percent as well, but small ones count
MATRIX = ("used", "available")                  # a section with these keys is a table with a percentage


@dataclass(frozen=True)
class Section:
    """One table. ``columns`` empty: rows are (label, value)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def label(key: str) -> str:
    """``latency_ms`` -> ``latency [ms]``."""
    for suffix, unit in UNITS.items():
        if key.endswith(suffix):
            return f"{key.removesuffix(suffix).replace('_', ' ')} [{unit}]".lstrip()
    return key.replace("_", " ")


def text(key: str, value) -> str:
    """A value as people read it: thousands separated, four significant digits, fractions in percent."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if key == "onnx_cosine":
            return f"{value:.7f}"
        case float() if key == "onnx_max_abs_error":
            return f"{value:.2g}"
        case float() if key in SHARES:
            return f"{100 * value:.3g} %"
        case float() if key in FRACTIONS:
            return f"{100 * value:.1f} %"
        case float():
            digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 1
            return f"{value:,.{min(digits, 6)}f}"
        case dict():
            return ", ".join(f"{k}: {text(k, v)}" for k, v in value.items())
        case list() | tuple():
            return ", ".join(text(key, v) for v in value)
    return str(value)


def sections(data: dict, title: str = "build") -> list[Section]:
    """Warnings, then single values (under ``title``), then one section a nested record, then one a list of records."""
    if data.get("warnings"):
        rest = sections({k: v for k, v in data.items() if k != "warnings"}, title)
        return [Section("warnings", (), tuple((str(i), w) for i, w in enumerate(data["warnings"], 1))), *rest]
    data = data | {f"{key}_{inner}": rows for key, value in data.items() if isinstance(value, dict)
                   for inner, rows in value.items() if _records(rows)}
    plain = {k: v for k, v in data.items() if not isinstance(v, dict) and not _records(v) and k != "warnings"}
    result = [Section(title, (), tuple((label(k), text(k, v)) for k, v in plain.items()))] if plain else []
    result += [_section(key, value) for key, value in data.items() if isinstance(value, dict) and value]
    for key, value in data.items():
        if _records(value):
            columns = tuple(dict.fromkeys(k for row in value for k in row))
            rows = tuple(tuple(text(k, row.get(k, "")) for k in columns) for row in value)
            result.append(Section(label(key), tuple(label(k) for k in columns), rows))
    return result


def _records(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _section(key: str, value: dict) -> Section:
    stage = value.get("stage")
    title = f"{label(key)} ({stage})" if stage not in (None, key) else label(key)
    if all(isinstance(value.get(k), dict) for k in MATRIX):
        used, available = (value[k] for k in MATRIX)
        used_of = tuple((k, text(k, n), text(k, available.get(k)), f"{100 * n / available[k]:.1f} %" if available.get(k) else "–")
                        for k, n in used.items())
        return Section(title, ("", *MATRIX, "share"), used_of)
    rows = ((k, v) for k, v in value.items() if k != "stage" and not _records(v) and v != [])
    return Section(title, (), tuple((label(k), text(key if key in FRACTIONS else k, v)) for k, v in rows))


def named(data: dict, name: str) -> list[Section]:
    """The sections of this name (their title up to the stage, in any case; where there is none, those that end in it), "all" for every one.
    Raises InputError."""
    every = sections(data)
    asked = name.lower().replace("_", " ")
    titles = [section.title.partition(" (")[0].lower() for section in every]
    wanted = every if asked == "all" else [section for section, title in zip(every, titles, strict=True) if title == asked]
    wanted = wanted or [section for section, title in zip(every, titles, strict=True) if title.endswith(f" {asked}")]      # quantization layers
    if not wanted:
        names = [section.title.partition(" (")[0] for section in every]
        near = get_close_matches(name, names, 1)
        raise InputError(f"the report has no section {name!r}", where="option --section",
                         hint=(f"nearest: {near[0]!r}; " if near else "") + f"there are {', '.join(names)}, and all")
    return wanted


def summary(data: dict) -> list[str]:
    """The report in 25 lines, see `hwgen.page`. Raises BuildVersionError for one that hwgen did not write."""
    with readable(data.get("source", {}).get("file", "report")):
        return page.summary(page.Story(data))


ERROR_OF_ESTIMATES = ("cycles were off by 0.07 % at most from RTL simulations of DeiT-T and M³ViT-T under 24 memories (bench/memory.py), by "
                      "more for small networks: 1.3 % for the bundled one (make demo), 6 % for one of 3,000 cycles "
                      "(docs/decisions/0014-tokens-by-a-list.md); "
                      "cells are counted by hwgen synth")
NO_LIMIT = 1e-4         # share of the cells of a board from which it has limits at all
BOARDS = ("board", "array", "cycles", "ms", "images/s", "array used", "limited by", "fullest", "outputs (dB)")


def board_row(target: str, data: dict | None, error: HwgenError | None) -> tuple[str, ...]:
    """Of a table of `BOARDS`: an estimate, or why the network does not fit."""
    if data is None:
        return (target, "does not fit", *[""] * (len(BOARDS) - 3), error.message if error else "")
    story = page.Story(data)
    array = data.get("array")
    kind, share = story.fullest or ("", 0.0)
    accuracy = story.accuracy.short.removesuffix(" dB") if story.output_errors else "–"
    return (target, f"{array['ti']}x{array['to']}" if array else story.backend, text("", story.speed and story.speed.cycles),
            text("", story.latency_ms), text("", story.images_per_second), text("utilization", story.utilization), story.limit.short,
            f"{text('utilization', share)} {kind}" if share > NO_LIMIT else "no limits", accuracy)


RESULT = ("bit_exact", "mismatches", "accuracy", "images", "cycles_per_image", "latency_ms", "utilization")      # shown first by `simulate`
SETTINGS = ("network", "source", "board", "array", "limits", "memory", "instructions", "warnings",       # warnings go to stderr,
            "onnx")                                                                                                 # onnx is a line


WORST = 5                # layers that `compile` prints


def brief(data: dict) -> dict:
    """A report as `compile` prints it: results without settings, of the number formats those that clip, of the layers the worst."""
    shown = {k: dict(v) if isinstance(v, dict) else v for k, v in data.items() if k not in SETTINGS}
    if rows := data.get("quantization", {}).get("clipping"):
        shown["quantization"] = shown["quantization"] | {"clipping": [row for row in rows if row["clipped"] > 0]}
    if rows := data.get("quantization", {}).get("layers"):
        inner = [row for row in rows if row["format"] != "output"]
        inner.sort(key=lambda row: (row["alone_db"] is None, row["snr_db"] if row["alone_db"] is None else row["alone_db"]))
        shown["quantization"]["layers"] = inner[:WORST] + [row for row in rows if row["format"] == "output"]
    return shown


def show(data: dict, console: Console, title: str = "build", first: tuple[str, ...] = (), leave_out: tuple[str, ...] = ()) -> None:
    """Prints the sections, the keys of ``first`` before the others; those of ``leave_out`` are skipped (long tables)."""
    show_sections(sections({k: data[k] for k in dict.fromkeys((*first, *data)) if k in data and k not in leave_out}, title), console)


def show_sections(shown: Iterable[Section], console: Console) -> None:
    """Tables on a terminal; elsewhere plain text as wide as it is, a line a row."""
    for section in shown:
        if not console.is_terminal:
            console.print(Text("\n".join(plain(section))), soft_wrap=True)
            continue
        table = Table(title=section.title, title_justify="left", show_header=bool(section.columns), title_style="bold")
        for column in section.columns or ("", ""):
            table.add_column(column)
        for row in section.rows:
            table.add_row(*(Text(visible(cell)) for cell in row))        # Text: names with brackets are no markup
        console.print(table)


def plain(section: Section) -> list[str]:
    """A section as lines: its title, headings if it has any, rows with two spaces between columns as wide as their longest cell, an empty line."""
    rows = [tuple(visible(cell) for cell in row) for row in ((section.columns, *section.rows) if section.columns else section.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [section.title, *("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows), ""]


MAX_ROWS = 2_000         # of a table of nodes; a larger network shows those that are not supported
COLOURS = {"supported": "green", "fused": "green", "folded": "cyan", "host": "yellow", "unsupported": "red"}


def verdicts(nodes: list[dict]) -> list[tuple]:
    """Rows of a table of ONNX nodes: node, op, verdict, into, reason."""
    shown = nodes if len(nodes) <= MAX_ROWS else ([n for n in nodes if n["status"] == "unsupported"] or nodes)[:MAX_ROWS]
    return [(n["node"], n["op"], Text(n["status"], COLOURS.get(n["status"], "")), n["into"], n["reason"]) for n in shown]


def judged(onnx: dict) -> str:
    """One line of a comparison with the ONNX file (`judge.Judgement` as a dict)."""
    apart = f", {onnx['images_set_apart']} with a router tie set apart" if onnx["images_set_apart"] else ""
    note = f"; {onnx['note']}" if onnx["note"] else ""
    return (f"equal to the ONNX file ({onnx['runtime']}, {onnx['images']} images{apart}): cosine {onnx['onnx_cosine']:.7f}, largest error "
            f"{onnx['onnx_max_abs_error']:.2g}{note}")
