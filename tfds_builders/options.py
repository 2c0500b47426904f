"""Options of `tfds_builders.build`, each with the help text of its flag in `mlcm build`.

This module imports nothing, so that the command line can list the options without loading TFDS.
"""

# Every dataset that is read from the user's files takes these.
FILES = {
    # Needed to build a dataset, but not to load one that is built.
    "manual_dir": "Folder with the files of a dataset that cannot be downloaded.",
    # The only option that is true or false (see SWITCHES).
    "allow_missing": "Leave out faces whose image is missing, instead of stopping.",
    # Keys are values of the feature `key`, such as thermal/0001.png. Lines that start with # are comments.
    "exclude": "File with the keys of faces to leave out, one per line.",
}

# Only paired_folder takes these. Paths of layout, labels, boxes and colormap may be relative to manual_dir.
PAIRED_FOLDER = {
    # Without it, the number of points in the first label determines the layout.
    "layout": "Landmark layout: a name, a number of points, or a YAML file.",
    # With only one of the two patterns, the dataset has only that modality. Without both, the folders `rgb` and
    # `thermal` are read.
    "rgb_glob": "Pattern of the RGB images, such as '*_rgb.png'; * stands for the pair's name.",
    "thermal_glob": "Pattern of the thermal images, such as '*_thermal.png'; * stands for the pair's name.",
    # Without it: the folder `landmarks`, or the only file of labels (JSON, XML or CSV) beside the images.
    "labels": "Landmarks: file, folder or pattern, or several separated by commas; the first with a label wins.",
    # Without it: boxes.csv or boxes.json, if there is one.
    "boxes": "File of face boxes, CSV or JSON.",
    # Without it, pixels of the thermal image from (0, 0).
    "points": "What landmarks and boxes are measured in: pixels, rgb (of that image), normalized, one_based or yx.",
    # Without it: xywh.
    "box_format": "Numbers of boxes: xywh, xyxy (corners), cxcywh, yxhw or yxyx; xyxy_normalized and so on are shares.",
    # Without it, coloured thermal images are refused, and the message suggests a palette.
    "colormap": "Palette of coloured thermal images: a name, or a CSV file of r,g,b rows from cold to hot.",
    # Without it: the unit that the first file states, or else a guess, which is printed.
    "celsius": "Unit of 16-bit or float thermal values: scale,offset that give °C, kelvin, centikelvin, … or none.",
    # Without it: white_hot.
    "polarity": "black_hot inverts thermal images without temperatures, in which cold is bright.",
    # Without it: the lists train.txt, val.txt and test.txt, or else 0.8,0.1,0.1 by subject.
    "splits": "Shares of train, val and test, such as 0.8,0.1,0.1.",
}

SWITCHES = frozenset({"allow_missing"})  # true or false; all others are text

# All flags of `mlcm build`: name -> help.
OPTIONS = FILES | {name: f"paired_folder: {text}" for name, text in PAIRED_FOLDER.items()}
