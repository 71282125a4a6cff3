// The pager: one held-out subject after the other, its pictures, and what is known of it.

function startSubjects(data, chosen, filtered) {
  const columns = data.layers.map((layer) => ({ layer, table: colourTable(layer.colours === "grey" ? GREY : DIVERGING, layer.stored, layer.shown) }));
  const hasNorm = data.layers.some(({ name }) => name === "deviation");
  const widest = Math.max(...data.planes.map(({ mm }) => mm[0]));
  let left = data.subjects.map(() => true);
  let listed = [];
  let current = null;

  // a row for each plane, axial first, a column for each layer; all of one scale
  const grid = make("div", { className: "v-grid" });
  grid.style.gridTemplateColumns = `repeat(${columns.length}, minmax(0, 1fr))`;
  const titles = { image: "image", reconstruction: "reconstruction", residual: "image − reconstruction", deviation: "deviation, z" };
  grid.append(...columns.map(({ layer }) => make("div", { className: "v-head", textContent: titles[layer.name] })));
  columns.forEach((column) => { column.made = data.planes.map((plane) => makePlane(plane, column.layer.name === "residual", column !== columns[0])); });
  for (const axis of [2, 1, 0]) {
    for (const { made, layer } of columns) {
      made[axis].figure.style.width = `${(100 * data.planes[axis].mm[0]) / widest}%`;
      grid.append(make("div", { className: layer.name === "residual" ? "v-cell v-light" : "v-cell" }, [made[axis].figure]));
    }
  }
  const meanings = { residual: "red is brighter than reconstructed", deviation: "red is brighter than in healthy subjects" };
  grid.append(...columns.map(({ layer }) => makeLegend(layer.colours === "grey" ? GREY : DIVERGING, layer.shown,
    meanings[layer.name] || "")));
  byId("v-pictures").replaceChildren(grid);
  byId("v-from").hidden = !hasNorm;
  if (!hasNorm) byId("v-view").options[1].textContent = "through the largest residual";
  byId("v-views").hidden = !data.subjects.some(({ views }) => views && views.length > 1);
  const orders = [["as in the table", null, 1]];
  data.columns.forEach(({ name, score, kind }, c) => {
    if (kind === "quantity") orders.push([`${name}, highest first`, c, -1]);
    if (score) orders.push([`${name}, lowest first`, c, 1]);
  });
  fillSelect(byId("v-order"), orders.map(([text]) => text));

  function drawPictures(subject) {
    const view = subject.views[Math.min(Number(byId("v-view").value), subject.views.length - 1)];
    const threshold = Number(byId("v-threshold").value);
    byId("v-threshold-value").textContent = String(threshold);
    const all = view.layers.map(bytesOf);
    columns.forEach(({ layer, table, made }, c) => {
      tellPosition(made, view.at);
      if (layer.name !== "deviation") {
        paint(made, (i) => table[all[c][i]]);
        return;
      }
      const [low, high] = layer.stored;
      paint(made, (i) => {
        const value = low + (all[c][i] / 255) * (high - low);
        return Math.abs(value) >= threshold && all[c][i] !== 127 && all[c][i] !== 128 ? table[all[c][i]] : columns[0].table[all[0][i]];
      });
    });
    grid.setAttribute("role", "img");
    grid.setAttribute("aria-label", `${data.layers.map(({ name }) => name).join(", ")} of ${subject.name} in three planes`);
  }

  function drawCard(subject) {
    const rows = (isScore) => data.columns.flatMap(({ name, score }, c) => (score !== isScore ? [] : [make("tr", {}, [
      make("th", { textContent: name }),
      make("td", { className: "v-number", textContent: valueText(subject.values[c]) }),
    ])]));
    const table = (caption, isScore) => {
      const made = rows(isScore);
      return made.length ? [make("table", {}, [make("caption", { textContent: caption }), make("tbody", {}, made)])] : [];
    };
    byId("v-card").replaceChildren(make("h4", { textContent: subject.name }), ...table("Covariates", false), ...table("Scores", true));
  }

  function show(index) {
    current = index;
    const place = listed.indexOf(index);
    byId("v-none").hidden = index !== null;
    byId("v-shown").hidden = index === null;
    byId("v-place").textContent = index === null ? "" : `${place + 1} of ${listed.length}`;
    byId("v-previous").disabled = place <= 0;
    byId("v-next").disabled = index === null || place >= listed.length - 1;
    byId("v-subject").disabled = index === null;
    if (index !== null) {
      byId("v-subject").value = String(place);
      drawPictures(data.subjects[index]);
      drawCard(data.subjects[index]);
    }
    chosen.tell(index);
  }

  function list() {
    const [, column, sign] = orders[Number(byId("v-order").value)];
    listed = data.subjects.map((_, i) => i).filter((i) => data.subjects[i].views && left[i]);
    if (column !== null) {
      const key = (i) => (data.subjects[i].values[column] === null ? Infinity : sign * data.subjects[i].values[column]);
      listed.sort((a, b) => (key(a) === key(b) ? a - b : key(a) - key(b)));
    }
    fillSelect(byId("v-subject"), listed.map((i) => data.subjects[i].name));
  }

  function page(step) {
    const place = listed.indexOf(current) + step;
    if (place >= 0 && place < listed.length) show(listed[place]);
  }

  byId("v-previous").addEventListener("click", () => page(-1));
  byId("v-next").addEventListener("click", () => page(1));
  byId("v-subject").addEventListener("change", () => show(listed[Number(byId("v-subject").value)]));
  byId("v-order").addEventListener("change", () => { list(); show(listed.length ? listed[0] : null); });
  ["v-view", "v-threshold"].forEach((id) => byId(id).addEventListener("input", () => { if (current !== null) drawPictures(data.subjects[current]); }));
  byId("v-pager").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    // these keys have a meaning of their own in a list and a slider
    if (!step || event.altKey || event.ctrlKey || event.metaKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
    event.preventDefault();
    page(step);
  });
  filtered.listen((now) => {
    left = now;
    list();
    show(listed.includes(current) ? current : listed.length ? listed[0] : null);
  });
  return (index) => { if (listed.includes(index)) show(index); };
}
