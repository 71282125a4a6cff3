// Pictures of planes: bytes from the page's data, colour scales, and canvases.

// ColorBrewer's RdBu, which readers with any colour vision can tell apart: blue below zero, red above
const DIVERGING = [[5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247],
  [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43], [103, 0, 31]];
// cividis, which grows in lightness alike for all readers
const GROWING = [[0, 32, 76], [0, 52, 110], [57, 72, 107], [87, 92, 109], [112, 113, 115], [138, 134, 120],
  [165, 156, 116], [195, 179, 105], [225, 204, 85], [255, 234, 70]];
const GREY = [[0, 0, 0], [255, 255, 255]];

function bytesOf(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// the colour at a share from 0 to 1 of a scale
function colourAt(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  return stops[below].map((value, i) => Math.round(value + (place - below) * (stops[below + 1][i] - value)));
}

function cssColour(colour) {
  return `rgb(${colour.join(", ")})`;
}

// a table from bytes to colours: [low, high] are the values of bytes 0 and 255, and `shown` those of the scale's ends
function colourTable(stops, [low, high], shown) {
  return Array.from({ length: 256 }, (_, byte) => {
    const value = low + (byte / 255) * (high - low);
    return colourAt(stops, (value - shown[0]) / (shown[1] - shown[0]));
  });
}

// one figure per plane, with the plane's name and, unless it is a further one beside another, the sides of the subject
function makePlane(plane, light, isFurther = false) {
  const canvas = make("canvas", { width: plane.width, height: plane.height });
  const tag = make("span", { className: "v-tag", hidden: isFurther });
  const sides = isFurther || plane.name === "sagittal" ? [] : ["L", "R"].map((side, index) => {
    const label = make("span", { className: "v-side", textContent: side });
    label.style[index ? "right" : "left"] = ".2rem";
    return label;
  });
  const figure = make("div", { className: light ? "v-plane v-light" : "v-plane" }, [canvas, tag, ...sides]);
  figure.style.aspectRatio = `${plane.mm[0]} / ${plane.mm[1]}`;
  return { plane, canvas, tag, figure };
}

// three planes in a row, of one scale
function makeRow(row, planes, light) {
  const made = planes.map((plane) => makePlane(plane, light));
  made.forEach((each) => { each.figure.style.flex = `${each.plane.mm[0] / each.plane.mm[1]} 1 0`; });
  row.replaceChildren(...made.map((each) => each.figure));
  return made;
}

// draw all planes of one volume; colourOf gives the colour of the pixel with a number
function paint(made, colourOf) {
  let start = 0;
  for (const { canvas, plane } of made) {
    const context = canvas.getContext("2d");
    const picture = context.createImageData(plane.width, plane.height);
    const n = plane.width * plane.height;
    for (let i = 0; i < n; i += 1) {
      const colour = colourOf(start + i);
      picture.data[4 * i] = colour[0];
      picture.data[4 * i + 1] = colour[1];
      picture.data[4 * i + 2] = colour[2];
      picture.data[4 * i + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
    start += n;
  }
}

function tellPosition(made, at) {
  made.forEach(({ tag, plane }, axis) => {
    tag.textContent = `${plane.name}, ${"xyz"[axis]} ${signed(at[axis], 0)} mm`;
  });
}

function makeLegend(stops, [low, high], text) {
  const ramp = make("span", { className: "v-ramp" });
  ramp.style.background = `linear-gradient(to right, ${stops.map(cssColour).join(", ")})`;
  return make("div", { className: "v-colours" }, [
    make("span", { textContent: numberText(low) }), ramp, make("span", { textContent: numberText(high) }),
    make("span", { textContent: text }),
  ]);
}
