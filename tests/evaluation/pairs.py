"""Datasets of the user's own, `paired_folder/NAME`, made of the smoke config's synthetic faces."""

import json

import cv2

import tfds_builders
from mlcm_jax.data.examples import open_examples


def build(name, folder, built, source, *, count, sides=("rgb", "thermal"), labelled=True, names=()) -> str:
    """Builds one and returns its name.

    Args:
        name: behind `paired_folder/`.
        folder: for the files.
        built: where built datasets are.
        source: where synthetic_faces/48x48 is built.
        count: of pairs.
        sides: the modalities that it has.
        labelled: with landmarks; otherwise its only split is `unlabelled`.
        names: of the pairs.
    """
    examples = open_examples("synthetic_faces/48x48", "train", data_dir=str(source), layout="ibug68")
    for k in range(count):
        stem = names[k] if names else f"face_{k}"
        for side in sides:
            path = folder / side / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = examples[k][side]
            assert cv2.imwrite(str(path), image[..., ::-1] if side == "rgb" else image)
        if labelled:
            path = folder / "landmarks" / f"{stem}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"landmarks": examples[k]["landmarks"].tolist()}))
    tfds_builders.build(f"paired_folder/{name}", str(built), manual_dir=str(folder), layout="ibug68")
    return f"paired_folder/{name}"
