/* Draws the charts of a page with Observable Plot, from the JSON beside each. Each has a table that says the same, so nothing
   is lost without this script. */
"use strict";
(() => {
  const MARK = "var(--mark)";
  const labelled = (data) => ({ label: data.x ?? null, tickFormat: data.format });

  /* Kind of chart -> options of Plot, from the chart's data and its width. */
  const kinds = {
    // {x, rows: [{name, value}]}: how many of each, the most first.
    bars: (data, width) => ({
      marginLeft: Math.min(width * 0.4, 12 + 7 * Math.max(...data.rows.map((row) => Math.min(row.name.length, 36)))),
      height: 56 + 20 * data.rows.length,
      marginTop: 8,
      x: { label: data.x ?? null, grid: true, nice: true, ticks: ticks(data.rows, width / 90) },
      y: { label: null, domain: data.rows.map((row) => row.name), tickFormat: (name) => shortened(name, 36) },
      marks: [
        Plot.barX(data.rows, { x: "value", y: "name", fill: MARK, insetTop: 2, insetBottom: 2, title: (row) => `${row.name}: ${number(row.value)}` }),
        Plot.ruleX([0], { stroke: "currentColor" }),
      ],
    }),
    // {x, y, rows: [{from, to, value}]}: how many in each range.
    histogram: (data, width) => ({
      height: 190,
      x: { ...labelled(data), ticks: steps(data.rows, width / 80) },
      y: { label: data.y ?? null, grid: true, ticks: ticks(data.rows, 4), nice: true },
      marks: [
        Plot.rectY(data.rows, { x1: "from", x2: "to", y: "value", fill: MARK, insetLeft: 0.5, insetRight: 0.5, title: (row) => `${number(row.from)} to ${number(row.to)}: ${number(row.value)}` }),
        Plot.ruleY([0], { stroke: "currentColor" }),
      ],
    }),
    // {x, y, rows: [{x, y, low, high, series}]}: measures along x; low and high bound an interval. target: [[x, y]], where they
    // should be; band: [[x, low, high]], how far from it they may be by chance.
    lines: (data, width) => ({
      height: 240,
      marginLeft: 56,
      marginRight: several(data) ? Math.min(width * 0.3, 12 + 6.5 * Math.max(...data.rows.map((row) => Math.min(row.series.length, 20)))) : 20,
      x: { ...labelled(data), ticks: places(data.rows, width / 80) },
      y: { label: data.y ?? null, grid: true, nice: true, tickFormat: number },
      color: { scheme: "observable10" }, // names stand at the ends of lines: Plot's legend has styles that the page forbids
      marks: [
        Plot.areaY(data.band ?? [], { x: (at) => at[0], y1: (at) => at[1], y2: (at) => at[2], fill: "currentColor", fillOpacity: 0.1 }),
        Plot.lineY(data.target ?? [], { x: (at) => at[0], y: (at) => at[1], stroke: "currentColor", strokeDasharray: "3 4" }),
        Plot.areaY(data.rows.filter((row) => row.low != null && row.high != null), { x: "x", y1: "low", y2: "high", z: "series", fill: "series", fillOpacity: 0.15 }),
        Plot.lineY(data.rows, { x: "x", y: "y", z: "series", stroke: "series" }),
        several(data) ? Plot.text(data.rows, Plot.selectLast({ x: "x", y: "y", z: "series", text: (row) => shortened(row.series, 20), fill: "series", textAnchor: "start", dx: 6, fontSize: 11 })) : null,
        data.rows.length <= 60 ? Plot.dot(data.rows, { x: "x", y: "y", fill: "series", r: 2.5, title: (row) => `${row.series ?? ""} ${number(row.x)}: ${number(row.y)}`.trim() }) : null,
      ],
    }),
  };

  const several = (data) => new Set(data.rows.map((row) => row.series)).size > 1;
  const number = (value) => (typeof value === "number" ? value.toLocaleString("en-US", { maximumSignificantDigits: 6 }) : value);
  // Counts have no fractions, so small ones get no ticks between them.
  const ticks = (rows, most) => (rows.every((row) => Number.isInteger(row.value)) ? Math.max(1, Math.min(most, ...rows.map((row) => row.value).sort((a, b) => b - a).slice(0, 1))) : most);
  const steps = (rows, most) => (rows.every((row) => Number.isInteger(row.from)) ? Math.max(1, Math.min(most, rows.at(-1).to - rows[0].from)) : most);
  const places = (rows, most) => (rows.every((row) => Number.isInteger(row.x)) ? Math.max(1, Math.min(most, Math.max(...rows.map((row) => row.x)) - Math.min(...rows.map((row) => row.x)))) : most);
  const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  /* Moves names at the ends of lines apart where lines end at the same height. */
  function spread(names, height) {
    const LINE = 12;
    const found = names.map((name) => ({ name, at: /translate\(([-\d.]+),\s*([-\d.]+)\)/.exec(name.getAttribute("transform")) })).filter((each) => each.at);
    const placed = found.map((each) => ({ name: each.name, x: each.at[1], y: Number(each.at[2]) })).sort((a, b) => a.y - b.y);
    placed.forEach((each, at) => { if (at) each.y = Math.max(each.y, placed[at - 1].y + LINE); });
    const below = placed.length ? Math.max(0, placed.at(-1).y - (height - 30)) : 0; // above the axis
    placed.toReversed().forEach((each, at, upwards) => { each.y = Math.min(each.y - (at ? 0 : below), at ? upwards[at - 1].y - LINE : Infinity); });
    for (const each of placed) each.name.setAttribute("transform", `translate(${each.x},${each.y})`);
  }

  function draw(figure) {
    const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const place = figure.querySelector(".drawing");
    const width = place.clientWidth;
    if (!width || String(width) === place.dataset.width) return;
    place.dataset.width = width;
    const caption = figure.querySelector("figcaption");
    const chart = Plot.plot({ width, className: "plot", ariaLabel: caption ? caption.textContent : null, ...kinds[figure.dataset.chart](data, width) });
    const svg = chart.matches("svg") ? chart : chart.querySelector("svg:last-of-type");
    spread([...svg.querySelectorAll("g[aria-label='text'] text")], svg.height.baseVal.value);
    svg.setAttribute("role", "img"); // a picture with one name; its parts have none
    for (const part of svg.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    place.replaceChildren(chart);
  }

  const resized = new ResizeObserver((entries) => {
    for (const entry of entries) draw(entry.target.closest("figure"));
  });
  const drawAll = (within) => {
    for (const figure of within.querySelectorAll("figure[data-chart]")) {
      draw(figure);
      resized.observe(figure.querySelector(".drawing"));
    }
  };
  drawAll(document);
  document.addEventListener("live", (event) => drawAll(event.detail));
  window.engineCharts = kinds; // other scripts of the page add kinds
})();
