"use strict";
// What a JPEG file holds beside its picture: orientation, and the thermal data of cameras (mlcm_jax/vendors.py).

const jpeg = (() => {
  const is = (content) => content[0] === 0xff && content[1] === 0xd8;
  const text = (content, start, end) => String.fromCharCode(...content.subarray(start, end));
  const starts = (content, words) => words.some((word) => text(content, 0, word.length) === word);

  /** Whether bytes contain a word of ASCII. */
  function contains(content, word) {
    const codes = [...word].map((letter) => letter.charCodeAt(0));
    for (let k = content.indexOf(codes[0]); k >= 0; k = content.indexOf(codes[0], k + 1)) {
      if (codes.every((code, j) => content[k + j] === code)) return true;
    }
    return false;
  }

  /** The application segments {kind, data}, in order, and what follows the picture. */
  function segments(content) {
    const found = [];
    let place = 2;
    while (place + 4 <= content.length && content[place] === 0xff) {
      const kind = content[place + 1];
      if (kind === 0xff) {  // markers may be padded
        place++;
        continue;
      }
      if (kind === 0xd9) break;
      const size = Math.max(content[place + 2] * 256 + content[place + 3], 2);
      const data = content.subarray(place + 4, place + 2 + size);
      if (kind >= 0xe0 && kind <= 0xef) found.push({ kind: kind - 0xe0, data });
      place += 2 + size;
      if (kind === 0xda) {  // the compressed pixels have no size
        while (place + 1 < content.length && !ends(content, place)) place++;
      }
    }
    const several = found.some(({ kind, data }) => kind === 2 && starts(data, ["MPF\0"]));
    return { found, rest: several ? new Uint8Array(0) : content.subarray(place + 2) };
  }

  function ends(content, place) {
    const next = content[place + 1];
    return content[place] === 0xff && next !== 0 && next !== 0xff && !(next >= 0xd0 && next <= 0xd7);
  }

  /** The orientation, 1 to 8, in the data of EXIF (a TIFF header and its fields). */
  function orientation(exif) {
    if (!exif || exif.length < 8) return 1;
    const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
    const little = exif[0] === 0x49;
    try {
      const start = view.getUint32(4, little);
      for (let k = 0; k < view.getUint16(start, little); k++) {
        const at = start + 2 + 12 * k;
        if (view.getUint16(at, little) === 0x112) return numbers.clip(view.getUint16(at + 8, little), 1, 8);
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
    return 1;
  }

  /** The data of EXIF in a JPEG, or null. */
  function exif(content) {
    const one = segments(content).found.find(({ kind, data }) => kind === 1 && starts(data, ["Exif\0"]));
    return one ? one.data.subarray(6) : null;
  }

  /** Turns an image as its orientation says; `channels` values belong to a pixel. */
  function turned(image, channels, way) {
    if (way === 1) return image;
    const [w, h] = [image.width, image.height];
    const swapped = way > 4;
    const [width, height] = swapped ? [h, w] : [w, h];
    const data = new image.data.constructor(image.data.length);
    const source = {
      2: (r, c) => [r, w - 1 - c], 3: (r, c) => [h - 1 - r, w - 1 - c], 4: (r, c) => [h - 1 - r, c],
      5: (r, c) => [c, r], 6: (r, c) => [h - 1 - c, r], 7: (r, c) => [h - 1 - c, w - 1 - r],
      8: (r, c) => [c, w - 1 - r],
    }[way];
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const [r, c] = source(row, column);
        for (let k = 0; k < channels; k++) {
          data[(row * width + column) * channels + k] = image.data[(r * w + c) * channels + k];
        }
      }
    }
    return { ...image, data, width, height };
  }

  /** A sentence about thermal data in a JPEG that are not read, or "". */
  function unread(content) {
    const { found, rest } = segments(content);
    const usual = CONSTANTS.usual_segments;
    const whose = owner(found, rest, usual);
    const remedy = "export them as 16-bit PNG or CSV to use them";
    if (whose) return `the file holds ${whose} thermal data, which are not read, but its picture (${remedy})`;
    const other = found.reduce((sum, { data }) => sum + (starts(data, usual) ? 0 : data.length), 0);
    const count = other + rest.filter((byte) => ![0, 9, 10, 13, 32].includes(byte)).length;
    if (count <= CONSTANTS.few_bytes) return "";
    return `the file holds ${count} bytes beside its picture, which are not read; if they are temperatures, ${remedy}`;
  }

  function owner(found, rest, usual) {
    const dji = found.some(({ kind, data }) => kind === 1 && starts(data, ["Exif\0"]) && contains(data, "DJI\0"));
    for (const { kind, data } of found) {
      if (kind === 2 && text(data, 4, 10) === "IJPEG\0") return "InfiRay's";
      if (kind === 1 && starts(data, ["PARROT\0"])) return "Parrot's";
      const calibrated = kind === 4 && starts(data, ["\xaa\x55\x12\x06"]);
      const tables = kind === 6 && starts(data, ["DTAT\0"]);
      const large = dji && (kind === 3 || kind === 5) && data.length > CONSTANTS.few_bytes;
      if (calibrated || tables || large) return "DJI's";
    }
    const others = found.map(({ data }) => data).filter((data) => !starts(data, usual));
    return [...others, rest].some((data) => contains(data, "HDRI")) ? "HIKMICRO's" : "";
  }

  return { is, segments, starts, exif, orientation, turned, unread };
})();
