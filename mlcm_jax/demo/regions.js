"use strict";
// Temperatures of the regions of a face: mlcm_jax/inference/regions.py.

const regions = (() => {
  const names = () => CONSTANTS.regions.names;

  /** The corners of a region in pixels. */
  function outline(points, name) {
    const { discs, disc, polygons } = CONSTANTS.regions;
    if (name in discs) {
      const [a, b] = [points[36], points[45]];
      const radius = Math.max(0.75, disc * Math.hypot(a[0] - b[0], a[1] - b[1]));
      const [x, y] = points[discs[name]];
      return Array.from({ length: 24 }, (_, k) => {
        const angle = (k * 2 * Math.PI) / 24;
        return [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
      });
    }
    return polygons[name].map(([first, second, share]) =>
      [0, 1].map((k) => (1 - share) * points[first][k] + share * points[second][k]));
  }

  function contains(corners, x, y) {
    let inside = false;
    for (let k = 0, last = corners.length - 1; k < corners.length; last = k++) {
      const [[x0, y0], [x1, y1]] = [corners[last], corners[k]];
      if (y0 >= y !== y1 >= y && (x < ((x1 - x0) * (y - y0)) / (y1 - y0) + x0)) inside = !inside;
    }
    return inside;
  }

  /** The values of the pixels whose centres lie in a region. */
  function values(image, corners) {
    const [[left, right], [top, bottom]] = [0, 1].map((k) => numbers.range(corners.map((corner) => corner[k])));
    const found = [];
    for (let y = Math.max(0, Math.floor(top)); y <= Math.min(image.height - 1, Math.ceil(bottom)); y++) {
      for (let x = Math.max(0, Math.floor(left)); x <= Math.min(image.width - 1, Math.ceil(right)); x++) {
        if (contains(corners, x, y)) found.push(image.data[y * image.width + x]);
      }
    }
    return found;
  }

  function area(corners) {
    let sum = 0;
    corners.forEach(([x, y], k) => {
      const [x0, y0] = corners[(k + corners.length - 1) % corners.length];
      sum += x * y0 - y * x0;
    });
    return Math.abs(sum) / 2;
  }

  function hiddenBySize(corners, found) {
    const { turned, inside } = CONSTANTS.regions;
    const hidden = new Set(names().filter((name) => {
      const size = area(corners[name]);
      return size > 4 && found[name].length < inside * size;
    }));
    const [right, left] = [area(corners.right_cheek), area(corners.left_cheek)];
    if (right < turned * left) ["right_cheek", "right_eye_corner"].forEach((name) => hidden.add(name));
    else if (left < turned * right) ["left_cheek", "left_eye_corner"].forEach((name) => hidden.add(name));
    return hidden;
  }

  /** The regions that are too cold for skin, next to the rest of the face. */
  function covered(found) {
    const { colder: limits, mask, masked } = CONSTANTS.regions;
    if (!found.face.length) return [];
    const [skin] = numbers.percentiles(found.face, [75]);
    const known = Object.keys(limits).filter((name) => found[name].length);
    const colder = Object.fromEntries(known.map((name) => [name, skin - numbers.median(found[name])]));
    const all = known.filter((name) => colder[name] > limits[name]);
    const wears = masked.slice(0, 2).every((name) => (colder[name] ?? 0) > mask);
    return wears ? [...all, ...masked] : all;
  }

  /** The regions of a face by their names: {mean, max, std, p10, p90, pixels, hidden}; NaN where hidden. */
  function measure(points, celsius) {
    const corners = Object.fromEntries(names().map((name) => [name, outline(points, name)]));
    const found = Object.fromEntries(names().map((name) => [name, values(celsius, corners[name])]));
    const hidden = hiddenBySize(corners, found);
    for (const name of names()) found[name] = found[name].filter(Number.isFinite);
    names().filter((name) => !found[name].length).forEach((name) => hidden.add(name));
    covered(found).forEach((name) => hidden.add(name));
    return Object.fromEntries(names().map((name) => [name, measured(found[name], hidden.has(name))]));
  }

  function measured(all, hidden) {
    const pixels = all.length;
    if (hidden) return { mean: NaN, max: NaN, std: NaN, p10: NaN, p90: NaN, pixels, hidden };
    const mean = all.reduce((sum, one) => sum + one, 0) / pixels;
    const variance = all.reduce((sum, one) => sum + (one - mean) ** 2, 0) / pixels;
    const [p10, p90] = numbers.percentiles(all, [10, 90]);
    return { mean, max: numbers.range(all)[1], std: Math.sqrt(variance), p10, p90, pixels, hidden };
  }

  return { names, outline, measure };
})();
