"""Tests of the images in docs/files.md: an image of every row and ending is written, and read by predict and build."""

import io
import re
import struct
import zlib
from pathlib import Path

import cv2
import made_flir
import matplotlib
import numpy as np
import pytest
import tifffile
from PIL import Image

from mlcm_jax import images, landmarks, raw_images, read_image, units
from mlcm_jax.errors import InputError
from tfds_builders import prepare
from tfds_builders.paired_folder import folder as folders
from tfds_builders.paired_folder import thermal_kind

PAGE = (Path(__file__).parents[2] / "docs/files.md").read_text(encoding="utf-8")


def rows(title):
    """The cells of the table below a heading, without its own first two rows."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


FIELD = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(60, 80)), (0, 0), 4)
CELSIUS = (20 + 18 * (FIELD - FIELD.min()) / np.ptp(FIELD)).astype(np.float32)
COUNTS = ((CELSIUS + 273.15) * 100).round().astype(np.uint16)
GRAY = ((CELSIUS - 20) / 18 * 255).round().astype(np.uint8)
PHOTOGRAPH = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
INFERNO = (255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).round().astype(np.uint8)


def save(path, array):
    """Writes gray or RGB without loss."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    elif path.suffix == ".webp":
        Image.fromarray(array).convert("RGB").save(path, lossless=True)
    else:
        assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)


def with_alpha(path):
    if path.suffix == ".tif":
        extra = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
        tifffile.imwrite(path, np.stack([COUNTS, COUNTS], -1), **extra)
        return
    lines = b"".join(b"\0" + line.tobytes() for line in np.stack([COUNTS, COUNTS], -1).astype(">u2"))
    head = struct.pack(">IIBBBBB", 80, 60, 16, 4, 0, 0, 0)  # 4: gray with alpha, which no library here writes
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(content)


