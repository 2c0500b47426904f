"use strict";
// Numbers as numpy has them: percentiles, rounding to even, texts. An image is {data, width, height}, row by row.

class InputError extends Error {}

const numbers = (() => {
  /** A percentile between the sorted values, as numpy's "linear" method gives it. */
  function ofSorted(sorted, percent) {
    const place = (percent / 100) * (sorted.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
  }

  /** Percentiles of a typed array without NaN. */
  function percentiles(values, percents) {
    const sorted = Float64Array.from(values).sort();
    return percents.map((percent) => ofSorted(sorted, percent));
  }

  const median = (values) => percentiles(values, [50])[0];

  /** Rounds to the nearest integer, and .5 to the even one. */
  function round(value) {
    const up = Math.round(value);
    return up - value === 0.5 && up % 2 !== 0 ? up - 1 : up;
  }

  const clip = (value, low, high) => Math.min(Math.max(value, low), high);
  const expit = (x) => 1 / (1 + Math.exp(-x));
  const logit = (p) => Math.log(p / (1 - p));

  /** The smallest and the largest value; NaN takes no part. */
  function range(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  /** A number in a sentence, with so many digits at most. */
  const text = (value, digits) => String(Number(value.toPrecision(digits)));

  /** Rounded to so many decimals, or null for NaN: a number of the JSON file. */
  function decimals(value, count) {
    return Number.isNaN(value) ? null : Number(value.toFixed(count));
  }

  /** Every step-th value. */
  function every(values, step) {
    const found = new values.constructor(Math.ceil(values.length / step));
    for (let k = 0; k < found.length; k++) found[k] = values[k * step];
    return found;
  }

  const grid = (data, width, height) => ({ data, width, height });

  /** A part of an image, from (left, top) to before (right, bottom). */
  function part(image, left, top, right, bottom) {
    const width = Math.max(0, right - left);
    const height = Math.max(0, bottom - top);
    const data = new image.data.constructor(width * height);
    for (let row = 0; row < height; row++) {
      const start = (top + row) * image.width + left;
      data.set(image.data.subarray(start, start + width), row * width);
    }
    return grid(data, width, height);
  }

  /** The bytes that base64 text encodes. */
  function bytes(base64) {
    const raw = atob(base64.trim());
    const found = new Uint8Array(raw.length);
    for (let k = 0; k < raw.length; k++) found[k] = raw.charCodeAt(k);
    return found;
  }

  /** Unpacks "gzip" or "deflate" (zlib); rejects for damaged data. */
  async function unpacked(content, format) {
    const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream(format));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  return {
    ofSorted, percentiles, median, round, clip, expit, logit, range, text, decimals, every, grid, part, bytes, unpacked,
  };
})();
