// Elements of the page. Every text comes from outside and is set as text, never as markup.

function byId(id) {
  return document.getElementById(id);
}

function make(name, properties = {}, children = []) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

function makeSvg(name, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function fillSelect(select, texts) {
  select.replaceChildren(...texts.map((text, index) => make("option", { value: String(index), textContent: text })));
}

// three significant digits, a dash for what is missing, as in the tables of the report
function numberText(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 100 && size < 1e6) return value.toFixed(0);
  return size >= 1e-4 && size < 100 ? value.toPrecision(3) : value.toExponential(2);
}

function signed(value, digits) {
  return (value > 0 ? "+" : "") + value.toFixed(digits);
}

// what one section tells the others
function makeSignal() {
  const listeners = [];
  return {
    listen: (listener) => listeners.push(listener),
    tell: (value) => listeners.forEach((listener) => listener(value)),
  };
}
