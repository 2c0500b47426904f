"use strict";
// Units of thermal values: mlcm_jax/units.py and mlcm_jax/polarity.py.

const units = (() => {
  /** {scale, offset} of the text of --celsius, or null for "none". */
  function parse(given) {
    const word = given.trim().toLowerCase();
    if (word === "none") return null;
    if (word in CONSTANTS.units.names) {
      const [scale, offset] = CONSTANTS.units.names[word];
      return { scale, offset };
    }
    const parts = word.split(",").map((one) => (one.trim() ? Number(one) : NaN));
    const [scale, offset] = parts.length === 2 ? parts : [NaN, NaN];
    if (!(scale > 0 && scale < Infinity && Number.isFinite(offset))) {
      throw new InputError(
        `The unit "${given}" must be scale,offset with a positive scale, such as 0.01,-273.15, or one of the list.`,
      );
    }
    return { scale, offset };
  }

  const toCelsius = (image, unit) =>
    numbers.grid(image.data.map((value) => value * unit.scale + unit.offset), image.width, image.height);

  /** The unit that fits an image, or null, and a sentence about it. */
  function guess(values, counts) {
    const what = counts ? "16-bit values" : "values";
    const middle = numbers.median(values.filter((value) => !Number.isNaN(value)));
    const { names, coldest, hottest } = CONSTANTS.units;
    const known = [["hundredths of a kelvin", names.centikelvin]];
    if (!counts) known.unshift(["°C", names.celsius], ["kelvins", names.kelvin]);
    for (const [name, [scale, offset]] of known) {
      const degrees = scale * middle + offset;
      if (coldest < degrees && degrees < hottest) {
        const told = `${what} were taken for ${name}, so that their median is ${degrees.toFixed(1)} °C`;
        return [{ scale, offset }, told];
      }
    }
    const fit = fitting(middle);
    const hint = fit ? `; if they are temperatures, choose their unit, such as ${fit}` : "";
    const told = `${what} with a median of ${numbers.text(middle, 5)} were taken for gray levels without a unit`;
    return [null, told + hint];
  }

  /** What is wrong if the pixels of a face have a temperature that no face has, or "". */
  function doubt(values, celsius) {
    const degrees = celsius.filter((value) => !Number.isNaN(value));
    if (!degrees.length) return "";
    const middle = numbers.median(degrees);
    if (CONSTANTS.units.coldest_face <= middle && middle <= CONSTANTS.units.hottest_face) return "";
    const fit = fitting(numbers.median(values.filter((value) => !Number.isNaN(value))));
    const such = fit ? `, such as ${fit}` : "";
    return (
      `the face would be at ${middle.toFixed(0)} °C, which no face is; choose the unit of the values${such}, or ` +
      '"no temperatures"'
    );
  }

  function fitting(middle) {
    const { names, of_cameras: cameras, coldest_face: low, hottest_face: high } = CONSTANTS.units;
    const all = { ...names, ...Object.fromEntries(cameras.map((one) => [one, one.split(",").map(Number)])) };
    const fits = ([, [scale, offset]]) => low <= scale * middle + offset && scale * middle + offset <= high;
    return Object.entries(all).filter(fits).map(([name]) => name).join(" or ");
  }

  /** Turns cold = large into hot = large. */
  function inverted(image, levels) {
    const [low, high] = numbers.range(image.data);
    const ends = levels ? 255 : low + high;
    return numbers.grid(image.data.map((value) => ends - value), image.width, image.height);
  }

  /** Whether a face is darker than what surrounds it, so that cold is probably bright in the image. */
  function darker(gray, [x, y, w, h]) {
    const ceil = (value) => Math.max(0, Math.ceil(value));
    const within = (row, column, more) =>
      row >= ceil(y - more * h) && row < ceil(y + (1 + more) * h) &&
      column >= ceil(x - more * w) && column < ceil(x + (1 + more) * w);
    const [inside, around] = [[], []];
    for (let row = 0; row < gray.height; row++) {
      for (let column = 0; column < gray.width; column++) {
        if (within(row, column, 0)) inside.push(gray.data[row * gray.width + column]);
        else if (within(row, column, 0.3)) around.push(gray.data[row * gray.width + column]);
      }
    }
    if (!inside.length || !around.length) return false;
    const [low, high] = numbers.percentiles(gray.data, [5, 95]);
    const far = Math.min(CONSTANTS.units.darker, Math.max(1, 0.1 * (high - low)));
    return numbers.median(inside) + far < numbers.median(around);
  }

  return { parse, toCelsius, guess, doubt, inverted, darker };
})();
