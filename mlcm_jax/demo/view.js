"use strict";
// What the page shows of an image: the overlay, notes, and tables.

const view = (() => {
  const COLUMNS = [["mean", "mean"], ["max", "max"], ["std", "std. dev."], ["p10", "10 %"], ["p90", "90 %"]];

  /** Makes an element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const words = (name) => name.replaceAll("_", " ");

  /** Draws an image, enlarged by a whole number if it is small, and the layers of its faces that are wanted. */
  function draw(canvas, image, faces, layers) {
    const { width, height } = image.gray;
    const factor = Math.max(1, Math.ceil(512 / Math.max(width, height)));
    [canvas.width, canvas.height] = [width * factor, height * factor];
    const context = canvas.getContext("2d");
    const pixels = new ImageData(width, height);
    for (let k = 0; k < width * height; k++) {
      const gray = image.gray.data[k];
      pixels.data.set([gray, gray, gray, 255], 4 * k);
    }
    const plain = document.createElement("canvas");
    [plain.width, plain.height] = [width, height];
    plain.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(plain, 0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = true;
    const place = ([x, y]) => [(x + 0.5) * factor, (y + 0.5) * factor];  // pixel centres are integers
    const unit = Math.max(canvas.width, canvas.height) / 500;
    const how = { place, factor, unit, layers, several: faces.length > 1 };
    faces.forEach((face, k) => drawFace(context, face, k + 1, how));
  }

  function path(context, corners) {
    context.beginPath();
    corners.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
  }

  function drawFace(context, face, number, { place, factor, unit, layers, several }) {
    context.lineWidth = Math.max(1, unit);
    if (layers.regions) {
      context.fillStyle = "rgba(60, 220, 120, 0.35)";
      for (const name of regions.names().filter((one) => one !== "face")) {
        path(context, regions.outline(face.points, name).map(place));
        context.fill();
      }
    }
    if (layers.uncertainty) {
      context.strokeStyle = "rgba(90, 210, 255, 0.9)";
      face.points.forEach((point, k) => {
        context.beginPath();
        context.arc(...place(point), face.uncertainty[k] * factor, 0, 2 * Math.PI);
        context.stroke();
      });
    }
    if (layers.landmarks) {
      context.strokeStyle = "rgb(191, 89, 89)";
      for (const ends of CONSTANTS.landmarks.edges) {
        path(context, ends.map((k) => place(face.points[k])));
        context.stroke();
      }
      context.fillStyle = "rgb(255, 60, 60)";
      for (const point of face.points) {
        context.beginPath();
        context.arc(...place(point), 2 * unit, 0, 2 * Math.PI);
        context.fill();
      }
    }
    if (layers.box) {
      const [x, y, w, h] = face.box;
      const [left, top] = place([x, y]);
      context.strokeStyle = "white";
      context.strokeRect(left, top, w * factor, h * factor);
      if (several) {
        context.font = `${Math.round(14 * unit)}px sans-serif`;
        context.fillStyle = "black";
        context.fillRect(left, Math.max(0, top), 18 * unit, 20 * unit);
        context.fillStyle = "white";
        context.fillText(String(number), left + 5 * unit, Math.max(0, top) + 15 * unit);
      }
    }
  }

  function table(caption, heads, rows) {
    const head = make("tr", {}, ...heads.map((one) => make("th", { scope: "col" }, one)));
    return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...rows));
  }

  function faceRows(faces) {
    return faces.map((face, k) => {
      const mean = face.uncertainty.reduce((sum, one) => sum + one, 0) / face.uncertainty.length;
      const cells = [face.detection.toFixed(2), face.score.toFixed(2), mean.toFixed(1)];
      const box = face.box.map((one) => one.toFixed(0)).join(", ");
      const head = make("th", { scope: "row" }, String(k + 1));
      return make("tr", {}, head, ...[...cells, box].map((one) => make("td", {}, one)));
    });
  }

  function regionRows(measured) {
    return Object.entries(measured).map(([name, one]) => {
      const head = make("th", { scope: "row" }, words(name));
      if (one.hidden) return make("tr", {}, head, make("td", { colspan: "6", class: "hidden" }, "hidden"));
      const cells = COLUMNS.map(([key]) => make("td", {}, one[key].toFixed(2)));
      return make("tr", {}, head, ...cells, make("td", {}, String(one.pixels)));
    });
  }

  const counted = (count) => (count === 0 ? "no face" : count === 1 ? "1 face" : `${count} faces`);

  /** The article of an image: {element, redraw(layers)}. */
  function article({ key, image, faces, notes, warnings }, id) {
    const title = make("h3", { id, tabindex: "-1" }, `${key}: ${counted(faces.length)}`);
    const canvas = make("canvas", { role: "img", "aria-label": `${key} with ${counted(faces.length)} drawn on it` });
    const shown = make("div", { class: "tables", tabindex: "0", role: "group", "aria-label": `Numbers of ${key}` });
    if (faces.length) {
      const heads = ["Face", "is a face", "score", "error, pixels", "box x, y, w, h"];
      shown.append(table("Faces: probabilities, and expected errors", heads, faceRows(faces)));
    }
    faces.forEach((face, k) => {
      if (!face.regions) return;
      const heads = ["Region", ...COLUMNS.map(([, name]) => name), "pixels"];
      const which = faces.length > 1 ? ` of face ${k + 1}` : "";
      shown.append(table(`Temperatures${which}, °C`, heads, regionRows(face.regions)));
    });
    if (faces.length && !image.celsius) shown.append(make("p", {}, "The image has gray levels and no temperatures."));
    const items = [...warnings.map((one) => [one, "warning"]), ...notes.map((one) => [one, ""])];
    const list = make("ul", { class: "notes" }, ...items.map(([one, kind]) => make("li", { class: kind }, `${one}.`)));
    const columns = make("div", { class: "columns" }, make("div", { class: "overlay" }, canvas), shown);
    const element = make("article", { "aria-labelledby": id }, title, columns, ...(items.length ? [list] : []));
    return { element, title, redraw: (layers) => draw(canvas, image, faces, layers) };
  }

  /** The article of a file that cannot be used. */
  function failed(key, message, id) {
    const title = make("h3", { id, tabindex: "-1" }, key);
    const text = make("p", { class: "error", role: "alert" }, message);
    return { element: make("article", { "aria-labelledby": id }, title, text), title, redraw: () => {} };
  }

  return { make, article, failed, counted };
})();
