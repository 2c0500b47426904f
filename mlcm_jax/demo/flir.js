"use strict";
// FLIR's radiometric files: °C from the counts, as mlcm_jax/flir.py computes them.

const flir = (() => {
  const [RAW, CAMERA] = [0x01, 0x20];

  const is = (content) => jpeg.starts(content, ["FFF\0", "AFF\0"]);

  /** FLIR's data in a JPEG, whose segments hold them in pieces; null if there are none. */
  function find(content) {
    const pieces = new Map();
    let last = 0;
    for (const { kind, data } of jpeg.segments(content).found) {
      if (kind !== 1 || !jpeg.starts(data, ["FLIR\0"]) || data.length <= 8) continue;
      if (!pieces.has(data[6])) pieces.set(data[6], data.subarray(8));
      last = Math.max(last, data[7]);
    }
    if (!pieces.size) return null;
    const order = Array.from({ length: last + 1 }, (_, k) => k);
    const missing = order.filter((k) => !pieces.has(k)).length;
    if (missing) throw new InputError(`${missing} of ${last + 1} pieces of FLIR's data are missing.`);
    const all = [...pieces.keys()].sort((a, b) => a - b).map((k) => pieces.get(k));
    const joined = new Uint8Array(all.reduce((sum, one) => sum + one.length, 0));
    let place = 0;
    for (const one of all) {
      joined.set(one, place);
      place += one.length;
    }
    return joined;
  }

  /** Reads numbers at places of some data, in one byte order. */
  function reader(data, little) {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    return (kind, place) => {
      if (place + { Uint16: 2, Uint32: 4, Int32: 4, Float32: 4 }[kind] > data.length) {
        throw new InputError("FLIR's data are cut off.");
      }
      return view[`get${kind}`](place, little);
    };
  }

  /** The first record of each type. */
  function records(data) {
    const version = (little) => reader(data, little)("Uint32", 0x14);
    const little = [true, false].find((order) => version(order) >= 100 && version(order) < 200);
    if (little === undefined) throw new InputError("FLIR's data have an unknown version.");
    const read = reader(data, little);
    const found = new Map();
    const [start, count] = [read("Uint32", 0x18), read("Uint32", 0x1c)];
    for (let place = start; place < Math.min(start + 32 * count, data.length - 31); place += 32) {
      const [kind, offset, length] = [read("Uint16", place), read("Uint32", place + 12), read("Uint32", place + 16)];
      if (kind && length && !found.has(kind)) found.set(kind, data.subarray(offset, offset + length));
    }
    return found;
  }

  /** Reads a record in the byte order in which its first number is 2. */
  const ordered = (record) => reader(record, reader(record, true)("Uint16", 0) < 256);

  /** The counts of the sensor. */
  async function counts(record) {
    const read = ordered(record);
    const [width, height] = [read("Uint16", 2), read("Uint16", 4)];
    const content = record.subarray(32);
    const size = width * height;
    if (!(size > 0 && size <= CONSTANTS.flir.largest)) {
      throw new InputError(`FLIR's data hold an image of ${width} x ${height} pixels.`);
    }
    if (content[0] === 0xff && content[1] === 0xd8 && content[2] === 0xff) {
      throw new InputError(
        "FLIR's counts are compressed as JPEG-LS, as in CSQ files: export them as CSV or 16-bit PNG.",
      );
    }
    if (!png.is(content)) {
      if (content.length < 2 * size) throw new InputError("FLIR's data are cut off.");
      const plain = Uint16Array.from({ length: size }, (_, k) => read("Uint16", 32 + 2 * k));
      return numbers.grid(plain, width, height);
    }
    const image = await png.decode(content).catch((error) => {
      throw error instanceof InputError ? new InputError("FLIR's data hold a PNG that is damaged.") : error;
    });
    if (image.width !== width || image.height !== height || !(image.data instanceof Uint16Array)) {
      throw new InputError("FLIR's data hold a PNG of another size or kind than they say.");
    }
    // Most cameras write the bytes of the PNG in the wrong order. Neighbours are alike in the right one.
    const swapped = image.data.map((value) => (value >> 8) | ((value & 255) << 8));
    const rough = (values) => {
      let sum = 0;
      for (let k = 1; k < values.length; k++) if (k % width) sum += Math.abs(values[k] - values[k - 1]);
      return sum;
    };
    return numbers.grid(rough(swapped) <= rough(image.data) ? swapped : image.data, width, height);
  }

  /** The constants and settings of the camera by their names. */
  function settings(record) {
    const read = ordered(record);
    const places = Object.entries(CONSTANTS.flir.fields);
    const found = Object.fromEntries(places.map(([name, place]) => [name, read("Float32", place)]));
    found.o = read("Int32", CONSTANTS.flir.offset);
    const positive = Math.min(found.r1, found.b, found.r2) > 0;
    const kelvin = Math.min(found.air, found.reflected, found.window) >= 0;
    if (!(Object.values(found).every(Number.isFinite) && positive && kelvin)) {
      throw new InputError("FLIR's data hold constants that no camera has.");
    }
    return found;
  }

  /** The share of the radiation that the air lets through. */
  function throughAir(n) {
    const air = n.air - 273.15;
    const humidity = n.humidity > 2 ? n.humidity / 100 : n.humidity;
    const water = humidity * Math.exp(1.5587 + 6.939e-2 * air - 2.7816e-4 * air ** 2 + 6.8455e-7 * air ** 3);
    const [way, root] = [Math.sqrt(Math.max(n.distance, 0)), Math.sqrt(Math.max(water, 0))];
    const first = n.x * Math.exp(-way * (n.alpha1 + n.beta1 * root));
    return first + (1 - n.x) * Math.exp(-way * (n.alpha2 + n.beta2 * root));
  }

  /**
   * The image of the first frame: {image, unit, note}. It is °C in Float32Array and the unit "celsius", or, without
   * the constants of the camera, counts in Uint16Array and the unit "".
   */
  async function read(data) {
    const found = records(data);
    if (!found.has(RAW)) throw new InputError("FLIR's data hold no counts.");
    const raw = await counts(found.get(RAW));
    if (!found.has(CAMERA)) {
      const note = "FLIR's counts were read; the file holds no constants of the camera, by which they would become °C";
      return { image: raw, unit: "", note };
    }
    const n = settings(found.get(CAMERA));
    const radiance = (kelvin) => n.r1 / (n.r2 * (Math.exp(n.b / kelvin) - n.f)) - n.o;
    // A temperature of 0 K and a transmission of 0 mean that nobody set them.
    const through = n.air ? throughAir(n) : 1;
    const [emissivity, passed] = [n.reflected ? n.emissivity : 1, n.transmission || 1];
    if (!(emissivity > 0 && emissivity <= 1 && passed > 0 && passed <= 1 && through > 0 && through <= 1.01)) {
      throw new InputError("FLIR's data hold constants that no camera has.");
    }
    const celsius = new Float32Array(raw.data.length);
    const [air, window, reflected] = [n.air, n.window || n.air, n.reflected].map(radiance);
    raw.data.forEach((count, k) => {
      let seen = count;
      if (through !== 1) seen = (seen - (1 - through) * air) / through;
      if (passed !== 1) seen = (seen - (1 - passed) * window) / passed;
      if (emissivity !== 1) seen = (seen - (1 - emissivity) * reflected) / emissivity;
      const value = n.b / Math.log(n.r1 / (n.r2 * (seen + n.o)) + n.f) - 273.15;
      celsius[k] = Number.isFinite(value) && value > -273.15 ? value : NaN;
    });
    if (celsius.every(Number.isNaN)) throw new InputError("FLIR's data hold constants that give no temperature.");
    const unset = n.reflected ? "" : ", because the temperature of what it reflects is not set";
    const assumed = `distance ${n.distance.toFixed(1)} m, emissivity ${emissivity.toFixed(2)}${unset}`;
    const note = `temperatures were computed from FLIR's counts (${assumed})`;
    return { image: numbers.grid(celsius, raw.width, raw.height), unit: "celsius", note };
  }

  /** The number of frames in a file. */
  function frames(data) {
    const version = (place, little) => {
      const found = place + 0x18 <= data.length ? reader(data, little)("Uint32", place + 0x14) : 0;
      return found >= 100 && found < 200;
    };
    let count = 0;
    for (let k = data.indexOf(0x46, 1); k > 0 && k + 4 <= data.length; k = data.indexOf(0x46, k + 1)) {
      const starts = data[k + 1] === 0x46 && data[k + 2] === 0 && (data[k - 1] === 0x46 || data[k - 1] === 0x41);
      if (starts && (version(k - 1, true) || version(k - 1, false))) count++;
    }
    return count;
  }

  return { is, find, read, frames };
})();
