"""Rendered thermal images in files of every kind that the page reads."""

import struct

import cv2
import made_flir
import numpy as np
from PIL import Image

from mlcm_jax.synthetic import generate


def scene(seed=5, size=160):
    """Two faces side by side, float32 [S, 2 S] in °C, without dead pixels."""
    faces = [generate.example(seed, k, size=size, frontal=True, well_lit=True)["celsius"] for k in (0, 8)]
    return np.concatenate(faces, axis=1)


def face(index, size=192):
    """A pair of the generator: `thermal` uint8 and `celsius` float32."""
    return generate.example(17, index, size=size, frontal=True, well_lit=True)


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


def centikelvin(celsius):
    return ((celsius + 273.15) * 100).round().astype(np.uint16)


def csv(celsius, separator=",", point="."):
    rows = [separator.join(f"{value:.2f}".replace(".", point) for value in row) for row in celsius]
    return ("Temperature [°C]\n" + "\n".join(rows) + "\n").encode()


def radiometric(celsius, shape=None, **options):
    """A FLIR JPEG with counts of these temperatures, and a picture of the given size."""
    raw = made_flir.counts(celsius)
    gray = cv2.normalize(celsius, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    picture = cv2.applyColorMap(cv2.resize(gray, shape or gray.shape[::-1]), cv2.COLORMAP_INFERNO)
    return made_flir.jpeg(made_flir.fff(raw, **options), picture)


def turned(content, way=6):
    """A JPEG with the orientation of EXIF, as cameras that are held upright write it."""
    exif = Image.Exif()
    exif[0x112] = way
    inside = exif.tobytes()
    inside = inside if inside.startswith(b"Exif") else b"Exif\0\0" + inside
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(inside) + 2) + inside + content[2:]


def drone(picture):
    """A JPEG with thermal data in the form of DJI's."""
    inside = b"\xaa\x55\x12\x06" + bytes(60)
    return picture[:2] + b"\xff\xe4" + struct.pack(">H", len(inside) + 2) + inside + picture[2:]


def files():
    """The files on which the page is compared with Python: name -> (content, its settings)."""
    noise = np.random.default_rng(0).integers(0, 255, (120, 160), np.uint8)
    both, gray = scene(), face(0)["thermal"]
    camera = face(4, 160)["celsius"]
    large = cv2.resize(face(8)["celsius"], (900, 900), interpolation=cv2.INTER_CUBIC)
    return {
        "gray.png": (png(gray), {}),
        "black_hot.png": (png(255 - face(12)["thermal"]), {"polarity": "black_hot"}),
        "as_it_is.png": (png(255 - face(16)["thermal"]), {}),
        "two.png": (png(centikelvin(both)), {}),
        "kelvin.png": (png((face(20)["celsius"] / 0.04 + 273.15 / 0.04).round().astype(np.uint16)),
                       {"celsius": "0.04,-273.15"}),
        "large.png": (png(centikelvin(large)), {}),
        "table.csv": (csv(face(24)["celsius"]), {}),
        "german.csv": (csv(face(28)["celsius"], ";", ","), {}),
        "camera.jpg": (radiometric(camera, png=True, swapped=True), {}),
        "doubled.jpg": (radiometric(camera, (320, 320)), {}),
        "turned.jpg": (turned(radiometric(np.rot90(camera))), {}),
        "drone.jpg": (drone(cv2.imencode(".jpg", face(36)["thermal"])[1].tobytes()), {}),
        "palette.png": (png(cv2.applyColorMap(face(32)["thermal"], cv2.COLORMAP_INFERNO)), {}),
        "picture.jpg": (cv2.imencode(".jpg", face(36)["thermal"], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(), {}),
        "no_face.png": (png(cv2.GaussianBlur(noise, (0, 0), 9)), {}),
    }  # fmt: skip
