// The scatter of codes: two latents, a colour, and who is under the pointer.

const SIZE = { width: 470, height: 360, left: 46, right: 12, top: 12, bottom: 40 };
// Okabe and Ito's colours, each with a shape of its own
const LEVEL_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#000000"];
const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M0,${-1.2 * r}L${1.1 * r},${r}L${-1.1 * r},${r}Z`,
  (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  (r) => `M0,${-1.4 * r}L${1.2 * r},0L0,${1.4 * r}L${-1.2 * r},0Z`,
  (r) => `M${-r},${-r / 3}H${-r / 3}V${-r}H${r / 3}V${-r / 3}H${r}V${r / 3}H${r / 3}V${r}H${-r / 3}V${r / 3}H${-r}Z`,
  (r) => `M0,${1.2 * r}L${1.1 * r},${-r}L${-1.1 * r},${-r}Z`,
];
const OTHER = "#999999";

// colour and shape of each subject, and what the legend says
function marksOf(data, c) {
  if (c < 0) return { of: () => [LEVEL_COLOURS[0], 0], keys: [], ramp: null };
  const column = data.columns[c];
  if (column.kind === "category") {
    const counts = column.levels.map((level) => data.subjects.filter(({ values }) => values[c] === level).length);
    const order = column.levels.map((_, i) => i).sort((a, b) => counts[b] - counts[a]).slice(0, LEVEL_COLOURS.length);
    const drawn = column.levels.filter((_, i) => order.includes(i));
    const markOf = (level) => {
      const i = drawn.indexOf(level);
      return i < 0 ? [OTHER, 0] : [LEVEL_COLOURS[i], i % SHAPES.length];
    };
    const keys = drawn.map((level) => [level, markOf(level)]);
    if (drawn.length < column.levels.length) keys.push(["others", [OTHER, 0]]);
    if (data.subjects.some(({ values }) => values[c] === null)) keys.push(["(missing)", [OTHER, 0]]);
    return { of: ({ values }) => markOf(values[c]), keys, ramp: null };
  }
  const known = data.subjects.map(({ values }) => values[c]).filter((value) => value !== null);
  const ends = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  const share = (value) => (ends[1] > ends[0] ? (value - ends[0]) / (ends[1] - ends[0]) : 0.5);
  const of = ({ values }) => (values[c] === null ? [OTHER, 2] : [cssColour(colourAt(GROWING, share(values[c]))), 0]);
  const keys = known.length < data.subjects.length ? [["(missing)", [OTHER, 2]]] : [];
  return { of, keys, ramp: ends };
}

function ticksOf(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) ticks.push(Number((i * step).toPrecision(6)));
  return ticks;
}

function startScatter(data, chosen, filtered, choose) {
  const svg = makeSvg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, tabindex: 0, role: "application",
    "aria-label": "Scatter of codes. Arrow keys go from subject to subject, Enter chooses." });
  byId("v-scatter").replaceChildren(svg);
  const names = data.dimensions.map(({ latent, kl, active }) => `z${latent} (KL ${numberText(kl)}${active ? "" : ", not active"})`);
  fillSelect(byId("v-x"), names);
  fillSelect(byId("v-y"), names);
  byId("v-y").value = String(Math.min(1, names.length - 1));
  fillSelect(byId("v-colour"), ["none", ...data.columns.map(({ name }) => name)]);
  byId("v-colour").value = String(Math.min(1, data.columns.length));
  let left = data.subjects.map(() => true);
  let places = [];
  let current = null;
  let pointed = null;

  function draw() {
    const axes = [Number(byId("v-x").value), Number(byId("v-y").value)];
    const marks = marksOf(data, Number(byId("v-colour").value) - 1);
    const inner = [[SIZE.left, SIZE.width - SIZE.right], [SIZE.height - SIZE.bottom, SIZE.top]];
    const scales = axes.map((d, i) => {
      const values = data.subjects.map(({ code }) => code[d]);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const room = 0.06 * (high - low) || 1;
      const [from, to] = [low - room, high + room];
      const at = (value) => inner[i][0] + ((value - from) / (to - from)) * (inner[i][1] - inner[i][0]);
      return { at, ticks: ticksOf(from, to) };
    });
    places = data.subjects.map(({ code }) => [scales[0].at(code[axes[0]]), scales[1].at(code[axes[1]])]);
    const parts = [];
    for (const tick of scales[0].ticks) {
      const x = scales[0].at(tick);
      parts.push(makeSvg("line", { x1: x, x2: x, y1: SIZE.top, y2: inner[1][0], stroke: "#e5e5e5" }));
      parts.push(makeSvg("text", { x, y: inner[1][0] + 15, "text-anchor": "middle" }, numberText(tick)));
    }
    for (const tick of scales[1].ticks) {
      const y = scales[1].at(tick);
      parts.push(makeSvg("line", { x1: SIZE.left, x2: inner[0][1], y1: y, y2: y, stroke: "#e5e5e5" }));
      parts.push(makeSvg("text", { x: SIZE.left - 5, y: y + 4, "text-anchor": "end" }, numberText(tick)));
    }
    parts.push(makeSvg("text", { x: (inner[0][0] + inner[0][1]) / 2, y: SIZE.height - 6, "text-anchor": "middle" }, names[axes[0]]));
    parts.push(makeSvg("text", { transform: `translate(12 ${(inner[1][0] + inner[1][1]) / 2}) rotate(-90)`, "text-anchor": "middle" }, names[axes[1]]));
    const order = data.subjects.map((_, i) => i).sort((a, b) => Number(left[a]) - Number(left[b]));
    for (const i of order) {
      const [colour, shape] = marks.of(data.subjects[i]);
      const [x, y] = places[i];
      parts.push(left[i]
        ? makeSvg("path", { d: SHAPES[shape](4.5), transform: `translate(${x} ${y})`, fill: colour, stroke: "#fff", "stroke-width": 0.8 })
        : makeSvg("circle", { cx: x, cy: y, r: 1.8, fill: "#bbb" }));
    }
    for (const [i, radius, width] of [[current, 9, 2], [pointed, 7, 1.5]]) {
      if (i !== null) parts.push(makeSvg("circle", { cx: places[i][0], cy: places[i][1], r: radius, fill: "none", stroke: "#222", "stroke-width": width }));
    }
    if (pointed !== null) {
      const [x, y] = places[pointed];
      const right = x < SIZE.width / 2;
      parts.push(makeSvg("text", { x: x + (right ? 11 : -11), y: y - 9, "text-anchor": right ? "start" : "end", "font-weight": 600, stroke: "#fff", "stroke-width": 4, "paint-order": "stroke" }, data.subjects[pointed].name));
    }
    svg.replaceChildren(...parts);
    byId("v-legend").replaceChildren(
      ...(marks.ramp ? [makeLegend(GROWING, marks.ramp, data.columns[Number(byId("v-colour").value) - 1].name)] : []),
      make("div", { className: "v-keys" }, marks.keys.map(([text, [colour, shape]]) => {
        const sign = makeSvg("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" });
        sign.append(makeSvg("path", { d: SHAPES[shape](4.5), fill: colour }));
        return make("span", {}, [sign, text]);
      })));
  }

  function point(index) {
    if (index === pointed) return;
    pointed = index;
    const shown = index === null ? current : index;
    byId("v-who").replaceChildren(...(shown === null ? [] : whoIs(data, shown)));
    draw();
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const scale = SIZE.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let [best, distance] = [null, 14];
    places.forEach(([px, py], i) => {
      const far = Math.hypot(px - x, py - y);
      if (left[i] && far < distance) [best, distance] = [i, far];
    });
    return best;
  }

  svg.addEventListener("pointermove", (event) => point(nearest(event)));
  svg.addEventListener("pointerleave", () => point(null));
  svg.addEventListener("blur", () => point(null));
  svg.addEventListener("click", (event) => { const index = nearest(event); if (index !== null) choose(index); });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Enter" && pointed !== null) choose(pointed);
    else if (event.key === "Escape") point(null);
    if (!step) return;
    event.preventDefault();
    const axis = event.key === "ArrowUp" || event.key === "ArrowDown" ? 1 : 0;
    const order = places.map((_, i) => i).filter((i) => left[i]).sort((a, b) => (axis ? places[b][1] - places[a][1] : places[a][0] - places[b][0]));
    if (!order.length) return;
    const from = order.indexOf(pointed === null ? current : pointed);
    point(order[from < 0 ? 0 : Math.min(Math.max(from + step, 0), order.length - 1)]);
  });
  ["v-x", "v-y", "v-colour"].forEach((id) => byId(id).addEventListener("change", draw));
  filtered.listen((now) => { left = now; if (pointed !== null && !left[pointed]) pointed = null; draw(); });
  chosen.listen((index) => {
    current = index;
    byId("v-who").replaceChildren(...(index === null ? [] : whoIs(data, index)));
    draw();
  });
  draw();
}

function whoIs(data, index) {
  const subject = data.subjects[index];
  const told = data.columns.map(({ name, score }, c) => [name, subject.values[c], score]).filter(([, , score]) => !score).slice(0, 6);
  return [
    make("h4", { textContent: subject.name }),
    make("p", { className: "v-hint", textContent: [
      ...told.map(([name, value]) => `${name} ${valueText(value)}`),
      ...(subject.views ? [] : ["no pictures on this page"]),
    ].join(", ") }),
  ];
}

function valueText(value) {
  return typeof value === "number" || value === null ? numberText(value) : value;
}