def mapped(path):
    """Writes indices with a palette."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, GRAY, photometric="palette", colormap=INFERNO.T.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(GRAY).convert("P")
        image.putpalette(INFERNO.tobytes())
        image.putdata(GRAY.ravel().tolist())
        image.save(path)


def table(path):
    separator = {".csv": ";", ".tsv": "\t", ".txt": ","}[path.suffix]
    point = "." if separator == "," else ","
    lines = [separator.join(f"{v:.3f}".replace(".", point) for v in row) for row in CELSIUS]
    path.write_text("\n".join(["Camera" + separator + "17", *lines]))


def raw(path):
    """Writes a frame of a Lepton 2, which is as large as the image here."""
    path.write_bytes(COUNTS.tobytes() if path.suffix == ".raw" else COUNTS.astype(">u2").tobytes())


def flir(path):
    data = made_flir.fff(made_flir.counts(CELSIUS))
    path.write_bytes({".jpg": made_flir.jpeg(data, PHOTOGRAPH), ".seq": data + data}.get(path.suffix, data))


WRITE = {
    "8-bit gray": lambda path: save(path, GRAY),
    "16-bit gray": lambda path: save(path, COUNTS),
    "16-bit gray with alpha": with_alpha,
    "whole numbers of 32 or 64 bits": lambda path: save(
        path, COUNTS.astype(np.int32 if path.suffix == ".tif" else int)
    ),
    "floats of 16, 32 or 64 bits": lambda path: save(path, CELSIUS.astype(np.float64)),
    "BigTIFF": lambda path: tifffile.imwrite(path, COUNTS, bigtiff=True),
    "several images in a TIFF": lambda path: tifffile.imwrite(path, np.stack([COUNTS, COUNTS + 9]), photometric=1),
    "TIFF turned by its orientation": lambda path: tifffile.imwrite(
        path, np.rot90(COUNTS), extratags=[(274, 3, 1, 6, True)]
    ),
    "TIFF in which 0 is white": lambda path: tifffile.imwrite(path, 255 - GRAY, photometric="miniswhite"),
    "palette of thermal colours": mapped,
    "photograph": lambda path: save(path, PHOTOGRAPH),
    "table of temperatures": table,
    "raw file without a header": raw,
    "FLIR's radiometric JPEG": flir,
    "FLIR's FFF and SEQ": flir,
}
TOLD = {
    "16-bit gray with alpha": "read", "several images in a TIFF": "holds 2 images, of which the first was read",
    "table of temperatures": "1 line was skipped", "raw file without a header": "taken for Lepton 2",
    "FLIR's radiometric JPEG": "computed from FLIR's counts", "FLIR's FFF and SEQ": "computed from FLIR's counts",
}  # fmt: skip


def built(path, colormap=None):
    """The features of an unlabelled image in a dataset, as arrays."""
    palette = thermal_kind.read_palette(colormap, path.parent) if colormap else None
    thermal = thermal_kind.of_image(path, palette, colormap=colormap)
    made = prepare.example(prepare.Face("a", thermal=path), layout=landmarks.get("ibug68"), thermal=thermal)
    return {name: np.asarray(Image.open(content)) for name, content in made.items() if isinstance(content, io.BytesIO)}


def test_the_table_has_a_row_for_every_image_of_this_test():
    assert [row[0] for row in rows("Images")] == [*WRITE, "FLIR's CSQ"]  # tests/test_flir.py has the last one
    named = {ending for row in rows("Images") for ending in row[1].strip("`").split()}
    assert named | {".jpeg"} == set(images.SUFFIXES) | {".csv", ".tsv", ".txt", ".bin"}


@pytest.mark.parametrize("row", rows("Images")[:-1], ids=lambda row: row[0])
def test_a_row(tmp_path, row):
    name, endings, predict, build, _ = row
    endings = endings.strip("`").split()
    for ending in endings:
        path = tmp_path / f"a{ending}"
        WRITE[name](path)
        image = read_image(path)
        assert (image.celsius is not None) == (predict == "°C")
        assert TOLD.get(name, "") in " ".join(image.notes)
        if predict == "°C":
            np.testing.assert_allclose(image.celsius, CELSIUS, atol=0.05 if "FLIR" in name else 0.0051)
            np.testing.assert_allclose(built(path)["celsius"] / 100.0 - 273.15, image.celsius, atol=0.0051)
        elif predict == "gray levels":
            np.testing.assert_allclose(image.values, GRAY, atol=1 if "palette" in name else 0)
            thermal = built(path, "inferno" if build == "`--colormap`" else None)["thermal"]
            np.testing.assert_allclose(thermal, GRAY, atol=1 if "palette" in name else 0)
        else:
            np.testing.assert_array_equal(image.rgb, PHOTOGRAPH)
            made = prepare.example(
                prepare.Face("a", rgb=path), layout=landmarks.get("ibug68"), thermal=prepare.Thermal()
            )
            np.testing.assert_array_equal(np.asarray(Image.open(made["rgb"])), PHOTOGRAPH)
        if build in ("`--colormap`", "`--rgb_glob`") and ending == endings[0]:
            with pytest.raises(InputError, match="is coloured"):
                built(path)


def test_tables_are_found_by_patterns_only(tmp_path):
    (tmp_path / "thermal").mkdir()
    table(tmp_path / "thermal/a.csv")
    assert folders.find_images(tmp_path, None, "thermal/*.csv") == {"thermal": {"a": "thermal/a.csv"}}
    with pytest.raises(InputError, match="holds no images"):
        folders.find_images(tmp_path)


def test_units():
    shown = [row[0].strip("`") for row in rows("Units of temperature")]
    assert set(shown) == {*units.NAMES, "none", "0.04,-273.15"}
    for text, meaning, guessed in rows("Units of temperature"):
        unit = units.parse(text.strip("`"))
        if unit:
            formula = meaning.split(";")[0].removeprefix("°C = ").replace("·", "*")
            for value in (7000.0, 300.0):
                assert eval(formula, {"value": value}) == pytest.approx(unit.scale * value + unit.offset)
            for kind, counts in (("counts", True), ("floats", False)):
                middle = np.full((2, 2), (30 - unit.offset) / unit.scale)
                assert (units.guess(middle, counts=counts)[0] == unit) == (kind in guessed)


def test_raw_files():
    shown = [(row[0], row[1], row[2], int(row[4].replace(",", ""))) for row in rows("Raw files")]
    kinds = {"u2": "16-bit counts", "<f4": "floats"}
    frames = raw_images.FRAMES
    assert shown == [(one.camera, f"{one.width} x {one.height}", kinds[one.dtype], one.size) for one in frames]
    assert all(("1/64 K" in row[3]) == bool(one.unit) for row, one in zip(rows("Raw files"), frames, strict=True))


def test_the_contents_of_the_page():
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    links = re.findall(r"\[([^\]]*)\]\(#([a-z-]+)\)", PAGE.split("\n## ")[0])
    assert [link for _, link in links] == [heading.lower().replace(" ", "-") for heading in headings]
