"""Makes datasets of a user, `paired_folder/NAME`, of the smoke config's synthetic faces."""

import json

import cv2

import tfds_builders
from mlcm_jax.data.examples import open_examples


def build(name, folder, built, source, *, count, sides=("rgb", "thermal"), labelled=True, names=()) -> str:
    """Writes the files of a dataset, builds it, and returns its name.

    Args:
        name: the part of its name after `paired_folder/`.
        folder: the folder for the files.
        built: the folder of built datasets.
        source: the folder in which synthetic_faces/48x48 is built.
        count: number of pairs.
        sides: the modalities that it has.
        labelled: whether it has landmarks; otherwise its only split is `unlabelled`.
        names: names of the pairs.
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
