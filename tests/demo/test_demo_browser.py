"""The page in headless Chromium, opened as a file and from a server, against Python."""

import base64
import functools
import http.server
import io
import json
import re
import subprocess
import sys
import threading

import demo_browser
import demo_images
import numpy as np
import pytest
from needed import need
from PIL import Image

from mlcm_jax.data import image_file
from mlcm_jax.inference.predictor import Predictor

pytestmark = pytest.mark.slow
_STATUS = "(document.getElementById('status')?.textContent ?? '')"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page that the command writes."""
    need("chromium", "npm", "jax2onnx")
    path = tmp_path_factory.mktemp("page") / "demo page.html"
    command = [sys.executable, "-m", "mlcm_jax.cli", "demo", f"--out={path}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    assert path.stat().st_size < 25e6
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder with the images, and their settings."""
    folder = tmp_path_factory.mktemp("images")
    for name, (content, _) in (all_files := demo_images.files()).items():
        (folder / name).write_bytes(content)
    return folder, {name: settings for name, (_, settings) in all_files.items()}


@pytest.fixture(scope="module")
def predictor():
    return Predictor()


@pytest.fixture(scope="module", params=["file", "server"])
def shown(request, page, tmp_path_factory):
    """A browser that shows the page."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=page.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = page.as_uri()
        if request.param == "server":
            address = f"http://127.0.0.1:{server.server_port}/{page.name.replace(' ', '%20')}"
        with demo_browser.Browser(tmp_path_factory.mktemp("profile")) as one:
            one.open(address)
            alert = "document.querySelector('[role=alert]')"
            one.wait(f"{_STATUS}.startsWith('Ready') || {alert} !== null")
            assert one.run(_STATUS).startswith("Ready"), one.run(f"{alert}.textContent")
            one.address = address
            yield one
        server.shutdown()


def chosen(shown, *paths):
    """Chooses files, waits for their faces, and returns what the page says."""
    shown.run("document.getElementById('status').textContent = ''")
    shown.choose("#files", *paths)
    shown.wait(f"{_STATUS}.startsWith('Done')")
    return shown.run(_STATUS)


def cleared(shown):
    shown.run("document.getElementById('clear').click()")


def setting(shown, celsius="auto", polarity="white_hot"):
    """Makes the choices of a user in the form."""
    known = shown.run("[...document.getElementById('unit').options].map((one) => one.value)")
    unit = celsius if celsius in known else "own"
    values = {"own": celsius if unit == "own" else "0.04,-273.15", "unit": unit, "polarity": polarity}
    for name, value in values.items():
        shown.run(f"(() => {{ const one = document.getElementById('{name}'); one.value = '{value}';"
                  " one.dispatchEvent(new Event('change')); })()")  # fmt: skip


def saved(shown):
    """The content of the file that the button saves."""
    shown.run(
        "globalThis.kept ??= URL.createObjectURL, URL.createObjectURL = (blob) => (globalThis.blob = blob, kept(blob))"
    )
    shown.run("document.getElementById('save').click()")
    return json.loads(shown.run("blob.text()"))


def pixels(shown, path, settings):
    """°C (or gray levels) of every pixel as the page reads them, float32 [H, W]; whether they are °C; the notes."""
    content = base64.b64encode(path.read_bytes()).decode()
    call = f'mlcm.images.read(mlcm.numbers.bytes("{content}"), "{path.name}", {json.dumps(settings)})'
    found = shown.run(f"""{call}.then((one) => {{
        const grid = one.celsius ?? one.values;
        const bytes = new Uint8Array(grid.data.buffer);
        let text = "";
        for (let k = 0; k < bytes.length; k += 8192) text += String.fromCharCode(...bytes.subarray(k, k + 8192));
        return [btoa(text), grid.width, Boolean(one.celsius), one.notes];
    }})""")  # fmt: skip
    values = np.frombuffer(base64.b64decode(found[0]), np.float32).reshape(-1, found[1])
    return values, *found[2:]


def test_the_pixels_are_those_of_python(shown, files):
    folder, settings = files
    for name, options in settings.items():
        image = image_file.read_image(folder / name, **options)
        found, degrees, notes = pixels(shown, folder / name, options)
        assert degrees == (image.celsius is not None), name
        wanted = image.values if image.celsius is None else image.celsius
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted), name)
        worst = np.nanmax(np.abs(found - wanted))
        # 0.05 K; gray levels of a JPEG depend on the decoder.
        assert worst <= (0.05 if degrees else 2.0 if name.endswith(".jpg") else 0.0), (name, worst)
        for word in ("DJI's thermal data", "resized", "FLIR's counts", "palette"):
            assert (word in " ".join(notes)) == (word in " ".join(image.notes)), (name, notes)
        print(f"{name}: {worst:.2g} {'K' if degrees else 'gray levels'}; {notes}")


def test_the_faces_are_those_of_python(shown, files, predictor):
    folder, settings = files
    kinds = {json.dumps(options): options for options in settings.values()}
    for kind in kinds.values():
        setting(shown, **kind)
        names = [name for name, options in settings.items() if options == kind]
        said = chosen(shown, *(folder / name for name in names))
        assert "could not be used" not in said
        found = saved(shown)
        assert list(found) == names
        for name in names:
            image = image_file.read_image(folder / name, **kind)
            faces = predictor(image)
            assert len(found[name]["faces"]) == len(faces) == {"two.png": 2, "no_face.png": 0}.get(name, 1), name
            for k, one in enumerate(found[name]["faces"]):
                compare(name, k, one, faces, image)
        cleared(shown)
    setting(shown)
    assert shown.faults == []


def compare(name, k, found, faces, image):
    """One face of the page with that of Python."""
    apart = np.linalg.norm(np.array(found["landmarks"]) - faces.landmarks[k], axis=-1).max()
    assert apart < 0.5, (name, apart)
    np.testing.assert_allclose(found["box"], faces.boxes[k], atol=1.0)
    np.testing.assert_allclose(found["score"], faces.scores[k], atol=0.01)
    np.testing.assert_allclose(found["detection"], faces.detections[k], atol=0.01)
    np.testing.assert_allclose(found["uncertainty"], faces.uncertainty[k], rtol=0.02, atol=0.02)
    assert ("regions" in found) == (image.celsius is not None)
    kelvin = 0.0
    for region, one in faces.regions(image.celsius)[k].items() if image.celsius is not None else ():
        other = found["regions"][region]
        assert other["hidden"] == one.hidden and abs(other["pixels"] - one.pixels) <= 0.03 * one.pixels + 2
        if not one.hidden:
            some = [abs(other[key] - getattr(one, key)) for key in ("mean", "max", "p10", "p90", "std")]
            kelvin = max(kelvin, *some)
    assert kelvin < 0.05, (name, kelvin)
    print(f"{name}, face {k}: landmarks within {apart:.2g} px, regions within {kelvin:.2g} K")


def test_nothing_is_requested_but_the_page(shown):
    assert [one for one in shown.requests if not one.startswith(("blob:", "data:"))] == [shown.address]
    with pytest.raises(RuntimeError, match="fetch"):
        shown.run("fetch('/other')")
    shown.faults.clear()  # of this attempt


def test_bad_files_are_told_in_one_sentence_and_the_others_are_used(shown, files, tmp_path):
    folder, _ = files
    good = folder / "gray.png"
    bad = {
        "cut.png": (good.read_bytes()[:4000], "cut off"),
        "flipped.png": (good.read_bytes()[:900] + b"\0" + good.read_bytes()[901:], "damaged"),
        "flat.png": (demo_images.png(np.full((60, 80), 7, np.uint8)), "one value"),
        "empty.png": (b"", "empty"),
        "stack.tif": (b"II*\0" + bytes(100), "TIFF"),
        "words.csv": (b"name,age\nanna,30\n", "no table"),
        "cut.jpg": ((folder / "picture.jpg").read_bytes()[:300], "damaged"),
        "notes.docx": (b"PK\3\4 some text", "no form that this page reads"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    said = chosen(shown, *(tmp_path / name for name in bad), good)
    assert said == f"Done: 1 face in {len(bad) + 1} images; {len(bad)} could not be used."
    told = shown.run("[...document.querySelectorAll('#results [role=alert]')].map((one) => one.textContent)")
    for text, (name, (_, part)) in zip(told, bad.items(), strict=True):
        assert part in text and text.endswith((".", "?")) and "failed" not in text and len(text) < 250, (name, text)
    assert list(saved(shown)) == ["gray.png"]
    cleared(shown)


def test_a_browser_that_alters_pixels_is_told_and_reads_no_pictures(shown, files):
    """As browsers do against tracking: the gray levels would be wrong without a word."""
    shown.run("""(() => {
        const type = OffscreenCanvasRenderingContext2D.prototype;
        globalThis.honest = type.getImageData;
        type.getImageData = function (...given) {
            const found = honest.apply(this, given);
            found.data[40] ^= 1;
            return found;
        };
    })()""")
    said = chosen(shown, files[0] / "picture.jpg", files[0] / "camera.jpg", files[0] / "gray.png")
    shown.run("OffscreenCanvasRenderingContext2D.prototype.getImageData = honest")
    assert said == "Done: 1 face in 3 images; 2 could not be used."
    assert "alters the pixels" in shown.run("document.querySelector('#results [role=alert]').textContent")
    cleared(shown)


def test_a_unit_for_gray_levels_is_refused(shown, files):
    setting(shown, celsius="kelvin")
    chosen(shown, files[0] / "gray.png")
    assert "8-bit gray" in shown.run("document.querySelector('#results [role=alert]').textContent")
    setting(shown)  # which reads the image again
    shown.wait("document.querySelector('#results canvas') !== null")
    cleared(shown)


def test_it_works_by_keyboard_and_is_described(shown):
    shown.open(shown.address)
    shown.wait(f"{_STATUS}.startsWith('Ready')")
    seen = []
    for _ in range(12):
        shown.press("Tab")
        seen.append(shown.run("document.activeElement.id || document.activeElement.textContent"))
        if seen[-1] == "two people, 16 bits":
            shown.press("Enter")
            break
    assert seen[0] == "files"
    shown.wait(f"{_STATUS} === 'Done: 2 faces in 1 image.'")
    outline = shown.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # the focus is seen
    unnamed = shown.run("""[...document.querySelectorAll("input, select, button, canvas")].filter((one) =>
        !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label"))).length""")
    assert unnamed == 0
    assert shown.run("document.getElementById('status').getAttribute('aria-live')") == "polite"
    assert shown.run(
        "[...document.querySelectorAll('table')].every((one) => one.caption && one.querySelector('th[scope]'))"
    )
    cleared(shown)


def test_both_colour_schemes_and_a_narrow_window_are_readable(shown, files):
    chosen(shown, files[0] / "two.png")
    grounds = {}
    for scheme in ("light", "dark"):
        shown.scheme(scheme)
        colours = shown.run("['color', 'backgroundColor'].map((one) => getComputedStyle(document.body)[one])")
        text, ground = (np.mean(list(map(int, re.findall(r"\d+", one)[:3]))) for one in colours)
        assert abs(text - ground) > 150
        grounds[scheme] = ground
        picture = np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("L"))
        assert abs(float(np.median(picture)) - ground) < 15
    assert grounds["light"] > 200 > 60 > grounds["dark"]
    shown.screenshot(width=360)
    assert shown.run("document.documentElement.scrollWidth") <= 360
    cleared(shown)
