"""The pyramid against plain numpy, and as a part of ResNet."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlcm_jax import models
from mlcm_jax.errors import InputError
from mlcm_jax.models.pyramid import Pyramid

RNG = np.random.default_rng(0)


def _conv(x, unit):
    """A convolution of stride 1 and a new normalisation in evaluation mode, in float64."""
    kernel = np.asarray(unit.conv.kernel[...], np.float64)
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    h, w = x.shape[1:3]
    shifts = [(dy, dx) for dy in range(kernel.shape[0]) for dx in range(kernel.shape[1])]
    out = sum(padded[:, dy : dy + h, dx : dx + w] @ kernel[dy, dx] for dy, dx in shifts)
    return out / np.sqrt(1 + 1e-5)


def test_it_adds_doubled_coarse_features_to_finer_ones():
    pyramid = Pyramid((3, 4, 6), 8, bn_momentum=0.9, rngs=nnx.Rngs(0), dtype=jnp.float32)
    pyramid.eval()
    maps = [RNG.normal(size=shape) for shape in ((2, 9, 7, 3), (2, 5, 4, 4), (2, 3, 2, 6))]  # odd sides are cut
    x = None
    for fine, lateral, block in reversed(list(zip(maps, pyramid.laterals, pyramid.blocks, strict=True))):
        added = _conv(fine, lateral)
        if x is not None:
            added = added + np.kron(x, np.ones((1, 2, 2, 1)))[:, : fine.shape[1], : fine.shape[2]]
        x = np.maximum(_conv(np.maximum(added, 0), block), 0)
    found = pyramid([jnp.asarray(one, jnp.float32) for one in maps])
    assert found.shape == (2, 9, 7, 8)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


def test_a_resnet_with_a_pyramid_is_as_fine_as_its_first_stage():
    options = {"width": 0.125, "depths": (1, 1, 1), "stem": "strided", "num_landmarks": 5}
    plain, fine = (models.create("resnet18", rngs=nnx.Rngs(0), **options, **more) for more in ({}, {"pyramid": 16}))
    images = jnp.asarray(RNG.random((2, 40, 56, 1)), jnp.float32)
    assert (plain.backbone.stride, fine.backbone.stride) == (16, 4)
    assert plain.backbone(images).shape == (2, 3, 4, 32) and fine.backbone(images).shape == (2, 10, 14, 16)
    parts = models.profile(fine, 64)["parts"]
    assert parts["backbone.pyramid"]["params"] == 16 * (8 + 16 + 32) + 3 * 9 * 16 * 16 + 6 * 2 * 16
    with pytest.raises(InputError, match="Option pyramid is -8; it must be positive"):
        models.create("resnet18", rngs=nnx.Rngs(0), pyramid=-8, **options)
