"use strict";
// The page: takes files, runs the networks, shows and saves what they find.

const page = (() => {
  const get = (id) => document.getElementById(id);
  const entries = [];  // {key, content, result, shown}, in the order in which the files came
  let runs = null;  // a promise of the networks
  let queue = Promise.resolve();
  let number = 0;

  const say = (message) => (get("status").textContent = message);

  function settings() {
    const unit = get("unit").value;
    return { celsius: unit === "own" ? get("own").value : unit, polarity: get("polarity").value };
  }

  function layers() {
    const boxes = [...document.querySelectorAll("[data-layer]")];
    return Object.fromEntries(boxes.map((box) => [box.dataset.layer, box.checked]));
  }

  async function embedded(id) {
    const content = await numbers.unpacked(numbers.bytes(get(id).textContent), "gzip");
    get(id).remove();  // frees its memory
    return content;
  }

  async function start() {
    if (typeof DecompressionStream === "undefined" || typeof OffscreenCanvas === "undefined") {
      throw new InputError("This browser is too old for this page; one of 2023 or newer is needed.");
    }
    const [wasm, landmarks, detector] = await Promise.all(["wasm", "landmarks", "detector"].map(embedded));
    return networks.start({ wasm, landmarks, detector });
  }

  /** What a user should know about the faces of an image. */
  function warningsOf(image, faces) {
    const found = [];
    if (!faces.length) found.push("no face was found; faces must be upright, and larger than some 16 pixels");
    for (const { box } of image.celsius ? faces : []) {
      const doubt = units.doubt(crops.inside(image.values, box), crops.inside(image.celsius, box));
      if (doubt && !found.includes(doubt)) found.push(doubt);
    }
    const dark = image.celsius ? 0 : faces.filter(({ box }) => units.darker(image.gray, box)).length;
    const which = faces.length === 1 ? "the face is" : `of ${faces.length} faces, ${dark} ${dark === 1 ? "is" : "are"}`;
    if (dark) found.push(`${which} darker than the surroundings; is cold bright in the image? Then choose so above`);
    faces.forEach(({ score }, k) => {
      if (score >= CONSTANTS.landmarks.doubtful) return;
      const told = `face ${k + 1} has the score ${score.toFixed(2)}`;
      found.push(`${told}; below ${CONSTANTS.landmarks.doubtful}, the landmarks are probably wrong: look at them`);
    });
    return found;
  }

  /** Reads a file and finds its faces: {image, faces, notes, warnings}. Throws InputError. */
  async function predict(content, name) {
    const image = await images.read(content, name, settings());
    if (crops.showsNothing(image.values.data)) {
      throw new InputError(
        "The image shows nothing: all its pixels have one value, such as those of a closed shutter.",
      );
    }
    const faces = await networks.search(image, await runs);
    for (const face of faces) if (image.celsius) face.regions = regions.measure(face.points, image.celsius);
    return { image, faces, notes: image.notes, warnings: warningsOf(image, faces) };
  }

  async function show(entry) {
    const id = `image-${++number}`;
    let shown;
    try {
      entry.result = await predict(entry.content, entry.key);
      shown = view.article({ key: entry.key, ...entry.result }, id);
    } catch (error) {
      entry.result = null;
      const fault = `This page failed (${error.message}); try another browser, or use "mlcm predict".`;
      shown = view.failed(entry.key, error instanceof InputError ? error.message : fault, id);
    }
    if (!entries.includes(entry)) return;  // it was removed meanwhile
    if (entry.shown) entry.shown.element.replaceWith(shown.element);
    else get("results").append(shown.element);
    entry.shown = shown;
    shown.redraw(layers());
  }

  /** Shows some entries, one after the other, and says what was found. */
  function process(some) {
    queue = queue.then(async () => {
      for (const [k, entry] of some.entries()) {
        say(`Looking for faces in ${entry.key} (${k + 1} of ${some.length}) …`);
        await new Promise((done) => setTimeout(done));  // lets the browser show the sentence
        await show(entry);
      }
      const good = some.filter(({ result }) => result);
      const faces = good.reduce((sum, { result }) => sum + result.faces.length, 0);
      const bad = some.length - good.length;
      const those = some.length === 1 ? "1 image" : `${some.length} images`;
      say(`Done: ${view.counted(faces)} in ${those}${bad ? `; ${bad} could not be used` : ""}.`);
      get("save").disabled = !entries.some(({ result }) => result);
      get("clear").disabled = !entries.length;
    });
    return queue;
  }

  function unique(name) {
    const used = new Set(entries.map(({ key }) => key));
    let key = name;
    for (let k = 2; used.has(key); k++) key = `${name} (${k})`;
    return key;
  }

  async function add(files) {
    const some = [];
    for (const file of files) {
      const entry = { key: unique(file.name), content: new Uint8Array(0) };
      entries.push(entry);
      some.push(entry);
      try {
        entry.content = new Uint8Array(await file.arrayBuffer());
      } catch {
        entry.key += " (cannot be read)";  // such as a folder that was dropped
      }
    }
    if (some.length) await process(some);
  }

  /** The content of the JSON file, in the form of predictions.json of `mlcm predict`. */
  function predictions() {
    const layout = CONSTANTS.landmarks.layout;
    const rounded = (values, count) => values.map((value) => numbers.decimals(value, count));
    const each = (values, change) =>
      Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value)]));
    const region = ({ pixels, hidden, ...values }) =>
      ({ ...each(values, (value) => numbers.decimals(value, 3)), pixels, hidden });
    const plain = (face) => ({
      box: rounded(face.box, 3),
      layout,
      landmarks: face.points.map((point) => rounded(point, 3)),
      score: numbers.decimals(face.score, 4),
      detection: numbers.decimals(face.detection, 4),
      uncertainty: rounded(face.uncertainty, 3),
      ...(face.regions && { regions: each(face.regions, region) }),
    });
    const found = {};
    for (const { key, result } of entries.filter((entry) => entry.result)) {
      const faces = result.faces.map(plain);
      const first = faces[0] ?? { box: null, layout: null, landmarks: null };
      found[key] = { faces, box: first.box, layout: first.layout, landmarks: first.landmarks };
    }
    return found;
  }

  function save() {
    const text = `${JSON.stringify(predictions(), null, 2)}\n`;
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    view.make("a", { href: url, download: "predictions.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    say("predictions.json was saved.");
  }

  function clear() {
    for (const { shown } of entries) shown?.element.remove();
    entries.length = 0;
    get("save").disabled = get("clear").disabled = true;
    say("All images were removed.");
    get("files").focus();
  }

  function samples() {
    for (const { name, title, data } of CONSTANTS.samples) {
      const button = view.make("button", { type: "button" }, title);
      button.addEventListener("click", async () => {
        const content = await numbers.unpacked(numbers.bytes(data), "gzip");
        await add([new File([content], name)]);
      });
      get("samples").append(button);
    }
  }

  function listen() {
    get("files").addEventListener("change", async (event) => {
      await add([...event.target.files]);
      event.target.value = "";  // so that the same file can be chosen again
    });
    for (const name of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(name, (event) => {
        event.preventDefault();
        get("drop").classList.toggle("over", name === "dragover");
        if (name === "drop") add([...event.dataTransfer.files]);
      });
    }
    const again = () => {
      get("own").hidden = get("unit").value !== "own";
      if (entries.length) process([...entries]);
    };
    for (const id of ["unit", "own", "polarity"]) get(id).addEventListener("change", again);
    for (const box of document.querySelectorAll("[data-layer]")) {
      box.addEventListener("change", () => entries.forEach(({ shown }) => shown?.redraw(layers())));
    }
    get("save").addEventListener("click", save);
    get("clear").addEventListener("click", clear);
  }

  function open() {
    samples();
    listen();
    runs = start();
    runs.then(
      () => say("Ready: choose an image."),
      (error) => {
        const why = error instanceof InputError ? error.message
          : `The networks cannot run in this browser (${error.message}); try another one.`;
        get("status").textContent = "";
        get("results").before(view.make("p", { class: "error", role: "alert" }, why));
      },
    );
  }

  return { open, predict, predictions };
})();
