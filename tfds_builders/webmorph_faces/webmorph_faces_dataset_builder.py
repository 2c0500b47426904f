"""TFDS builder of `webmorph_faces`: frontal adult faces of debruine/webmorphR.stim, 68 landmarks, CC BY 4.0."""

from __future__ import annotations

import pathlib

from tfds_builders import faces, formats, tree


class WebmorphFaces(faces.FaceBuilder):
    """139 frontal, neutral adult faces; 68 points mapped from a hand-placed template of 189."""

    name = "webmorph_faces"
    BUILDER_CONFIGS = faces.configs(all="all 139 images")
    LAYOUT = "ibug68"
    MODALITIES = ("rgb",)
    LICENSE = "CC BY 4.0"
    HOMEPAGE = "https://github.com/debruine/webmorphR.stim"
    CITATION = (
        "DeBruine, L. & Jones, B. (2017). Face Research Lab London Set (Version 5). figshare. "
        "doi:10.6084/m9.figshare.5047666.v5, CC BY 4.0. DeBruine, L. & Jones, B. (2017). Young Adult White Faces with "
        "Manipulated Versions (Version 1). figshare. doi:10.6084/m9.figshare.4220517.v1, CC BY 4.0. Changes: resized, "
        "re-encoded, landmarks mapped to 68 points."
    )
    HOW_TO_GET = (
        "Download neutral_front and canada from github.com/debruine/webmorphR.stim, map the 189 points to 68, and give "
        "--manual_dir a folder with images/NAME.jpg, images/NAME.pts and the lists train.txt, val.txt and test.txt."
    )
    EXPECTED = {"all": {"train": 97, "val": 15, "test": 27}}

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads images/NAME.pts beside NAME.jpg for the names in train.txt, val.txt and test.txt."""
        places = tree.find(folder, ("images", *faces.LISTS.values()), self.HOW_TO_GET)
        return {split: _faces(places["images"], places[listing]) for split, listing in faces.LISTS.items()}


def _faces(images: pathlib.Path, listing: pathlib.Path) -> list[faces.Face]:
    """Reads the faces that a list names; an image's name also identifies the person."""
    found = []
    for name in formats.read_lines(listing):
        image = formats.inside(images, f"{name}.jpg", listing)
        points = formats.read_pts(image.with_suffix(".pts"), 68)
        found.append(faces.Face(f"images/{name}.jpg", rgb=image, landmarks=points, subject=name))
    return found
