"use strict";
// Reads an image file of a user: mlcm_jax/images.py and mlcm_jax/data/image_file.py.
//
// An image is {name, values, celsius, gray, rgb, levels, notes}: `values` in the file's unit and `celsius` in °C
// (or null) are Float32Array with NaN in holes, `gray` is Uint8Array, and `rgb` the coloured picture or null.

const images = (() => {
  const NOT_READ = {
    tif: "TIFF", tiff: "TIFF", npy: "numpy's arrays", raw: "raw files", bin: "raw files", csq: "FLIR's CSQ",
    is2: "Fluke's files", is3: "Fluke's files", bmt: "Testo's files", irb: "InfraTec's files", ravi: "Optris's files",
  };
  let known = null;

  /** The thermal palettes by name, Float32Array [256 x 3]. */
  function palettes() {
    if (!known) {
      const all = new Float32Array(numbers.bytes(CONSTANTS.palettes.data).buffer);
      const pairs = CONSTANTS.palettes.names.map((name, k) => [name, all.subarray(768 * k, 768 * (k + 1))]);
      known = Object.fromEntries(pairs);
    }
    return known;
  }

  const channel = (image, k) => image.data.filter((_, place) => place % 3 === k);

  /** Decodes the picture of a JPEG as the browser shows it: {data, width, height, channels: 3}. */
  async function picture(content) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(new Blob([content], { type: "image/jpeg" }), { colorSpaceConversion: "none" });
    } catch {
      throw new InputError("The picture in the file is damaged or incomplete.");
    }
    const { width, height } = bitmap;
    const data = pixels(bitmap, width, height);
    return { data: data.filter((_, k) => k % 4 !== 3), width, height, channels: 3 };
  }

  function pixels(source, width, height) {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(source, 0, 0);
    return context.getImageData(0, 0, width, height).data;
  }

  /** Some browsers change the pixels that a page reads, against fingerprinting: then pictures cannot be read. */
  async function checkCanvas() {
    const wanted = Uint8ClampedArray.from({ length: 1024 }, (_, k) => (k % 4 === 3 ? 255 : (k * 37) % 256));
    const found = pixels(await createImageBitmap(new ImageData(wanted, 16, 16)), 16, 16);
    if (wanted.every((value, k) => value === found[k])) return;
    throw new InputError(
      "This browser alters the pixels that a page reads, as a protection against tracking; allow this page to read " +
      "canvases, or use PNG and CSV files.",
    );
  }

  const isGray = ({ data }) => {
    let apart = 0;
    for (let k = 0; k < data.length; k += 3) {
      const [low, high] = numbers.range(data.subarray(k, k + 3));
      if (high - low > 6) apart++;
    }
    return apart <= (0.01 * data.length) / 3;
  };

  /** The positions of colours in a palette [256 x 3], and their squared distances from it. */
  function nearest(colour, palette) {
    let [best, distance] = [0, Infinity];
    for (let k = 0; k < palette.length; k += 3) {
      const [r, g, b] = [palette[k] - colour[0], palette[k + 1] - colour[1], palette[k + 2] - colour[2]];
      const square = r * r + g * g + b * b;
      if (square < distance) [best, distance] = [k / 3, square];
    }
    return [best, distance];
  }

  /** The palette that fits the colours, or "", and its median distance from them. */
  function fitPalette({ data }) {
    const size = data.length / 3;
    const colour = (k) => data.subarray(3 * k, 3 * k + 3);
    const step = Math.max(1, Math.floor(size / 4096));
    const sample = Array.from({ length: Math.ceil(size / step) }, (_, k) => colour(k * step));
    const few = sample.filter((_, k) => k % Math.max(1, Math.floor(sample.length / 512)) === 0);
    const distances = (some, palette) => some.map((one) => Math.sqrt(nearest(one, palette)[1]));
    const mean = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;
    const rough = Object.entries(palettes()).map(([name, palette]) => [mean(distances(few, palette)), name]);
    const likely = rough.sort((a, b) => a[0] - b[0]).slice(0, 6).map(([, name]) => name);
    const exact = likely.map((name) => ({ name, all: distances(sample, palettes()[name]) }));
    const best = exact.reduce((one, other) => (mean(other.all) < mean(one.all) ? other : one));
    const [middle, most] = numbers.percentiles(best.all, [50, 90]);
    return middle <= 8 && most <= 30 ? [best.name, middle] : ["", middle];
  }

  /** Colours as gray levels, Uint8Array, and a sentence about how. */
  function toGray(image) {
    const { data, width, height } = image;
    const [name, distance] = fitPalette(image);
    const gray = new Uint8Array(width * height);
    if (!name) {
      for (let k = 0; k < gray.length; k++) {  // OpenCV's weights of 15 bits
        gray[k] = (data[3 * k] * 9798 + data[3 * k + 1] * 19235 + data[3 * k + 2] * 3735 + 16384) >> 15;
      }
      const told = `median distance ${distance.toFixed(1)} of 255 from the nearest`;
      return [gray, `colours follow no known thermal palette closely (${told}), so their luminance was used`];
    }
    const [seen, palette] = [new Map(), palettes()[name]];
    for (let k = 0; k < gray.length; k++) {
      const packed = (data[3 * k] << 16) | (data[3 * k + 1] << 8) | data[3 * k + 2];
      if (!seen.has(packed)) seen.set(packed, nearest(data.subarray(3 * k, 3 * k + 3), palette)[0]);
      gray[k] = seen.get(packed);
    }
    const told = `median distance ${distance.toFixed(1)} of 255`;
    return [gray, `colours follow the palette '${name}' (${told}), which was inverted`];
  }

  /** Stretches values to 8 bits for display, as images.gain8. */
  function gain8(values) {
    const known = values.data.filter(Number.isFinite);
    let [low, high] = numbers.percentiles(known, [0.5, 99.5]);
    if (!(high > low)) [low, high] = numbers.range(known);
    const slope = 255 / (high - low);
    const level = (value) => numbers.round(numbers.clip((value - low) * slope, 0, 255));
    const flat = !(high > low);
    const gray = Uint8Array.from(values.data, (value) => (flat ? 128 : Number.isFinite(value) ? level(value) : 0));
    const mask = Uint8Array.from(values.data, (value) => (Number.isFinite(value) ? 0 : 1));
    return holes.filled(numbers.grid(gray, values.width, values.height), mask);
  }

  /** The content of a file: {image, channels, unit, notes, display}. */
  async function decoded(content, name) {
    const ending = name.toLowerCase().split(".").pop();
    if (!content.length) throw new InputError("The file is empty.");
    if (flir.is(content)) {
      const { image, unit, note } = await flir.read(content);
      const count = flir.frames(content);
      const more = count > 1 ? `the file holds ${count} frames, of which the first was read` : "";
      return { image, channels: 1, unit, notes: [note, more], display: null };
    }
    if (png.is(content)) {
      const found = await png.decode(content).catch((error) => {
        throw error instanceof InputError ? new InputError(`The PNG cannot be read: ${error.message}.`) : error;
      });
      const image = jpeg.turned(found, found.channels, jpeg.orientation(found.exif));
      return { image, channels: found.channels, unit: "", notes: found.notes, display: null };
    }
    if (jpeg.is(content)) return ofJpeg(content);
    if (["csv", "tsv", "txt"].includes(ending)) {
      const { image, unit, note } = tables.read(content);
      return { image, channels: 1, unit, notes: note ? [note] : [], display: null };
    }
    const kind = NOT_READ[ending]
      ? `The forms that this page reads do not include ${NOT_READ[ending]}` : "It is of no form that this page reads";
    throw new InputError(`${kind}; give a PNG, a JPEG, a table (CSV) or FLIR's file, or use "mlcm predict".`);
  }

  async function ofJpeg(content) {
    await checkCanvas();
    const shown = await picture(content);
    const more = jpeg.unread(content);
    try {
      const data = flir.find(content);
      if (data) return await radiometric(data, shown, jpeg.orientation(jpeg.exif(content)), more);
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      const lost = `FLIR's temperatures in the file could not be read, only its picture (${error.message})`;
      return { image: shown, channels: 3, unit: "", notes: [lost, more], display: null };
    }
    return { image: shown, channels: 3, unit: "", notes: [more], display: null };
  }

  /** FLIR's temperatures, turned and resized to fit the picture. */
  async function radiometric(data, shown, way, more) {
    const found = await flir.read(data);
    let note = found.note;
    const plain = { ...found.image, data: Float32Array.from(found.image.data) };
    let image = jpeg.turned(plain, 1, way);
    const { width, height } = image;
    if (width !== shown.width || height !== shown.height) {
      if (Math.abs((width * shown.height) / (shown.width * height) - 1) < 0.02) {
        image = (shown.width < width ? crops.shrunk : crops.enlarged)(image, shown.width, shown.height);
        note += `; ${width} x ${height} values were resized to the picture's ${shown.width} x ${shown.height} pixels`;
      } else {
        note += `; they are ${width} x ${height}, and of another shape than the picture of ${shown.width} x ` +
          `${shown.height} pixels`;
      }
    }
    if (!found.unit) image = numbers.grid(Uint16Array.from(image.data, numbers.round), image.width, image.height);
    return { image, channels: 1, unit: found.unit, notes: [note, more], display: shown };
  }

  function counted(count, size, many, one) {
    if (1000 * count >= size) return `${numbers.text((100 * count) / size, 2)} % of the pixels ${many}`;
    return count === 1 ? `1 pixel ${one}` : `${count} pixels ${many}`;
  }

  const isHole = (mask) => (value, k) => (mask[k] ? NaN : value);

  function ofGray(gray, rgb, name, notes) {
    const { mask } = holes.find(gray);
    const lost = mask.reduce((sum, one) => sum + one, 0);
    const ends = ["are dead, and were given the gray level of their", "is dead, and was given the gray level of its"];
    if (lost) notes.push(`${counted(lost, mask.length, ...ends)} neighbours`);
    const values = numbers.grid(Float32Array.from(gray.data, isHole(mask)), gray.width, gray.height);
    return { name, values, celsius: null, gray: holes.filled(gray, mask), rgb, levels: true, notes };
  }

  function ofValues(image, { unit: stated, display }, name, notes, wanted) {
    const { width, height } = image;
    const found = holes.find(image);
    if (!found.mask.includes(0)) throw new InputError("The image holds no value that a thermometer could give.");
    let values = numbers.grid(Float32Array.from(image.data, isHole(found.mask)), width, height);
    const explicit = wanted !== "auto" || stated;
    const [unit, told] = explicit
      ? [units.parse(wanted === "auto" ? stated : wanted), ""]
      : units.guess(values.data, image.data instanceof Uint16Array);
    let celsius = unit ? units.toCelsius(values, unit) : null;
    if (unit && explicit && celsius.data.some((value) => value >= CONSTANTS.units.zero)) {
      const impossible = celsius.data.map((value) => (value >= CONSTANTS.units.zero ? 0 : 1));
      [values, celsius] = [values, celsius].map((one) => numbers.grid(one.data.map(isHole(impossible)), width, height));
    }
    const rows = [["first", found.top], ["last", found.bottom]].filter(([, count]) => count);
    if (rows.length) {
      const named = ([one, count]) => (count === 1 ? `the ${one} row` : `the ${one} ${count} rows`);
      const which = rows.map(named).join(" and ");
      const single = found.top + found.bottom === 1;
      const [hold, were] = single ? ["holds", "was"] : ["hold", "were"];
      notes.push(`${which} ${hold} telemetry in place of temperatures, and ${were} treated as missing`);
    }
    const lost = values.data.filter(Number.isNaN).length - (found.top + found.bottom) * width;
    const ends = ["hold no temperature and were", "holds no temperature and was"];
    if (lost) notes.push(`${counted(lost, values.data.length, ...ends)} treated as missing`);
    if (told) notes.push(told);
    const rgb = display && display.width === width && display.height === height && !isGray(display) ? display : null;
    return { name, values, celsius, gray: gain8(values), rgb, levels: false, notes };
  }

  /** Reads a file; `celsius` and `polarity` are the options of `mlcm predict`. Throws InputError. */
  async function read(content, name, { celsius = "auto", polarity = "white_hot" } = {}) {
    if (celsius !== "auto") units.parse(celsius);
    const found = await decoded(content, name);
    const notes = found.notes.filter(Boolean);
    let image;
    if (found.channels === 3 || found.image.data instanceof Uint8Array) {
      const coloured = found.channels === 3 && !isGray(found.image);
      if (celsius !== "auto" && units.parse(celsius)) {
        const what = coloured ? "coloured" : "8-bit gray";
        throw new InputError(`A unit is for 16-bit images and tables; this image is ${what}: choose "automatic".`);
      }
      const { width, height } = found.image;
      const [data, note] = coloured ? toGray(found.image)
        : [found.channels === 3 ? channel(found.image, 1) : found.image.data, ""];
      const gray = numbers.grid(Uint8Array.from(data), width, height);
      image = ofGray(gray, coloured ? found.image : null, name, note ? [note, ...notes] : notes);
    } else image = ofValues(found.image, found, name, notes, celsius);
    if (polarity !== "black_hot") return image;
    if (image.celsius) {
      throw new InputError('"Cold is bright" is for images without temperatures; choose "no temperatures" as well.');
    }
    const values = units.inverted(image.values, image.levels);
    const mask = Uint8Array.from(values.data, (value) => (Number.isNaN(value) ? 1 : 0));
    const gray = image.levels
      ? holes.filled(numbers.grid(Uint8Array.from(values.data, (v) => v || 0), values.width, values.height), mask)
      : gain8(values);
    return { ...image, values, gray };
  }

  return { read };
})();
