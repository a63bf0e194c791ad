/* Draws the graphs of a page as SVG, laid out by dagre, from the JSON beside each. What a graph says is also in words on its page,
   so nothing is lost without this script. */
"use strict";
(() => {
  const SVG = document.querySelector("svg").namespaceURI; // of the mark, which is on every page
  const LINE = 16;
  const SMALLEST = 0.8; // of its size; a graph that needs less scrolls instead, until it is zoomed
  const LEAST = 0.2;
  const MOST = 2;
  const STEP = 1.25;
  const NARROW = 640;
  const context = document.createElement("canvas").getContext("2d");
  const scrolled = new Map();
  const zoomed = new Map(); // id of a figure -> the scale that was chosen

  function element(name, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function widest(lines, font) {
    context.font = font;
    return Math.max(0, ...lines.map((line) => context.measureText(line).width));
  }

  /* A node with its size, from its text. */
  function sized(node, fonts) {
    const width = Math.max(widest([node.title], fonts.strong), widest(node.lines, fonts.plain)) + 26;
    return { ...node, width: Math.ceil(width), height: 14 + LINE * (1 + node.lines.length) };
  }

  /* From left to right where there is room for that, else from top to bottom where there is room for that. */
  function laidOut(data, fonts, room) {
    const fits = (graph) => graph.graph().width * SMALLEST <= room;
    if (room < NARROW) return placed(data, fonts, true);
    const across = placed(data, fonts, false);
    if (fits(across)) return across;
    const down = placed(data, fonts, true);
    return fits(down) ? down : across;
  }

  function placed(data, fonts, down) {
    const graph = new dagre.graphlib.Graph({ multigraph: false });
    graph.setGraph({ rankdir: down ? "TB" : "LR", nodesep: down ? 22 : 12, ranksep: down ? 20 : 24, marginx: 4, marginy: 4 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const node of data.nodes) graph.setNode(node.id, sized(node, fonts));
    for (const edge of data.edges) {
      const lines = edge.lines;
      graph.setEdge(edge.start, edge.end, {
        ...edge,
        width: lines.length ? Math.ceil(widest(lines, fonts.small)) + 8 : 0,
        height: lines.length * 13,
        labelpos: "c",
      });
    }
    dagre.layout(graph);
    return graph;
  }

  /* A smooth line through the points that dagre gives. */
  function path(points) {
    const [first, ...rest] = points;
    const parts = [`M${first.x} ${first.y}`];
    for (let at = 0; at < rest.length - 1; at += 1) {
      const middle = { x: (rest[at].x + rest[at + 1].x) / 2, y: (rest[at].y + rest[at + 1].y) / 2 };
      const end = at === rest.length - 2 ? rest[at + 1] : middle;
      parts.push(`Q${rest[at].x} ${rest[at].y} ${end.x} ${end.y}`);
    }
    if (rest.length === 1) parts.push(`L${rest[0].x} ${rest[0].y}`);
    return parts.join("");
  }

  function texts(lines, x, y, step, attributes) {
    return lines.map((line, at) => element("text", { x, y: y + at * step, ...attributes }, line));
  }

  function drawnEdge(edge) {
    const group = element("g", { class: edge.muted ? "edge muted" : "edge" });
    group.append(element("path", { d: path(edge.points), "marker-end": "url(#arrow)" }));
    if (edge.lines.length) {
      const top = edge.y - (edge.lines.length * 13) / 2;
      group.append(element("rect", { x: edge.x - edge.width / 2, y: top - 1, width: edge.width, height: edge.lines.length * 13 + 2, rx: 3 }));
      group.append(...texts(edge.lines, edge.x, top + 10, 13, { "text-anchor": "middle" }));
    }
    return group;
  }

  function drawnNode(node) {
    const left = node.x - node.width / 2;
    const top = node.y - node.height / 2;
    const round = node.kind === "step" ? 4 : Math.min(14, node.height / 2);
    const shape = element("g", { class: `node ${node.kind} ${node.state}`.trim() });
    shape.append(element("rect", { x: left, y: top, width: node.width, height: node.height, rx: round }));
    shape.append(...texts([node.title], left + 13, top + 20, LINE, { class: "title" }));
    shape.append(...texts(node.lines, left + 13, top + 20 + LINE, LINE, {}));
    if (!node.href) return shape;
    const link = element("a", { href: node.href }, shape);
    return link;
  }

  function resize(svg, scale) {
    const { width, height } = svg.viewBox.baseVal;
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
  }

  /* Zooms to a scale; the point at (x, y) of the window, or the middle, stays where it is. */
  function zoom(figure, chosen, x, y) {
    const place = figure.querySelector(".drawing");
    const svg = place.querySelector("svg");
    const before = svg.width.baseVal.value / svg.viewBox.baseVal.width;
    const scale = Math.min(MOST, Math.max(LEAST, chosen));
    const around = place.getBoundingClientRect();
    const at = { x: (x ?? around.left + around.width / 2) - around.left, y: (y ?? around.top + around.height / 2) - around.top };
    const [left, top] = [place.scrollLeft + at.x, place.scrollTop + at.y].map((each) => (each * scale) / before);
    zoomed.set(figure.id, scale);
    resize(svg, scale);
    place.scrollTo(left - at.x, top - at.y);
  }

  /* Buttons and Ctrl with the wheel zoom, dragging moves. The keyboard has the buttons, and the arrows in the drawing. */
  function makeMovable(figure, place) {
    const scale = () => place.querySelector("svg").width.baseVal.value / place.querySelector("svg").viewBox.baseVal.width;
    const whole = () => {
      const { width, height } = place.querySelector("svg").viewBox.baseVal;
      return Math.min(1, (place.clientWidth - 24) / width, (place.clientHeight - 24) / height);
    };
    const ways = { larger: () => scale() * STEP, smaller: () => scale() / STEP, whole };
    for (const button of figure.querySelectorAll(".zoom button")) {
      button.addEventListener("click", () => zoom(figure, ways[button.value]()));
    }
    place.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(figure, scale() * (event.deltaY < 0 ? STEP : 1 / STEP), event.clientX, event.clientY);
    }, { passive: false });
    let from = null;
    place.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) from = { x: event.clientX + place.scrollLeft, y: event.clientY + place.scrollTop, far: false };
    });
    window.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [left, top] = [from.x - event.clientX, from.y - event.clientY];
      from.far ||= Math.hypot(left - place.scrollLeft, top - place.scrollTop) > 4;
      if (from.far) place.scrollTo(left, top);
    });
    window.addEventListener("pointerup", () => {
      if (from?.far) place.addEventListener("click", (event) => event.preventDefault(), { capture: true, once: true }); // not the link that was dragged
      from = null;
    });
    place.addEventListener("dragstart", (event) => event.preventDefault());
  }

  /* Where a graph opens that is about no node of its own: at its first step. */
  function first(svg, graph) {
    const place = graph.graph().rankdir === "TB" ? "y" : "x";
    const at = graph.nodes().map((id) => (graph.node(id).kind === "step" ? graph.node(id)[place] : Infinity));
    return svg.querySelectorAll(".node")[at.indexOf(Math.min(...at))];
  }

  function draw(figure) {
    const place = figure.querySelector(".drawing");
    const style = getComputedStyle(place);
    const room = place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const tallest = parseFloat(style.maxHeight) - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    if (!(room > 0) || String(room) === place.dataset.width) return;
    place.dataset.width = room;
    const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const family = getComputedStyle(figure).fontFamily;
    const fonts = { strong: `600 13px ${family}`, plain: `12px ${family}`, small: `11px ${family}` };
    const graph = laidOut(data, fonts, room);
    const { width, height } = graph.graph();
    const scale = zoomed.get(figure.id) ?? Math.max(SMALLEST, Math.min(1, room / width, tallest / height));
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": figure.dataset.label });
    resize(svg, scale);
    const arrow = element("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" });
    arrow.append(element("path", { d: "M0 0.5 8 4 0 7.5z" }));
    svg.append(element("defs", {}, arrow));
    for (const each of graph.edges()) svg.append(drawnEdge(graph.edge(each)));
    for (const each of graph.nodes()) svg.append(drawnNode(graph.node(each)));
    place.replaceChildren(svg);
    const start = svg.querySelector(".node.start") ?? first(svg, graph);
    const before = scrolled.get(figure.id);
    if (before) [place.scrollLeft, place.scrollTop] = before;
    else if (start) {
      const box = start.getBoundingClientRect();
      const around = place.getBoundingClientRect();
      place.scrollLeft = box.left - around.left - (room - box.width) / 2;
      place.scrollTop = box.top - around.top - (place.clientHeight - box.height) / 2;
    }
    if (!place.dataset.moves) makeMovable(figure, place);
    place.dataset.moves = "";
    figure.querySelector(".zoom").hidden = width * scale <= room + 1 && height * scale <= tallest + 1 && !zoomed.has(figure.id);
    place.addEventListener("scroll", () => scrolled.set(figure.id, [place.scrollLeft, place.scrollTop]), { passive: true });
  }

  const resized = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const figure = entry.target.closest("figure");
      if (figure) draw(figure);
    }
  });
  const drawAll = (within) => {
    for (const figure of within.querySelectorAll("figure[data-graph]")) {
      draw(figure);
      resized.observe(figure.querySelector(".drawing"));
    }
  };
  drawAll(document);
  document.addEventListener("live", (event) => drawAll(event.detail));
})();
