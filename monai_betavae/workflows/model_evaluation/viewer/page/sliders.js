// Sliders of latents: what the decoder makes of them, and the difference from the average.

const STEP = 0.25;
const LIMIT = 3;

function startSliders(data, chosen) {
  const given = data.sliders;
  const decoder = given.template ? templateDecoder(given) : framesDecoder(given);
  const values = decoder.latents.map(() => 0);
  const at = [...given.centre];
  const brain = makeRow(byId("v-brain"), given.planes, false);
  const change = makeRow(byId("v-change"), given.planes, true);
  const scaleOf = (stops, [low, high]) => {
    const table = Array.from({ length: 256 }, (_, i) => colourAt(stops, i / 255));
    return (value) => table[Math.min(Math.max(Math.round((255 * (value - low)) / (high - low)), 0), 255)];
  };
  const ofBrain = scaleOf(GREY, given.shown);
  const ofChange = scaleOf(DIVERGING, given.change);
  let average = decoder.decode(values.map(() => 0), at);
  byId("v-change-legend").replaceChildren(
    makeLegend(DIVERGING, given.change, "difference from the average: red is brighter"));

  function draw() {
    const decoded = decoder.decode(values, at);
    paint(brain, (i) => ofBrain(decoded[i]));
    paint(change, (i) => ofChange(decoded[i] - average[i]));
    const place = [0, 1, 2].map((row) => given.affine[row].reduce((sum, each, i) => sum + each * (i < 3 ? at[i] : 1), 0));
    [brain, change].forEach((made) => tellPosition(made, place));
    byId("v-moved").textContent = movedText(values.filter((value) => value !== 0), given);
  }

  // only a decoder that runs in the page can give other planes
  byId("v-positions").hidden = !given.template;
  if (given.template) {
    byId("v-positions").replaceChildren(...given.planes.map((plane, axis) => {
      const input = make("input", { type: "range", min: 0, max: given.template.shape[axis] - 1, step: 1, value: at[axis],
        "aria-label": `position of the ${plane.name} plane` });
      input.addEventListener("input", () => {
        at[axis] = Number(input.value);
        average = decoder.decode(values.map(() => 0), at);
        draw();
      });
      const label = make("label", {}, [input]);
      label.style.flex = `${plane.mm[0] / plane.mm[1]} 1 0`;
      return label;
    }));
  }

  const rows = decoder.latents.map((latent, k) => {
    const about = data.dimensions.find((each) => each.latent === latent);
    const id = `v-slider-${k}`;
    const input = make("input", { type: "range", id, min: -LIMIT, max: LIMIT, step: STEP, value: 0 });
    const output = make("output", { textContent: "0" });
    output.htmlFor = id;
    const kl = `KL ${numberText(about.kl)}`;
    const label = make("label", { for: id, textContent: `z${latent}` });
    const row = make("div", { className: "v-slider" }, [
      label, input, output, make("span", { className: "v-kl", textContent: kl, title: "nats over the subjects" })]);
    input.setAttribute("aria-label", `latent z${latent}, ${kl} nats${about.active ? "" : ", not active"}`);
    const set = (value) => {
      values[k] = value;
      input.value = String(value);
      output.textContent = signed(value, 2);
      row.classList.toggle("v-away", value !== 0);
    };
    input.addEventListener("input", () => { set(Number(input.value)); draw(); });
    set(0);
    return { row, set, latent };
  });
  byId("v-sliders").replaceChildren(...rows.map(({ row }) => row));
  byId("v-reset").addEventListener("click", () => { rows.forEach(({ set }) => set(0)); draw(); });
  let subject = null;
  chosen.listen((index) => { subject = index; byId("v-match").disabled = index === null; });
  byId("v-match").addEventListener("click", () => {
    const { code } = data.subjects[subject];
    rows.forEach(({ set, latent }) => {
      const value = code[data.dimensions.findIndex((each) => each.latent === latent)];
      set(Math.min(Math.max(Math.round(value / STEP) * STEP, -LIMIT), LIMIT));
    });
    draw();
  });
  draw();
}

function movedText(moved, { template, frames }) {
  if (moved.length === 0) return "All sliders at 0: the average brain.";
  const count = moved.length === 1 ? "One slider moved" : `${moved.length} sliders moved`;
  if (template) return `${count}: decoded in this page.`;
  if (moved.length === 1) {
    return `${count}: ${frames.steps.includes(moved[0]) ? "decoded at this value" : "a blend of the two nearest decoded values"}.`;
  }
  const two = moved.length === 2 && frames.errorOfTwo !== null;
  return `${count}: their differences from the average are added. For codes of the prior, the sum of `
    + `${two ? "two" : "all"} is off by ${Math.round(100 * (two ? frames.errorOfTwo : frames.errorOfAll))} % of the change.`;
}
