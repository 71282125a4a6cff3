// Decoders in the page. Each gives the intensities of the three planes through a voxel for values of the sliders.

function countPixels(planes) {
  return planes.reduce((sum, { width, height }) => sum + width * height, 0);
}

// decoded planes of each latent that moves alone; the differences from the average of several are added
function framesDecoder({ frames: { stored, steps, latents }, planes }) {
  const [low, high] = stored;
  const step = (high - low) / 255;
  const n = countPixels(planes);
  const frames = latents.map(({ frames: text }) => {
    const all = bytesOf(text);
    return steps.map((_, i) => all.subarray(i * n, (i + 1) * n));
  });
  const average = frames[0][steps.indexOf(0)];
  return {
    latents: latents.map(({ latent }) => latent),
    decode(values) {
      const sum = Float32Array.from(average);
      values.forEach((value, k) => {
        if (value === 0) return;
        const place = (value - steps[0]) / (steps[1] - steps[0]);
        const below = Math.min(Math.floor(place), steps.length - 2);
        const share = place - below;
        const [first, second] = [frames[k][below], frames[k][below + 1]];
        for (let i = 0; i < n; i += 1) sum[i] += first[i] + share * (second[i] - first[i]) - average[i];
      });
      return sum.map((value) => low + value * step);
    },
  };
}

// the template, moved by displacements and changed by components that are linear in the code
function templateDecoder({ template, planes }) {
  const [nx, ny, nz] = template.shape;
  const n = nx * ny * nz;
  const [low, high] = template.stored;
  const mean = Float32Array.from(new Uint16Array(bytesOf(template.mean).buffer), (value) => low + (value / 65535) * (high - low));
  const bits = bytesOf(template.inside);
  const isInside = (voxel) => (bits[voxel >> 3] >> (voxel & 7)) & 1;
  const voxels = Uint32Array.from({ length: n }, (_, i) => i).filter(isInside);
  const components = template.latents.map(({ component }) => bytesOf(component));
  const moves = template.latents.map(({ displacement }) => displacement && new Float32Array(bytesOf(displacement).buffer));
  const controls = template.controls;
  const nControls = controls[0] * controls[1] * controls[2];

  // the corner below a place, and the share of the one above, along each axis; places outside are at the edge
  function corners(place, sides) {
    return place.map((at, axis) => {
      const inside = Math.min(Math.max(at, 0), sides[axis] - 1);
      const below = Math.min(Math.floor(inside), Math.max(sides[axis] - 2, 0));
      return [below, inside - below, Math.min(below + 1, sides[axis] - 1)];
    });
  }

  function interpolated(values, start, [x, y, z], sides) {
    const at = (i, j, k) => values[start + (i * sides[1] + j) * sides[2] + k];
    const line = (i, j) => (1 - z[1]) * at(i, j, z[0]) + z[1] * at(i, j, z[2]);
    const plane = (i) => (1 - y[1]) * line(i, y[0]) + y[1] * line(i, y[2]);
    return (1 - x[1]) * plane(x[0]) + x[1] * plane(x[2]);
  }

  function decode(values, at) {
    const changed = Float32Array.from(mean);
    const field = new Float32Array(3 * nControls);
    values.forEach((value, k) => {
      if (value === 0) return;
      const [from, to] = template.latents[k].extent;
      const step = (value * (to - from)) / 255;
      for (let i = 0; i < voxels.length; i += 1) changed[voxels[i]] += value * from + components[k][i] * step;
      if (moves[k]) for (let i = 0; i < field.length; i += 1) field[i] += value * moves[k][i];
    });
    const shown = new Float32Array(countPixels(planes));
    let pixel = 0;
    planes.forEach((plane, axis) => {
      for (let row = 0; row < plane.height; row += 1) {
        for (let column = 0; column < plane.width; column += 1) {
          const up = plane.height - 1 - row;
          const place = [[at[0], column, up], [column, at[1], up], [column, up, at[2]]][axis];
          const voxel = (place[0] * ny + place[1]) * nz + place[2];
          let value = mean[voxel];
          if (isInside(voxel)) {
            value = changed[voxel];
            if (nControls > 0) {
              const control = place.map((each, i) => ((each - template.corner[i]) / Math.max(template.box[i] - 1, 1)) * (controls[i] - 1));
              const near = corners(control, controls);
              const moved = place.map((each, i) => each + interpolated(field, i * nControls, near, controls));
              value = interpolated(changed, 0, corners(moved, template.shape), template.shape);
            }
          }
          shown[pixel] = template.sigmoid ? 1 / (1 + Math.exp(-value)) : value;
          pixel += 1;
        }
      }
    });
    return shown;
  }

  return { latents: template.latents.map(({ latent }) => latent), decode };
}
