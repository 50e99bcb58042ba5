"""The page of a report in a real browser: every part is there and to be seen, what can be pressed works, nothing is asked from outside."""

from __future__ import annotations

import itertools
import re

import pytest

from conftest import SCREENSHOTS

PARTS = ["summary", "cycles", "roofline", "resources", "error", "engine", "network", "timeline", "memory", "layers", "assumptions", "cite", "details"]
PAGES = ("estimated", "simulated", "hls")


def natural(name: str) -> list[int | str]:
    """node_2 in front of node_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("name", PAGES)
def test_every_part_is_seen(opened, name):
    page = opened(name)
    found = page.eval_on_selector_all("main > section", "all => all.map(s => [s.id, s.getBoundingClientRect().height, s.innerText.trim().length])")
    assert [part for part, *_ in found if part != "warnings"] == PARTS and all(height > 40 and words > 10 for _, height, words in found)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")         # nothing sticks out
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report_{name}.png", full_page=True)


def test_headings_sort_the_layers(opened):
    page = opened("simulated")
    def column():
        return page.eval_on_selector_all("#layer-table tbody tr", "rows => rows.map(r => [Number(r.cells[1].dataset.value), r.cells[0].innerText])")
    before = column()
    page.click("#layer-table thead th:nth-child(2) button")
    assert [cycles for cycles, _ in column()] == sorted((cycles for cycles, _ in before), reverse=True) != [cycles for cycles, _ in before]
    assert page.get_attribute("#layer-table thead th:nth-child(2)", "aria-sort") == "descending"
    page.focus("#layer-table thead th:nth-child(2) button")
    page.keyboard.press("Enter")
    assert [cycles for cycles, _ in column()] == sorted(cycles for cycles, _ in before)
    page.click("#layer-table thead th:nth-child(1) button")
    names = [name for _, name in column()]
    assert names == sorted(names, key=natural) != [name for _, name in before]
    assert page.get_attribute("#layer-table thead th:nth-child(1)", "aria-sort") == "ascending"


def test_the_timeline_zooms_by_button_wheel_and_keyboard(opened):
    page = opened("simulated")
    total = float(page.get_attribute("#timeline-drawing", "data-total"))

    def window():
        left, _, width, _ = map(float, page.get_attribute("#timeline-drawing", "viewBox").split())
        return left, width
    assert window() == (0, total)
    page.click("[data-zoom=in]")
    assert window() == (total / 4, total / 2)
    page.click("[data-zoom=right]")
    assert window()[0] == pytest.approx(total * 3 / 8)
    page.focus("#timeline-view")
    page.keyboard.press("+")
    assert window()[1] == total / 4 and "cycles from" in page.inner_text("#timeline-readout")
    page.keyboard.press("Home")
    assert window() == (0, total)
    box = page.locator("#timeline-view").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.wheel(0, -100)
    assert window()[1] == pytest.approx(total * 0.8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - 100, box["y"] + 20)
    page.mouse.up()
    left, width = window()
    assert left == pytest.approx(total * 0.1 + 100 / box["width"] * width, rel=0.01)
    assert page.inner_text("#timeline-axis span:last-child").replace(",", "") == str(round(left + width))


def test_light_and_dark(opened):
    dark, light = opened("simulated", color_scheme="dark"), opened("simulated", color_scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    assert dark.evaluate(colour) != light.evaluate(colour) == "rgb(255, 255, 255)"
    light.click("#theme")
    assert light.evaluate(colour) == dark.evaluate(colour) and light.get_attribute("#theme", "aria-pressed") == "true"
    dark.screenshot(path=SCREENSHOTS / "report_dark.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(opened, scheme):
    """Contrast of text, of soft text and of links against the page and its cards: 4.5 and more (WCAG 2.2, 1.4.3)."""
    page = opened("simulated", color_scheme=scheme)
    names = ("--back", "--card", "--front", "--soft", "--accent")
    colours = page.evaluate("names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(n).trim())", names)
    light = {}
    for name, colour in zip(names, colours, strict=True):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        light[name] = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    for ground in ("--back", "--card"):
        for words in ("--front", "--soft", "--accent"):
            high, low = sorted((light[ground], light[words]), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, words)


def test_on_paper(opened):
    page = opened("simulated")
    page.emulate_media(media="print")
    assert not page.is_visible("nav") and not page.is_visible(".controls") and page.is_visible("#layers")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"


def test_by_keyboard_and_aloud(opened):
    page = opened("simulated")
    assert page.eval_on_selector_all("button", "all => all.filter(b => !(b.innerText.trim() || b.ariaLabel)).length") == 0
    assert page.eval_on_selector_all("svg", "all => all.filter(s => s.getAttribute('role') !== 'img' || !s.querySelector('title')).length") == 0
    assert page.eval_on_selector_all("table#layer-table th", "all => all.filter(t => !t.scope).length") == 0
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.get_attribute("html", "lang") == "en"


def test_on_a_telephone(opened):
    page = opened("simulated")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= 390")


def test_builds_compared(opened):
    page = opened("compared", color_scheme="light")
    found = page.eval_on_selector_all("main > section", "all => all.map(s => [s.id, s.innerText.trim().length])")
    assert [part for part, _ in found] == ["builds", "pareto", "figures"] and all(words > 10 for _, words in found)
    assert page.locator("tr.differs").count() > 3 and page.locator(".best").count() > 0
    page.screenshot(path=SCREENSHOTS / "compare.png", full_page=True)
