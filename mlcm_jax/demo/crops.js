"use strict";
// Gray levels and crops as the networks were trained on: mlcm_jax/data/gain.py and mlcm_jax/data/augment.py.

const crops = (() => {
  const finite = (values) => values.filter(Number.isFinite);

  /** The pixels of an image with their centres inside a box. */
  function inside(image, [x, y, w, h]) {
    const end = (value, size) => Math.max(0, Math.min(size, Math.ceil(value)));
    const [left, top] = [Math.max(0, Math.ceil(x)), Math.max(0, Math.ceil(y))];
    return numbers.part(image, left, top, end(x + w, image.width), end(y + h, image.height)).data;
  }

  /** Whether a part of an image has one value only, or hardly a pixel with a value. */
  function showsNothing(values) {
    const known = finite(values);
    const [low, high] = numbers.range(known);
    return known.length < CONSTANTS.gain.fewest || low === high;
  }

  /** The image without holes: each has the value of the nearest pixel. */
  function whole(image) {
    if (image.data instanceof Uint8Array) return image;
    return holes.filled(image, Uint8Array.from(image.data, (value) => (Number.isFinite(value) ? 0 : 1)));
  }

  const gray = (image, level) => {
    const data = new Uint8Array(image.data.length);
    if (image.data instanceof Uint8Array) {  // a table of the 256 levels
      const table = Uint8Array.from({ length: 256 }, (_, k) => level(k));
      for (let k = 0; k < data.length; k++) data[k] = table[image.data[k]];
    } else for (let k = 0; k < data.length; k++) data[k] = level(image.data[k]);
    return numbers.grid(data, image.width, image.height);
  };

  /** Stretches an image by the values inside a box. */
  function gain(image, box) {
    const { percentiles, levels, fewest } = CONSTANTS.gain;
    const all = finite(image.data);
    const region = inside(image, box);
    const known = finite(region.length >= fewest ? region : image.data);
    const used = known.length >= fewest ? known : all;
    if (!used.length) return gray(image, () => 0);
    let [low, high] = numbers.percentiles(used, percentiles);
    if (!(high > low)) [low, high] = numbers.range(used);
    const kind = image.data instanceof Uint8Array ? Number : Math.fround;  // float64, or float32, as in training
    const [from, first, slope] = [low, levels[0], (levels[1] - levels[0]) / (high - low)].map(kind);
    return gray(whole(image), (value) => {
      if (!(high > low)) return value > low ? 255 : value < low ? 0 : 128;
      return numbers.round(numbers.clip(kind(kind(kind(value - from) * slope) + first), 0, 255));
    });
  }

  /** Stretches an image as a whole, for the detector. */
  function sceneGain(image) {
    const known = finite(image.data);
    if (!known.length) return gray(image, () => 0);
    const levels = image.data instanceof Uint8Array;
    let step = levels ? 1 : Math.floor(known.length / 20000) + 1;
    const divisor = (a, b) => (b ? divisor(b, a % b) : a);
    while (divisor(step, image.width) > 1) step++;
    const sorted = Float64Array.from(numbers.every(known, step)).sort();
    const count = CONSTANTS.gain.knots;
    const knots = Array.from({ length: count }, (_, k) => {
      const percent = (100 * k) / (count - 1);
      return levels ? sorted[Math.floor((percent / 100) * (sorted.length - 1))] : numbers.ofSorted(sorted, percent);
    });
    [knots[0], knots[count - 1]] = numbers.range(known);
    return gray(whole(image), curve(knots));
  }

  /** The piecewise linear curve between percentiles: value -> gray level. */
  function curve(knots) {
    const steps = knots.slice(1).map((knot, k) => knot - knots[k]);
    let unit = Math.max(8 * numbers.median(steps), (knots[knots.length - 4] - knots[3]) / 64);
    if (unit <= 0) unit = Math.max(...steps, 1.2e-38);
    const heights = [0];
    for (const step of steps) heights.push(heights[heights.length - 1] + Math.log1p(step / unit));
    const top = heights[heights.length - 1];
    if (top <= 0) return () => 0;
    const kept = knots.map((_, k) => k).filter((k) => k === 0 || knots[k] !== knots[k - 1]);
    const [places, levels] = [kept.map((k) => knots[k]), kept.map((k) => (heights[k] * 255) / top)];
    const last = places.length - 1;
    return (value) => {
      if (value <= places[0]) return numbers.round(levels[0]);
      if (value >= places[last]) return numbers.round(levels[last]);
      let [low, high] = [0, last];
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (places[middle] <= value) low = middle;
        else high = middle;
      }
      const slope = (levels[high] - levels[low]) / (places[high] - places[low]);
      return numbers.round(levels[low] + slope * (value - places[low]));
    };
  }

  /** For every new pixel, the old ones that it covers, [[place, share], ...]. */
  function shares(size, fresh) {
    const scale = size / fresh;
    return Array.from({ length: fresh }, (_, k) => {
      const [low, high] = [k * scale, Math.min((k + 1) * scale, size)];
      const found = [];
      for (let place = Math.floor(low); place < Math.min(size, Math.ceil(high)); place++) {
        const covered = Math.min(high, place + 1) - Math.max(low, place);
        if (covered > 1e-3) found.push([place, covered]);
      }
      const sum = found.reduce((total, [, covered]) => total + covered, 0);
      return found.map(([place, covered]) => [place, covered / sum]);
    });
  }

  /** For every new pixel, the two old ones between which it lies. */
  function neighbours(size, fresh) {
    return Array.from({ length: fresh }, (_, k) => {
      const place = numbers.clip(((k + 0.5) * size) / fresh - 0.5, 0, size - 1);
      const low = Math.min(Math.floor(place), Math.max(size - 2, 0));
      return size > 1 ? [[low, 1 - (place - low)], [low + 1, place - low]] : [[0, 1]];
    });
  }

  function resized(image, width, height, weights) {
    const [columns, rows] = [weights(image.width, width), weights(image.height, height)];
    const across = new Float64Array(width * image.height);
    for (let row = 0; row < image.height; row++) {
      for (let k = 0; k < width; k++) {
        let sum = 0;
        for (const [place, share] of columns[k]) sum += share * image.data[row * image.width + place];
        across[row * width + k] = sum;
      }
    }
    const data = new image.data.constructor(width * height);
    const levels = image.data instanceof Uint8Array;
    for (let row = 0; row < height; row++) {
      for (let k = 0; k < width; k++) {
        let sum = 0;
        for (const [place, share] of rows[row]) sum += share * across[place * width + k];
        data[row * width + k] = levels ? numbers.round(sum) : sum;
      }
    }
    return numbers.grid(data, width, height);
  }

  const shrunk = (image, width, height) => resized(image, width, height, shares);
  const enlarged = (image, width, height) => resized(image, width, height, neighbours);

  /** Every second row and column, for images with holes, which averages would spread. */
  function picked(image, width, height) {
    const data = new image.data.constructor(width * height);
    for (let row = 0; row < height; row++) {
      const from = Math.min(Math.floor((row * image.height) / height), image.height - 1);
      for (let k = 0; k < width; k++) {
        const place = Math.min(Math.floor((k * image.width) / width), image.width - 1);
        data[row * width + k] = image.data[from * image.width + place];
      }
    }
    return numbers.grid(data, width, height);
  }

  /** The image with a longer side of at most 640 pixels, and how many original pixels one of its pixels takes. */
  function reduced(image) {
    const factor = Math.max(image.width, image.height) / CONSTANTS.detector.longest;
    if (factor <= 1) return [image, 1];
    const size = [image.width, image.height].map((side) => Math.max(1, numbers.round(side / factor)));
    const plain = image.data instanceof Uint8Array || image.data.every(Number.isFinite);
    return [(plain ? shrunk : picked)(image, ...size), factor];
  }

  /** Halves an image of gray levels by averages of 2 x 2 pixels. */
  function halved({ data, width, height }) {
    const [columns, rows] = [width >> 1, height >> 1];
    const found = new Uint8Array(columns * rows);
    for (let row = 0; row < rows; row++) {
      for (let k = 0; k < columns; k++) {
        const at = 2 * row * width + 2 * k;
        found[row * columns + k] = (data[at] + data[at + 1] + data[at + width] + data[at + width + 1] + 2) >> 2;
      }
    }
    return numbers.grid(found, columns, rows);
  }

  /**
   * Cuts the square around a box out of gray levels: {crop, step, left, top}.
   *
   * The crop is Float32Array [size x size] in [0, 1], and its pixel c lies at step * c + (left, top) in the image.
   */
  function square(image, [x, y, w, h], expand, size) {
    const side = expand * Math.max(w, h);
    const step = side / size;
    const middle = (step * (size - 1)) / 2;
    const [left, top] = [x + w / 2 - middle, y + h / 2 - middle];
    let [part, shift, scale] = [image, [left, top], step];
    const halvings = Math.floor(Math.log2(Math.max(1, step * (1 + 1e-6))));
    const factor = 2 ** halvings;
    const bounds = (start, limit) => {
      const first = Math.max(0, Math.trunc(start) - 2 * factor);
      const last = Math.min(limit, Math.trunc(start + step * (size - 1)) + 3 * factor);
      return [first, Math.floor((last - first) / factor) * factor];
    };
    const [[x0, columns], [y0, rows]] = [bounds(left, image.width), bounds(top, image.height)];
    if (columns > 0 && rows > 0) {
      part = numbers.part(image, x0, y0, x0 + columns, y0 + rows);
      for (let k = 0; k < halvings; k++) part = halved(part);
      const half = 0.5 / factor - 0.5;
      [shift, scale] = [[(left - x0) / factor + half, (top - y0) / factor + half], step / factor];
    }
    const found = { crop: warped(part, scale, shift, size), step, left, top };
    return found;
  }

  /** Bilinear interpolation; outside the image, there is 0. */
  function warped({ data, width, height }, step, [left, top], size) {
    const at = (row, column) =>
      row >= 0 && row < height && column >= 0 && column < width ? data[row * width + column] : 0;
    const crop = new Float32Array(size * size);
    for (let j = 0; j < size; j++) {
      const y = step * j + top;
      const [row, dy] = [Math.floor(y), y - Math.floor(y)];
      for (let k = 0; k < size; k++) {
        const x = step * k + left;
        const [column, dx] = [Math.floor(x), x - Math.floor(x)];
        const upper = (1 - dx) * at(row, column) + dx * at(row, column + 1);
        const lower = (1 - dx) * at(row + 1, column) + dx * at(row + 1, column + 1);
        crop[j * size + k] = numbers.round((1 - dy) * upper + dy * lower) / 255;
      }
    }
    return crop;
  }

  function mirrored(crop, size) {
    return crop.map((_, k) => crop[k - (k % size) + size - 1 - (k % size)]);
  }

  return { gain, sceneGain, inside, showsNothing, shrunk, enlarged, reduced, square, mirrored };
})();
