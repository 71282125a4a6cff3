// The filter: levels of categories, ends of quantities. It says which subjects are left.

function startFilters(data, filtered) {
  const tests = [];
  const resets = [];

  function apply() {
    const active = tests.map((test) => test()).filter((test) => test !== null);
    const left = data.subjects.map(({ values }) => active.every((test) => test(values)));
    const n = left.filter(Boolean).length;
    byId("v-count").textContent = `${n} of ${left.length} subjects`;
    byId("v-clear").disabled = active.length === 0;
    filtered.tell(left);
  }

  function levelsField(column, c) {
    const missing = data.subjects.some(({ values }) => values[c] === null);
    const levels = missing ? [...column.levels, null] : column.levels;
    const boxes = levels.map((level) => make("input", { type: "checkbox", checked: true }));
    boxes.forEach((box) => box.addEventListener("change", apply));
    tests.push(() => {
      const kept = new Set(levels.filter((_, i) => boxes[i].checked));
      return kept.size === levels.length ? null : (values) => kept.has(values[c]);
    });
    resets.push(() => boxes.forEach((box) => { box.checked = true; }));
    return make("div", { className: "v-bar" }, levels.map((level, i) =>
      make("label", {}, [boxes[i], ` ${level === null ? "(missing)" : level}`])));
  }

  function endsField(column, c) {
    const known = data.subjects.map(({ values }) => values[c]).filter((value) => value !== null);
    const ends = known.length ? [Math.min(...known), Math.max(...known)] : [null, null];
    const inputs = ["from", "to"].map((word, i) => {
      const input = make("input", { type: "number", step: "any", placeholder: numberText(ends[i]) });
      input.setAttribute("aria-label", `${column.name} ${word}`);
      input.addEventListener("input", apply);
      return input;
    });
    tests.push(() => {
      const [from, to] = inputs.map((input) => (input.value === "" ? null : Number(input.value)));
      if (from === null && to === null) return null;
      // a subject without the value isn't known to be between the ends
      return (values) => values[c] !== null && (from === null || values[c] >= from) && (to === null || values[c] <= to);
    });
    resets.push(() => inputs.forEach((input) => { input.value = ""; }));
    return make("div", { className: "v-bar" }, [make("label", {}, ["from ", inputs[0]]), make("label", {}, ["to ", inputs[1]])]);
  }

  byId("v-filters").replaceChildren(...data.columns.map((column, c) => make("fieldset", {}, [
    make("legend", { textContent: column.name }),
    column.kind === "category" ? levelsField(column, c) : endsField(column, c),
  ])));
  byId("v-clear").addEventListener("click", () => { resets.forEach((reset) => reset()); apply(); });
  return apply;
}
