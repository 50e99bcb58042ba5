"use strict";

// ---- light and dark
document.getElementById("theme").addEventListener("click", event => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  event.currentTarget.setAttribute("aria-pressed", String(!dark));
});

// ---- tables that sort: a button in every heading, numbers by data-value
for (const table of document.querySelectorAll("table")) {
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const heading = button.parentElement, column = Number(button.dataset.column), body = table.tBodies[0];
      const down = heading.getAttribute("aria-sort") === "none" ? column > 0 : heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("thead th")) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.value === undefined ? row.cells[column].textContent : Number(row.cells[column].dataset.value);
      const rows = [...body.rows].map(row => [key(row), row]);
      rows.sort(([a], [b]) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true })) * (down ? -1 : 1));
      body.append(...rows.map(([, row]) => row));
    });
  }
}

// ---- the timeline: a window [from, from + width] of the cycles of a frame
const drawing = document.getElementById("timeline-drawing");
if (drawing) {
  const view = document.getElementById("timeline-view"), readout = document.getElementById("timeline-readout");
  const marks = [...document.getElementById("timeline-axis").children];
  const { names, slots } = JSON.parse(document.getElementById("timeline-data").textContent);
  const total = Number(drawing.dataset.total), least = Math.min(total, 20);
  const count = new Intl.NumberFormat("en");
  let from = 0, width = total;

  const show = () => {
    width = Math.min(total, Math.max(least, width));
    from = Math.min(total - width, Math.max(0, from));
    drawing.setAttribute("viewBox", `${from} 0 ${width} 56`);
    marks.forEach((mark, index) => { mark.textContent = count.format(Math.round(from + width * index / (marks.length - 1))); });
  };
  const zoom = (factor, where = 0.5) => { const at = from + width * where; width = Math.min(total, Math.max(least, width * factor)); from = at - width * where; show(); };
  const move = share => { from += width * share; show(); };
  const actions = { in: () => zoom(0.5), out: () => zoom(2), left: () => move(-0.25), right: () => move(0.25), all: () => { from = 0; width = total; show(); } };
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", actions[button.dataset.zoom]);

  const place = event => { const box = view.getBoundingClientRect(); return (event.clientX - box.left) / box.width; };
  const tell = where => {
    const cycle = from + width * where;
    const slot = slots.find(([start, cycles]) => start <= cycle && cycle < start + cycles);
    if (!slot) return;
    const [start, cycles, name, tile, hazard, output] = slot;
    const waits = [[tile, "weights"], [hazard, "results"], [output, "the output"]].filter(([n]) => n).map(([n, what]) => `, ${count.format(n)} waiting for ${what}`).join("");
    readout.textContent = `${names[name][0]}: ${count.format(cycles)} cycles from ${count.format(start)}${waits}`;
  };
  view.addEventListener("wheel", event => { if (!event.ctrlKey && document.activeElement !== view) return; event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : 0.8, place(event)); },
    { passive: false });
  let dragged = null;
  view.addEventListener("pointerdown", event => { dragged = [event.clientX, from]; view.setPointerCapture(event.pointerId); });
  view.addEventListener("pointermove", event => {
    if (dragged) { from = dragged[1] - (event.clientX - dragged[0]) / view.getBoundingClientRect().width * width; show(); }
    tell(place(event));
  });
  view.addEventListener("pointerup", () => { dragged = null; });
  view.addEventListener("keydown", event => {
    const action = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", Home: "all" }[event.key];
    if (action) { event.preventDefault(); actions[action](); tell(0.5); }
  });
  show();
}
