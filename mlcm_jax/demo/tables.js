"use strict";
// Tables of temperatures (CSV): mlcm_jax/csv_images.py, whose rules are explained there.

const tables = (() => {
  const SMALLEST = 8;
  const LARGEST = 1 << 27;
  const FORMS = [["\t", "."], ["\t", ","], [";", "."], [";", ","], [",", "."]];
  const HOLE = "(?:[nN][aA][nN]|[+-]?[iI][nN][fF]|-{1,3})?";
  const NUMBERS_ONLY = /^[-+0-9.,;\t eE]*\d[-+0-9.,;\t eE]*$/;

  const pattern = (point) => {
    const dot = point === "." ? "\\." : ",";
    return `[+-]?(?:\\d+(?:${dot}\\d*)?|${dot}\\d+)(?:[eE][+-]?\\d{1,3})?`;
  };
  const stripped = (field) => field.replace(/^[ "]+|[ "]+$/g, "");
  const damaged = (line) =>
    new InputError(`Line ${line + 1} is not a row of as many numbers as others; is it damaged, or cut off?`);

  function lines(content) {
    if (content.length > LARGEST) throw new InputError("The file is too large for a table of temperatures.");
    let text;
    if (content[0] === 0xff && content[1] === 0xfe) text = new TextDecoder("utf-16le").decode(content);
    else if (content[0] === 0xfe && content[1] === 0xff) text = new TextDecoder("utf-16be").decode(content);
    else {
      try {
        text = new TextDecoder("utf-8", { fatal: true }).decode(content);
      } catch {
        text = new TextDecoder("latin1").decode(content);  // ° in the files of older software
      }
    }
    if (text.includes("\0")) throw new InputError("The file is not text: it contains NUL bytes.");
    return text.split(/\r\n|\r|\n/);
  }

  /** The tables in one form, {start, stop, width}: at least two lines with the same number of fields. */
  function find(all, [separator, point]) {
    const field = new RegExp(`^(?:${pattern(point)}|${HOLE})$`);
    const found = [];
    let [start, width] = [0, 0];
    [...all, ""].forEach((line, k) => {
      const fields = line.split(separator);
      const row = fields.length > 1 && /\d/.test(line) && fields.every((one) => field.test(stripped(one)));
      const count = row ? fields.length : 0;
      if (count === width) return;
      if (width && k - start > 1) found.push({ start, stop: k, width });
      [start, width] = [k, count];
    });
    return found;
  }

  const size = (table) => (table.stop - table.start) * table.width;

  /** The number that a field holds, NaN for a hole. */
  function number(field, point) {
    const plain = field.replaceAll('"', "").replaceAll(point, ".").trim();
    if (/^-*$/.test(plain) || /^nan$/i.test(plain)) return NaN;
    if (/^[+-]?inf$/i.test(plain)) return plain.startsWith("-") ? -Infinity : Infinity;
    return Number(plain);
  }

  function checkOthers(others, table, [separator, point]) {
    const whole = new RegExp(`^${pattern(point)}$`);
    const found = [];
    for (const [k, line] of others) {
      const fields = line.split(separator).map(stripped);
      const values = fields.filter((one) => whole.test(one)).map((one) => number(one, point));
      const counted = values.every((value, j) => j === 0 || value - values[j - 1] === 1);
      let broken = 2 * values.length >= table.width && !counted;
      if (k === table.stop && fields.some(Boolean)) {
        broken = broken || fields.length === table.width || NUMBERS_ONLY.test(line);
      }
      if (broken) found.push([values.length === table.width ? 1 : 0, k]);
    }
    if (found.length) throw damaged(found.sort((a, b) => a[0] - b[0] || a[1] - b[1])[0][1]);
  }

  /** Whether every second number continues the one before it: 21,5,21,6 for 21.5 and 21.6. */
  function torn(rows, texts) {
    const width = rows[0].length;
    const odd = width < 4 || width % 2 || rows.some((row) => row.some(Number.isNaN));
    if (odd || texts.some((one) => one.includes("."))) return false;
    let [near, across] = [0, 0];
    for (const row of rows) {
      for (let k = 0; k < width; k += 2) {
        if (k) near += Math.abs(row[k] - row[k - 2]);
        across += Math.abs(row[k] - row[k + 1]);
      }
    }
    const count = (rows.length * width) / 2;
    return across / count > (4 * near) / (count - rows.length) + 1;
  }

  /** Whether numbers count up by one from 0 or 1; the first may be missing, in the corner of a table. */
  function counts(row) {
    const start = Number.isNaN(row[0]) ? row[1] - 1 : row[0];
    if (row.length < 4 || ![-1, 0, 1].includes(start)) return false;
    return row.slice(1).every((value, k) => value === start + k + 1);
  }

  /** The unit that the lines of text name, if it is only one. */
  function unitOf(texts) {
    const found = new Set();
    for (const line of texts) {
      const start = line.slice(0, 10000);
      const words = start.matchAll(/[°º]\s?([CFK])\b|\b(celsius|fahrenheit|kelvin)\b/gi);
      for (const match of words) found.add((match[1] || match[2])[0].toLowerCase());
      for (const match of start.matchAll(/[[(]([CFK])[\])]/g)) found.add(match[1].toLowerCase());
    }
    return found.size === 1 ? { c: "celsius", f: "fahrenheit", k: "kelvin" }[[...found][0]] : "";
  }

  function checkSize(rows, columns) {
    if (Math.min(rows, columns) >= SMALLEST) return;
    throw new InputError(
      `The file holds a table of ${columns} x ${rows} numbers; an image has at least ${SMALLEST} x ${SMALLEST}.`,
    );
  }

  /** Reads the first table of numbers: {image (Float32Array), unit, note}. */
  function read(content) {
    const all = lines(content);
    const found = FORMS.map((form) => ({ form, list: find(all, form) })).filter(({ list }) => list.length);
    if (!found.length) {
      throw new InputError(
        "The file holds no table of numbers that are separated by commas, semicolons or tabs, with the same number " +
        "in each row.",
      );
    }
    const largest = ({ list }) => Math.max(...list.map(size));
    const best = found.reduce((one, other) => (largest(other) > largest(one) ? other : one));
    const [separator, point] = best.form;
    const list = best.list.filter((table) => 2 * size(table) >= largest(best));  // smaller ones are settings, say
    const table = list[0];
    if (table.width < SMALLEST) checkSize(table.stop - table.start, table.width);
    const texts = all.slice(table.start, table.stop);
    let rows = texts.map((line) => line.split(separator).map((field) => number(field, point)));
    const closed = texts.every((line) => !stripped(line.slice(line.lastIndexOf(separator) + 1)));
    if (closed) rows = rows.map((row) => row.slice(0, -1));
    if (separator === "," && torn(rows, texts)) {
      throw new InputError(
        "Commas seem to separate both numbers and their decimals; export the file with semicolons or tabs between " +
        "the numbers, or with decimal points.",
      );
    }
    const left = [];
    if (rows.length > 2 && counts(rows[0])) {
      rows = rows.slice(1);
      left.push("the first row");
    }
    if (rows[0].length > 2 && counts(rows.map((row) => row[0]))) {
      rows = rows.map((row) => row.slice(1));
      left.push("the first column");
    }
    const used = (k) => list.some(({ start, stop }) => start <= k && k < stop);
    const others = [...all.entries()].filter(([k]) => !used(k));
    checkOthers(others, table, best.form);
    checkSize(rows.length, rows[0].length);
    const text = others.map(([, line]) => line);
    const skipped = text.filter((line) => line.replace(/[ \t;,"]/g, "")).length;
    const unit = unitOf(text);
    const notes = [];
    const were = skipped === 1 ? "1 line was" : `${skipped} lines were`;
    if (skipped) notes.push(`${were} skipped, which have no numbers of the image`);
    if (left.length) notes.push(`${left.join(" and ")} that only counts was left out`);
    if (list.length > 1) notes.push(`the file holds ${list.length} tables, of which the first was read`);
    if (unit) notes.push(`its text says that the unit is ${unit}`);
    const image = numbers.grid(Float32Array.from(rows.flat()), rows[0].length, rows.length);
    return { image, unit, note: notes.join("; ") };
  }

  return { read };
})();
