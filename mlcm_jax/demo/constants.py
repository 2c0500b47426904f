"""The numbers of the package that the page needs. The scripts take them from here, so each is written in one place."""

import base64
from typing import Any

import numpy as np

from mlcm_jax import detection, flir, holes, images, polarity, units, vendors
from mlcm_jax.data import gain
from mlcm_jax.errors import InputError
from mlcm_jax.inference import detector, predictor, regions, search
from mlcm_jax.models import stored


def constants(landmarks: stored.Card, boxes: stored.Card) -> dict[str, Any]:
    """Returns plain lists, numbers and texts by name, for JSON.

    Args:
        landmarks: the description of the network that finds landmarks.
        boxes: that of the detector.

    Raises:
        InputError: networks of a kind that the page cannot run.
    """
    fits = landmarks.gain == "box" and boxes.gain == "scene" and landmarks.layout.name == regions.LAYOUT
    fits = fits and {landmarks.modality, boxes.modality} == {"thermal"} and bool(landmarks.calibration and boxes.second)
    if not fits:
        raise InputError("The page runs the networks that ship with this package, and these are others.")
    return {
        "landmarks": {
            "image_size": landmarks.image_size,
            "expand": landmarks.expand,
            "calibration": list(landmarks.calibration),
            "layout": landmarks.layout.name,
            "flip": landmarks.layout.flip.tolist(),
            "edges": [list(edge) for edge in landmarks.layout.edges],
            "doubtful": predictor.DOUBTFUL,
        },
        "detector": {
            "image_size": boxes.image_size,
            "expand": boxes.expand,
            "unit": detection.DECODING["unit"],
            "limits": list(detection.DECODING["limits"]),
            "longest": detector.LONGEST,
        },
        "search": {
            "candidates": search.CANDIDATES,
            "lowest": search.LOWEST,
            "raised": search.RAISED[0].tolist(),
            "overlap": search.OVERLAP,
            "second": list(boxes.second[:3]),
            "min_score": boxes.second[3],
            "max_faces": 20,
        },
        "gain": {
            "percentiles": list(gain.PERCENTILES),
            "levels": list(gain.LEVELS),
            "knots": len(gain.KNOTS),
            "fewest": gain.FEWEST,
        },
        "regions": {
            "names": list(regions.NAMES),
            "polygons": {name: [list(corner) for corner in corners] for name, corners in regions.POLYGONS.items()},
            "discs": regions.DISCS,
            "disc": regions.DISC,
            "colder": regions.COLDER,
            "mask": regions.MASK,
            "masked": list(regions.MASKED),
            "turned": regions.TURNED,
            "inside": regions.INSIDE,
        },
        "holes": {
            "huge": holes.HUGE,
            "lowest": holes.LOWEST,
            "full_scales": list(holes.FULL_SCALES),
            "kelvins": holes.KELVINS,
            "coldest": holes.COLDEST,
            "hottest": holes.HOTTEST,
            "smallest": holes.SMALLEST,
            "most_rows": holes.MOST_ROWS,
            "share": holes.SHARE,
            "times": holes.TIMES,
            "levels": holes.LEVELS,
            "alike": holes.ALIKE,
            "sensor": holes.SENSOR,
            "sample": holes.SAMPLE,
        },
        "units": {
            "names": {name: list(unit) for name, unit in units.NAMES.items()},
            "of_cameras": list(units.OF_CAMERAS),
            "coldest_face": units.COLDEST_FACE,
            "hottest_face": units.HOTTEST_FACE,
            "coldest": units.COLDEST,
            "hottest": units.HOTTEST,
            "zero": units.ZERO,
            "darker": polarity.DARKER,
        },
        "flir": {"fields": flir.FIELDS, "offset": flir.OFFSET, "largest": flir.LARGEST},
        "usual_segments": [one.decode() for one in vendors.USUAL],
        "png_chunks": sorted(one.decode() for one in vendors.CHUNKS),
        "few_bytes": vendors.FEW,
        "palettes": _palettes(),
    }


def _palettes() -> dict[str, Any]:
    """The thermal palettes: their names, and float32 [N, 256, 3] in base64."""
    known = images.palettes()
    data = np.stack(list(known.values())).astype("<f4").tobytes()
    return {"names": list(known), "data": base64.b64encode(data).decode()}
