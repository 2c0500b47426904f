"""Draws smooth bright dots and finds them again, so that tests can see whether an image was moved."""

import numpy as np


def dots(height, width, points, sigma):
    """Returns uint8 [height, width, 3] and [height, width]; in RGB, dot k is in channel k % 3."""
    rgb, thermal = np.zeros((height, width, 3)), np.zeros((height, width))
    for k, (px, py) in enumerate(points):
        across, down = ((np.arange(n) - p) ** 2 / (2 * sigma**2) for n, p in ((width, px), (height, py)))
        spot = np.outer(np.exp(-down), np.exp(-across))
        rgb[..., k % 3] = np.maximum(rgb[..., k % 3], spot)
        thermal = np.maximum(thermal, spot)
    return (255 * rgb).round().astype(np.uint8), (255 * thermal).round().astype(np.uint8)


def centroid(image, near, radius):
    """Returns the centre of brightness around a place, in pixels."""
    (x0, y0), (x1, y1) = np.round(near - radius).astype(int), np.round(near + radius).astype(int) + 1
    assert x0 >= 0 and y0 >= 0 and x1 <= image.shape[1] and y1 <= image.shape[0], "the dot left the crop"
    part = image[y0:y1, x0:x1].astype(np.float64)
    y, x = np.mgrid[y0:y1, x0:x1]
    assert part.max() > 0.2, "there is no dot under the landmark"
    return np.array([(x * part).sum(), (y * part).sum()]) / part.sum()
