"use strict";
// PNG files of all depths, without a canvas, which cuts 16 bits to 8.

const png = (() => {
  const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
  const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
  const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
  const LARGEST = 1 << 27;
  const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
    return c >>> 0;
  });

  const is = (content) => SIGNATURE.every((byte, k) => content[k] === byte);

  function checksum(content) {
    let c = 0xffffffff;
    for (const byte of content) c = TABLE[(c ^ byte) & 255] ^ (c >>> 8);
    return (c ^ 0xffffffff) >>> 0;
  }

  /** The chunks up to IEND, by their types; checks their checksums. */
  function chunks(content) {
    const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
    const found = [];
    let place = 8;
    for (;;) {
      if (place + 12 > content.length) throw new InputError("it is cut off");
      const size = view.getUint32(place);
      if (place + 12 + size > content.length) throw new InputError("it is cut off");
      const type = String.fromCharCode(...content.subarray(place + 4, place + 8));
      const sum = checksum(content.subarray(place + 4, place + 8 + size));
      if (sum !== view.getUint32(place + 8 + size)) throw new InputError(`its part ${type} is damaged`);
      found.push({ type, data: content.subarray(place + 8, place + 8 + size) });
      place += 12 + size;
      if (type === "IEND") return { found, rest: content.subarray(place) };
    }
  }

  /** Undoes the filters of one pass, in place: rows of `stride` bytes, each behind a byte that names its filter. */
  function unfilter(data, stride, rows, back) {
    for (let row = 0; row < rows; row++) {
      const start = row * (stride + 1) + 1;
      const up = start - stride - 1;
      const kind = data[start - 1];
      if (kind > 4) throw new InputError("it has an unknown filter");
      for (let k = 0; k < stride; k++) {
        const left = k >= back ? data[start + k - back] : 0;
        const above = row ? data[up + k] : 0;
        const corner = row && k >= back ? data[up + k - back] : 0;
        let guess = 0;
        if (kind === 1) guess = left;
        else if (kind === 2) guess = above;
        else if (kind === 3) guess = (left + above) >> 1;
        else if (kind === 4) {
          const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
          guess = a <= b && a <= c ? left : b <= c ? above : corner;
        }
        data[start + k] = (data[start + k] + guess) & 255;
      }
    }
  }

  /** All samples of an image, channel by channel within a pixel. */
  function samples(data, { width, height, depth, channels, interlaced }) {
    const found = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
    const back = Math.max(1, (channels * depth) >> 3);
    let place = 0;
    for (const [x0, y0, dx, dy] of interlaced ? PASSES : [[0, 0, 1, 1]]) {
      const [columns, rows] = [Math.ceil((width - x0) / dx), Math.ceil((height - y0) / dy)];
      if (columns <= 0 || rows <= 0) continue;
      const stride = Math.ceil((columns * channels * depth) / 8);
      const size = rows * (stride + 1);
      if (place + size > data.length) throw new InputError("it is cut off");
      const part = data.subarray(place, place + size);
      place += size;
      unfilter(part, stride, rows, back);
      for (let row = 0; row < rows; row++) {
        const start = row * (stride + 1) + 1;
        for (let k = 0; k < columns * channels; k++) {
          const at = start + ((k * depth) >> 3);
          const value =
            depth === 16 ? part[start + 2 * k] * 256 + part[start + 2 * k + 1]
            : depth === 8 ? part[at]
            : (part[at] >> (8 - depth - ((k * depth) & 7))) & ((1 << depth) - 1);
          const pixel = (y0 + row * dy) * width + x0 + Math.floor(k / channels) * dx;
          found[pixel * channels + (k % channels)] = value;
        }
      }
    }
    return found;
  }

  /**
   * Decodes a PNG file.
   *
   * Returns {data, width, height, channels (1 or 3), notes, exif}: Uint16Array for 16-bit gray, else Uint8Array.
   */
  async function decode(content) {
    const { found, rest } = chunks(content);
    const head = found[0];
    if (head.type !== "IHDR" || head.data.length !== 13) throw new InputError("it does not begin as a PNG does");
    const view = new DataView(head.data.buffer, head.data.byteOffset);
    const [width, height, depth, colour] = [view.getUint32(0), view.getUint32(4), head.data[8], head.data[9]];
    const channels = CHANNELS[colour];
    const known = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] }[colour] || [];
    if (!width || !height || !known.includes(depth)) throw new InputError("it is of no known kind");
    if (width * height > LARGEST) throw new InputError("it is too large");
    if (depth === 16 && (colour === 2 || colour === 6)) {
      throw new InputError(
        "it has 16 bits in each of several channels, half of which would be lost; save it as 8-bit colours, or as " +
        "one channel of 16 bits",
      );
    }
    const packed = found.filter(({ type }) => type === "IDAT").map(({ data }) => data);
    let raw;
    try {
      raw = await numbers.unpacked(new Uint8Array(await new Blob(packed).arrayBuffer()), "deflate");
    } catch {
      throw new InputError("its pixels are damaged");
    }
    const all = samples(raw, { width, height, depth, channels, interlaced: head.data[12] === 1 });
    const notes = [];
    const other = found.filter(({ type }) => !CONSTANTS.png_chunks.includes(type));
    const count = other.reduce((sum, { data }) => sum + data.length, 0) + rest.filter((byte) => byte > 32).length;
    const animated = found.some(({ type }) => type === "acTL");
    if (animated) notes.push("the file holds several images, of which the first was read");
    if (count > CONSTANTS.few_bytes) {
      notes.push(`the file holds ${count} bytes beside its picture, which are not read; if they are temperatures, ` +
        "export them as 16-bit PNG or CSV to use them");
    }
    const exif = found.find(({ type }) => type === "eXIf");
    const image = { width, height, notes, exif: exif ? exif.data : null };
    const size = width * height;
    if (colour === 3) {
      const palette = found.find(({ type }) => type === "PLTE");
      if (!palette) throw new InputError("it lacks its palette");
      const data = new Uint8Array(3 * size);
      for (let k = 0; k < size; k++) data.set(palette.data.subarray(3 * all[k], 3 * all[k] + 3), 3 * k);
      return { ...image, data, channels: 3 };
    }
    if (channels === 1) {
      const scale = depth < 8 ? 255 / ((1 << depth) - 1) : 1;
      return { ...image, data: scale === 1 ? all : all.map((value) => value * scale), channels: 1 };
    }
    if (channels === 3) return { ...image, data: all, channels: 3 };
    const kept = channels - 1;  // the others hold alpha
    let opaque = true;
    const data = new all.constructor(kept * size);
    for (let k = 0; k < size; k++) {
      data.set(all.subarray(channels * k, channels * k + kept), kept * k);
      opaque = opaque && all[channels * k + kept] === 255;
    }
    if (!opaque) notes.push("the alpha channel was not read");
    return { ...image, data, channels: kept };
  }

  return { is, decode };
})();
