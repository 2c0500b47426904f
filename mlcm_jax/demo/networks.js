"use strict";
// Finds faces and landmarks: mlcm_jax/inference/detector.py, predictor.py and search.py, with mlcm_jax/detection.py.
// A box is [x, y, w, h] in pixels; points are [[x, y], ...].

const networks = (() => {
  const fround = (values) => values.map(Math.fround);
  const mean = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;

  /** Opens an ONNX file: returns crop -> the graph's outputs, in their order. */
  async function opened(content, size) {
    const session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
    const [input] = session.inputNames;
    return async (crop) => {
      const found = await session.run({ [input]: new ort.Tensor("float32", crop, [1, size, size, 1]) });
      return session.outputNames.map((name) => found[name]);
    };
  }

  /** Starts the runtime, and opens both networks. */
  async function start({ wasm, landmarks, detector }) {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = wasm.buffer;
    ort.env.logLevel = "error";
    return {
      landmarks: await opened(landmarks, CONSTANTS.landmarks.image_size),
      detector: await opened(detector, CONSTANTS.detector.image_size),
    };
  }

  const iou = (a, b) => {
    const along = (k) => Math.max(0, Math.min(a[k] + a[k + 2], b[k] + b[k + 2]) - Math.max(a[k], b[k]));
    const both = along(0) * along(1);
    const union = a[2] * a[3] + b[2] * b[3] - both;
    return union > 0 ? both / union : 0;
  };

  /** The numbers of the boxes to keep, of boxes that are sorted, best first. */
  function withoutOverlaps(boxes, most = Infinity) {
    const kept = [];
    boxes.forEach((box, k) => {
      if (kept.length < most && kept.every((other) => iou(box, boxes[other]) < CONSTANTS.search.overlap)) kept.push(k);
    });
    return kept;
  }

  /** Reads boxes in u off the maps of the detector: [{box, score}, ...], best first. */
  function boxesOf(scores, sides, [h, w], threshold, most) {
    const { unit, limits } = CONSTANTS.detector;
    const lowest = numbers.logit(threshold);
    const found = [];
    for (let row = 0; row < h; row++) {
      for (let column = 0; column < w; column++) {
        const own = scores[row * w + column];
        let peak = own > lowest;
        for (let r = Math.max(0, row - 1); peak && r < Math.min(h, row + 2); r++) {
          for (let c = Math.max(0, column - 1); c < Math.min(w, column + 2); c++) {
            peak = peak && own >= scores[r * w + c];
          }
        }
        if (!peak) continue;
        const at = 4 * (row * w + column);
        const [left, right, upper, lower] =
          Array.from(sides.subarray(at, at + 4), (one) => unit * Math.exp(numbers.clip(one, ...limits)));
        const [x, y] = [(column + 0.5) / w, (row + 0.5) / h];
        found.push({ box: [x - left, y - upper, left + right, upper + lower], logit: own });
      }
    }
    found.sort((a, b) => b.logit - a.logit);
    const best = found.slice(0, 20 * most);
    return withoutOverlaps(best.map(({ box }) => box), most)
      .map((k) => ({ box: best[k].box, score: numbers.expit(best[k].logit) }));
  }

  const forNetwork = (image) => (image.levels ? image.gray : image.values);

  /** The detector's boxes in an image: [{box, score}, ...], best first. */
  async function detected(image, runs) {
    const { image_size: size, expand } = CONSTANTS.detector;
    const { candidates, lowest } = CONSTANTS.search;
    const [pixels, scale] = crops.reduced(forNetwork(image));
    const { crop, step, left, top } = crops.square(
      crops.sceneGain(pixels), [0, 0, pixels.width, pixels.height], expand, size);
    const [scores, sides] = await runs.detector(crop);
    const found = boxesOf(scores.data, sides.data, scores.dims.slice(1), lowest, candidates);
    const placed = found.map(({ box: [x, y, w, h], score }) => {
      const corner = [(x * size - 0.5) * step + left, (y * size - 0.5) * step + top];
      return { box: fround([...corner.map((one) => (one + 0.5) * scale - 0.5), w * size * step * scale,
        h * size * step * scale]), score };
    });
    const { width, height } = image.values;
    return placed.filter(({ box }) => Math.min(box[2], box[3]) > 1.5 && middleInside(box, width, height));
  }

  function middleInside([x, y, w, h], width, height) {
    const [a, b] = [x + w / 2, y + h / 2];
    return a >= 0 && a < width - 0.5 && b >= 0 && b < height - 0.5;
  }

  /** What the crop of a box can read of an image, and its corner. */
  function window(image, [x, y, w, h], expand) {
    const reach = 0.5 * Math.max(expand, 1) * Math.max(w, h) * 1.25 + 8;
    const along = (middle, side) => [
      Math.min(Math.max(0, Math.trunc(middle - reach)), side - 1),
      Math.min(Math.max(1, Math.trunc(middle + reach) + 1), side),
    ];
    const [[left, right], [top, bottom]] = [along(x + w / 2, image.width), along(y + h / 2, image.height)];
    return { part: numbers.part(image, left, top, right, bottom), left, top };
  }

  /** The landmarks in a box: {points, uncertainty, score, box}. */
  async function face(image, box, runs) {
    const { image_size: size, expand, flip, calibration } = CONSTANTS.landmarks;
    const seen = forNetwork(image);
    const { part, left, top } = window(seen, box, expand);
    const [x, y, w, h] = box;
    const local = [x - left, y - top, w, h];
    const square = crops.square(crops.gain(part, local), local, expand, size);
    const plain = await runs.landmarks(square.crop);
    const mirror = await runs.landmarks(crops.mirrored(square.crop, size));
    const [factor, power] = calibration;
    const raw = (output, k) => (output[1].data[k] / factor) ** (1 / power);  // the graph calibrates each on its own
    const [points, uncertainty] = [[], []];
    flip.forEach((other, k) => {
      const u = (plain[0].data[2 * k] + 1 - mirror[0].data[2 * other]) / 2;
      const v = (plain[0].data[2 * k + 1] + mirror[0].data[2 * other + 1]) / 2;
      points.push(fround([
        (u * size - 0.5) * square.step + square.left + left, (v * size - 0.5) * square.step + square.top + top,
      ]));
      const spread = factor * ((raw(plain, k) + raw(mirror, other)) / 2) ** power;
      uncertainty.push(size * square.step * spread);
    });
    const score = crops.showsNothing(crops.inside(seen, box)) ? 0 : scoreOf(mean(uncertainty) / sideOf(points));
    return { points, uncertainty, score, box };
  }

  function extent(points) {
    const [x, y] = [0, 1].map((k) => numbers.range(points.map((point) => point[k])));
    return { x: x[0], y: y[0], w: x[1] - x[0], h: y[1] - y[0] };
  }

  /** The box that fits landmarks. */
  function boxOf(points) {
    const { x, y, w, h } = extent(points);
    const [wide, high] = [w / 0.91, h / 0.825];
    return fround([x - wide * 0.045, y - high * 0.135, wide, high]);
  }

  function sideOf(points) {
    const { w, h } = extent(points);
    if (!(w > 1e-3 && h > 1e-3)) return 1e-3;
    const box = boxOf(points);
    return Math.sqrt(box[2] * box[3]);
  }

  function scoreOf(spread) {
    const [, , a, b] = CONSTANTS.landmarks.calibration;
    return numbers.expit(a + b * Math.log(Math.max(spread, 1e-6)));
  }

  /** Finds the faces of an image, best first: [{points, uncertainty, score, box, detection}, ...]. */
  async function search(image, runs) {
    const { raised, max_faces: most, min_score: least } = CONSTANTS.search;
    const { width, height } = image.values;
    const found = [];
    for (const { box, score } of await detected(image, runs)) {
      const [x, y, w, h] = box;
      const higher = fround([x + raised[0] * w, y + raised[1] * h, raised[2] * w, raised[3] * h]);
      const both = [await face(image, box, runs), await face(image, higher, runs)];
      const chosen = both[1].score > both[0].score ? both[1] : both[0];
      const size = extent(chosen.points);
      const fitted = boxOf(chosen.points);
      const usable = size.w > 1.5 && size.h > 1.5 && middleInside(fitted, width, height);
      const [a, b, c] = CONSTANTS.search.second;
      const clipped = (value) => numbers.logit(numbers.clip(value, 1e-4, 1 - 1e-4));
      const detection = numbers.expit(a + b * clipped(score) + c * clipped(chosen.score));
      found.push({ ...chosen, box: usable ? fitted : chosen.box, detection });
    }
    const likely = found.filter(({ detection }) => detection >= least).sort((a, b) => b.detection - a.detection);
    return withoutOverlaps(likely.map(({ box }) => box)).slice(0, most).map((k) => likely[k]);
  }

  return { start, search, boxesOf, boxOf };
})();
