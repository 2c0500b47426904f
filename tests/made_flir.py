"""Writes FLIR's radiometric files from temperatures, by the forward formula."""

import struct

import cv2
import numpy as np

CONSTANTS = {
    "r1": 17096.453, "b": 1428.0, "f": 1.0, "r2": 0.0125, "emissivity": 0.95, "distance": 1.0, "reflected": 295.15,
    "air": 293.15, "window": 293.15, "transmission": 1.0, "humidity": 0.5, "alpha1": 0.006569, "alpha2": 0.01262,
    "beta1": -0.002276, "beta2": -0.00667, "x": 1.9,
}  # fmt: skip
PLACES = {
    "emissivity": 32, "distance": 36, "reflected": 40, "air": 44, "window": 48, "transmission": 52, "humidity": 60,
    "r1": 88, "b": 92, "f": 96, "alpha1": 112, "alpha2": 116, "beta1": 120, "beta2": 124, "x": 128, "r2": 780,
}  # fmt: skip
OFFSET = -342


def counts(celsius, **changes):
    """uint16 counts of a camera that sees these temperatures."""
    c = CONSTANTS | changes

    def radiance(kelvin):
        return c["r1"] / (c["r2"] * (np.exp(c["b"] / kelvin) - c["f"])) - OFFSET

    t = c["air"] - 273.15
    water = c["humidity"] * np.exp(1.5587 + 0.06939 * t - 0.00027816 * t * t + 0.00000068455 * t**3)
    decays = [np.exp(-np.sqrt(c["distance"]) * (c[f"alpha{k}"] + c[f"beta{k}"] * np.sqrt(water))) for k in (1, 2)]
    through = c["x"] * decays[0] + (1 - c["x"]) * decays[1]
    own = c["emissivity"] * radiance(np.asarray(celsius, np.float64) + 273.15)
    scene = own + (1 - c["emissivity"]) * radiance(c["reflected"])
    behind = c["transmission"] * scene + (1 - c["transmission"]) * radiance(c["window"])
    return (through * behind + (1 - through) * radiance(c["air"])).round().astype(np.uint16)


def fff(raw, *, order="<", header=">", png=False, swapped=False, extra=(), packed=None, **changes):
    """The data of one frame: header, directory, counts and constants of the camera.

    Args:
        raw: uint16 [H, W].
        order: byte order of the numbers in the records, "<" or ">".
        header: that of the header and the directory, which cameras write in the other.
        png: whether the counts are a PNG; else they are plain.
        swapped: whether the bytes of the PNG are in the wrong order.
        extra: further records, (type, bytes).
        packed: the counts as a file of another form.
        changes: to the constants.
    """
    height, width = raw.shape
    content = raw.astype(f"{order}u2").tobytes()
    if png:
        content = cv2.imencode(".png", raw.byteswap() if swapped else raw)[1].tobytes()
    content = content if packed is None else packed
    camera = bytearray(1100)
    struct.pack_into(order + "H", camera, 0, 2)
    for name, value in (CONSTANTS | changes).items():
        struct.pack_into(order + "f", camera, PLACES[name], value)
    struct.pack_into(order + "i", camera, 776, OFFSET)
    records = [(1, struct.pack(order + "3H", 2, width, height) + bytes(26) + content), (32, bytes(camera)), *extra]
    head = bytearray(64)
    head[:7] = b"FFF\0CAM"
    struct.pack_into(header + "3I", head, 20, 101, 64, len(records))
    place, directory, body = 64 + 32 * len(records), b"", b""
    for kind, record in records:
        directory += struct.pack(header + "HHIIII", kind, 0, 100, 0, place + len(body), len(record)).ljust(32, b"\0")
        body += record
    return bytes(head) + directory + body


def jpeg(data, picture, *, piece=60000):
    """A JPEG of the picture with the data in APP1 segments."""
    content = cv2.imencode(".jpg", picture)[1].tobytes()
    pieces = [data[k : k + piece] for k in range(0, len(data), piece)]
    segments = b""
    for k, part in enumerate(pieces):
        inside = b"FLIR\0\1" + bytes([k, len(pieces) - 1]) + part
        segments += b"\xff\xe1" + struct.pack(">H", len(inside) + 2) + inside
    return content[:2] + segments + content[2:]
