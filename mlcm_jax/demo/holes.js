"use strict";
// Pixels that hold no temperature, and their filling: mlcm_jax/holes.py, whose rules are explained there.

const holes = (() => {
  const FAR = 0x3fffffff;
  const [STRAIGHT, DIAGONAL, KNIGHT] = [1, 1.4, 2.1969].map((length) => Math.round(length * 65536));

  /** For every pixel, the place of the nearest that is no hole: OpenCV's distance transform with a 5 x 5 mask. */
  function nearest(mask, width, height) {
    const wide = width + 4;
    const size = wide * (height + 4);
    const distance = new Float64Array(size).fill(FAR);
    const place = new Int32Array(size);
    // Neighbours before a pixel, in the order of OpenCV, which decides between equal distances.
    const steps = [
      [-2 * wide - 1, KNIGHT], [-2 * wide + 1, KNIGHT], [-wide - 2, KNIGHT], [-wide - 1, DIAGONAL],
      [-wide, STRAIGHT], [-wide + 1, DIAGONAL], [-wide + 2, KNIGHT], [-1, STRAIGHT],
    ];
    const pass = (at, sign) => {
      for (const [step, length] of steps) {
        const other = at + sign * step;
        if (distance[other] + length < distance[at]) {
          distance[at] = distance[other] + length;
          place[at] = place[other];
        }
      }
    };
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const at = (row + 2) * wide + column + 2;
        const own = row * width + column;
        if (mask[own]) pass(at, 1);
        else {
          distance[at] = 0;
          place[at] = own;
        }
      }
    }
    const found = new Int32Array(width * height);
    for (let row = height - 1; row >= 0; row--) {
      for (let column = width - 1; column >= 0; column--) {
        const at = (row + 2) * wide + column + 2;
        if (distance[at] > STRAIGHT) pass(at, -1);
        found[row * width + column] = place[at];
      }
    }
    return found;
  }

  /** Gives every hole the value of the nearest pixel that is none; the same image if there are none, or only holes. */
  function filled(image, mask) {
    if (!mask.includes(1) || !mask.includes(0)) return image;
    const places = nearest(mask, image.width, image.height);
    return numbers.grid(image.data.map((_, k) => image.data[places[k]]), image.width, image.height);
  }

  /** At most about 20,000 of the values, evenly spread over all columns. */
  function some(values) {
    const step = Math.floor(values.length / CONSTANTS.holes.sample) + 1;
    return numbers.every(values, step | 1);
  }

  const finite = (values) => values.filter(Number.isFinite);

  /** The absolute differences of neighbours in rows (1) or columns (0). */
  function jumps(image, axis) {
    const [right, down] = axis ? [1, 0] : [0, 1];
    const found = new Float32Array((image.width - right) * (image.height - down));
    let k = 0;
    for (let row = 0; row < image.height - down; row++) {
      for (let column = 0; column < image.width - right; column++) {
        const at = row * image.width + column;
        found[k++] = Math.abs(image.data[at + right + down * image.width] - image.data[at]);
      }
    }
    return found;
  }

  /** The number of rows of telemetry at the top and at the bottom. */
  function telemetry(image) {
    const most = CONSTANTS.holes.most_rows;
    const { width, height } = image;
    if (Math.min(width, height) < CONSTANTS.holes.smallest) return [0, 0];
    const body = numbers.part(image, 0, most, width, height - most);
    const ordinary = finite(some(Float32Array.from(body.data)));
    const steps = [0, 1].map((axis) => finite(some(jumps(body, axis))));
    if (!ordinary.length || !steps[0].length || !steps[1].length) return [0, 0];
    const [low, high] = numbers.percentiles(ordinary, [5, 95]);
    const usual = Math.max(...steps.map((one) => numbers.percentiles(one, [90])[0]));
    const counts = !(image.data instanceof Float32Array);
    const jump = Math.max(10 * usual, 0.5 * (high - low), counts ? 200 : 2);
    const [coldest, hottest] = counts ? [low / 2, high * 2] : [low - 500, high + 1500];
    const unlike = (value) => value < coldest || value > hottest;
    const rows = [];
    for (let row = 0; row < height; row++) rows.push(image.data.subarray(row * width, (row + 1) * width));
    return [alien(rows, jump, unlike), alien(rows.reverse(), jump, unlike)];
  }

  /** The number of first rows that are telemetry. */
  function alien(rows, jump, unlike) {
    const apart = (one, two) => {
      let known = 0;
      let far = 0;
      for (let k = 0; k < one.length; k++) {
        const difference = Math.abs(one[k] - two[k]);
        if (!Number.isFinite(difference)) continue;
        known++;
        if (difference > jump) far++;
      }
      return known > 0 && far / known > 0.5;
    };
    const counters = (given) => {
      const row = finite(given);
      let many = 0;
      for (let k = 1; k < row.length; k++) if (Math.abs(row[k] - row[k - 1]) > jump) many++;
      if (many > 0.15 * row.length) return true;
      return (many > 6 || new Set(row).size > 3) && row.filter(unlike).length / row.length > 0.5;
    };
    let found = 0;
    for (let count = 1; count <= CONSTANTS.holes.most_rows; count++) {
      const [block, first, second] = [rows.slice(0, count), rows[count], rows[count + 1]];
      if (block.every((row) => apart(row, first)) && !apart(first, second) && block.some(counters)) found = count;
    }
    return found;
  }

  /** Marks values that no thermometer gives. */
  function never(image, lost) {
    const { huge, lowest, full_scales: scales, kelvins, coldest: least, hottest: most } = CONSTANTS.holes;
    const { data } = image;
    const floats = data instanceof Float32Array;
    const special = new Set([lowest, ...scales]);
    const suspects = new Uint8Array(data.length);
    for (let k = 0; k < data.length; k++) {
      if (!(Math.abs(data[k]) < huge)) lost[k] = 1;
      else if (data[k] <= 0 || data[k] >= scales[scales.length - 1] || special.has(data[k])) suspects[k] = 1;
    }
    const others = some(data.filter((_, k) => !lost[k] && !suspects[k]));
    if (suspects.includes(1) && others.length) {
      const [coldest, hottest] = numbers.percentiles(others, [3, 97]);
      const reach = 3 * Math.max(hottest - coldest, 1);
      for (let k = 0; k < data.length; k++) {
        if (!suspects[k]) continue;
        const fitting = data[k] === 0 || data[k] === lowest || (data[k] < 0 && coldest > kelvins);
        if ((data[k] + reach < coldest && fitting) || data[k] > hottest + reach) lost[k] = 1;
      }
    }
    if (!floats) return;
    const odd = data.map((value, k) => (!lost[k] && (value < least || value > most) ? 1 : 0));
    const count = odd.reduce((sum, one) => sum + one, 0);
    const rest = data.length - lost.reduce((sum, one) => sum + one, 0) - count;
    if (!count || !rest) return;
    const [low, high] = numbers.range(data.filter((_, k) => odd[k]));
    if (count < rest || low === high) odd.forEach((one, k) => (one ? (lost[k] = 1) : 0));
  }

  /** The median of 3 x 3 pixels around each; at the border, the pixels there are repeated. */
  function smoothed(image) {
    const { data, width, height } = image;
    const found = new data.constructor(data.length);
    const around = new Float64Array(9);
    for (let row = 0; row < height; row++) {
      const rows = [Math.max(row - 1, 0), row, Math.min(row + 1, height - 1)];
      for (let column = 0; column < width; column++) {
        const columns = [Math.max(column - 1, 0), column, Math.min(column + 1, width - 1)];
        let k = 0;
        for (const r of rows) for (const c of columns) around[k++] = data[r * width + c];
        found[row * width + column] = around.sort()[4];
      }
    }
    return found;
  }

  const reflected = (place, size) => (place < 0 ? -place : place >= size ? 2 * size - 2 - place : place);

  /** Marks dead rows, columns and isolated pixels; `known` are the holes that were filled. */
  function dead(image, known) {
    const { share, times, levels: least, smallest } = CONSTANTS.holes;
    const { width, height } = image;
    let { data } = image;
    const found = new Uint8Array(data.length);
    const levels = data instanceof Uint8Array ? least : 0;
    if (Math.min(width, height) < 3 || !known.includes(0)) return found;
    const [low, high] = numbers.percentiles(some(data), [5, 95]);
    if (!(high > low)) return found;
    if (Math.min(width, height) >= smallest) {
      const limit = Math.max(0.15 * (high - low), levels);
      const across = lines((row, column) => data[row * width + column], height, width, limit);
      const along = lines((column, row) => data[row * width + column], width, height, limit);
      for (let k = 0; k < data.length; k++) {
        found[k] = !known[k] && (across[Math.floor(k / width)] || along[k % width]) ? 1 : 0;
      }
    }
    data = filled(image, found).data.slice();
    const smooth = smoothed(numbers.grid(data, width, height));
    const distance = Float32Array.from(data, (value, k) => Math.abs(value - smooth[k]));
    const every = some(distance);
    const differ = every.filter((value) => value > 0);
    const noise = differ.length
      ? Math.min(numbers.percentiles(differ, [75])[0], numbers.percentiles(every, [97.5])[0]) : 0;
    const limit = Math.max(share * (high - low), times * noise, levels);
    const suspects = [];
    for (let k = 0; k < data.length; k++) if (distance[k] > limit && !known[k] && !found[k]) suspects.push(k);
    for (let turn = 0; turn < (suspects.length ? 2 : 0); turn++) {  // the second time finds those that touch another
      const alone = suspects.filter((place) => {
        const [row, column] = [Math.floor(place / width), place % width];
        const around = [];
        for (const dy of [-1, 0, 1]) {
          for (const dx of [-1, 0, 1]) {
            if (dx || dy) around.push(data[reflected(row + dy, height) * width + reflected(column + dx, width)]);
          }
        }
        around.sort((a, b) => a - b);
        return Math.max(data[place] - around[6], around[1] - data[place]) > Math.max(limit, around[6] - around[1]);
      });
      for (const place of alone) [found[place], data[place]] = [1, smooth[place]];
    }
    return found;
  }

  /** Marks dead rows (or columns) of an image that `at` reads. */
  function lines(at, height, width, limit) {
    const found = new Uint8Array(height);
    const alike = new Float64Array(height);
    const values = new Float64Array(height);
    const step = Math.max(1, Math.floor(width / 101));
    for (let row = 0; row < height; row++) {
      let equal = 0;
      const sample = [];
      for (let column = 0; column < width; column++) {
        if (column && at(row, column) === at(row, column - 1)) equal++;
        if (column % step === 0) sample.push(at(row, column));
      }
      alike[row] = equal / (width - 1);
      values[row] = numbers.median(sample);
    }
    const flat = alike.map((one) => (one >= CONSTANTS.holes.alike ? 1 : 0));
    if (!flat.includes(1)) return found;
    const breaks = [0];
    for (let row = 1; row < height; row++) {
      if (flat[row] !== flat[row - 1] || Math.abs(values[row] - values[row - 1]) > limit) breaks.push(row);
    }
    breaks.push(height);
    for (let k = 0; k + 1 < breaks.length; k++) {
      const [start, stop] = [breaks[k], breaks[k + 1]];
      const frame = start === 0 || stop === height;
      if (!flat[start] || stop - start > CONSTANTS.holes.most_rows || frame) continue;
      const far = [start - 1, stop].every((row) => {
        let count = 0;
        for (let column = 0; column < width; column++) if (Math.abs(at(row, column) - values[start]) > limit) count++;
        return count / width > 0.5;
      });
      if (far || Math.max(alike[start - 1], alike[stop]) < 0.3) found.fill(1, start, stop);
    }
    return found;
  }

  /** The holes of an image of Uint8Array, Uint16Array or Float32Array: {mask, top, bottom}. */
  function find(image) {
    const { width, height } = image;
    const gray = image.data instanceof Uint8Array;
    const [top, bottom] = gray ? [0, 0] : telemetry(image);
    const mask = new Uint8Array(image.data.length);
    const body = numbers.part(image, 0, top, width, height - bottom);
    const lost = new Uint8Array(body.data.length);
    if (!gray) never(body, lost);
    if (image.data.length <= CONSTANTS.holes.sensor) {
      dead(filled(body, lost), lost.slice()).forEach((one, k) => (one ? (lost[k] = 1) : 0));
    }
    mask.fill(1);
    mask.set(lost, top * width);
    return { mask, top, bottom };
  }

  return { find, filled, nearest };
})();
