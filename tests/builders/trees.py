"""Faces and images for tiny dataset trees, and checks that every dataset must pass when it is read back."""

import pickle

import cv2
import numpy as np
from hypothesis import strategies as st

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.data import augment
from mlcm_jax.data.examples import open_examples

# For each part of a face: centre x, y, half width and half height, in fractions of the image.
_PARTS = {
    "jaw": (0.5, 0.55, 0.38, 0.4),
    "right_brow": (0.33, 0.3, 0.1, 0.02),
    "left_brow": (0.67, 0.3, 0.1, 0.02),
    "nose": (0.5, 0.52, 0.06, 0.1),
    "right_eye": (0.34, 0.38, 0.06, 0.02),
    "left_eye": (0.66, 0.38, 0.06, 0.02),
    "outer_lips": (0.5, 0.74, 0.12, 0.05),
    "inner_lips": (0.5, 0.74, 0.08, 0.02),
    "pupils": (0.5, 0.38, 0.16, 0.0),
    "forehead": (0.5, 0.15, 0.2, 0.03),
    "brow": (0.33, 0.3, 0.1, 0.02),
    "eye": (0.34, 0.38, 0.06, 0.02),
    "chin": (0.5, 0.95, 0.0, 0.0),
}

# Any JSON content, with the keys of label files among others.
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
KEYS = st.sampled_from(["landmarks", "landmarks5", "visible", "box", "name", "images", "annotations", "id", "image_id"])
JSON = st.recursive(
    SCALARS,
    lambda s: st.lists(s, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), s, max_size=4),
    max_leaves=12,
)


def make_points(layout, size, rng) -> np.ndarray:
    """Returns a random upright face, float32 [K, 2], in pixels of an image of `size` = (width, height)."""
    layout = landmarks.get(layout)
    points = np.zeros((layout.count, 2))
    for group, indices in layout.groups.items():
        x, y, w, h = _PARTS[group]
        turn = np.pi * (1 + np.arange(len(indices)) * (2 if len(indices) > 2 else 1) / max(1, len(indices)))
        points[list(indices)] = np.stack([x + w * np.cos(turn), y + h * np.sin(turn)], axis=1)
    points += rng.uniform(-0.01, 0.01, points.shape)
    return (points * np.array(size)).astype(np.float32)


def make_image(size, rng, *, channels=3, dots=()) -> np.ndarray:
    """Returns an image uint8 [h, w] or [h, w, 3] of dim noise, with a bright dot at the pixel nearest each (x, y)."""
    width, height = size
    image = rng.integers(0, 100, (height, width, channels), np.uint8)
    for x, y in dots:
        image[round(float(y)), round(float(x))] = 255
    return image[..., 0] if channels == 1 else image


def write_image(path, image) -> None:
    """Writes PNG, JPEG or TIFF, by the file's ending; colour images are RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def read_back(name, split, data_dir, *, layout=None) -> dict[str, dict]:
    """Returns key -> example of a built dataset, after pickling, as loader processes get it, with `metadata`."""
    builder = tfds_builders.load(name, data_dir)
    examples = open_examples(name, split, data_dir=data_dir, layout=layout or builder.LAYOUT)
    examples = pickle.loads(pickle.dumps(examples))
    facts = [examples.metadata(k) for k in range(len(examples))]
    return {fact["key"]: examples[k] | {"metadata": fact} for k, fact in enumerate(facts)}


def check_flips(examples, layout) -> None:
    """Checks that the layout's flip is its own inverse, and that a mirrored crop swaps left and right landmarks."""
    layout = landmarks.get(layout)
    assert (layout.flip[layout.flip] == np.arange(layout.count)).all()
    for example in examples:
        example = {k: v for k, v in example.items() if k != "metadata"}
        if not np.isfinite(example["landmarks"]).all():
            continue
        plain = augment.crop(example, augment.Crop(64, 1.25, layout))
        mirroring = augment.Augmentation(flip=1.0)
        mirrored = augment.crop(
            example, augment.Crop(64, 1.25, layout), augmentation=mirroring, rng=np.random.default_rng(0)
        )
        expected = plain["landmarks"][layout.flip] * [-1.0, 1.0] + [1.0, 0.0]
        np.testing.assert_allclose(mirrored["landmarks"], expected, atol=1e-4)
        np.testing.assert_array_equal(mirrored["visible"], plain["visible"][layout.flip])
        for modality in {"rgb", "thermal"} & plain.keys():
            np.testing.assert_allclose(mirrored[modality], plain[modality][:, ::-1], atol=2.5 / 255)
