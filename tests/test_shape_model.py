"""Active shape model: closed forms on shapes made from known modes, numpy against jax, and damaged files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcm_jax import shape_model
from mlcm_jax.errors import InputError


def modes(k=6):
    """A mean shape and orthonormal modes [2k, 2k]."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.2, 0.8, (k, 2)), np.linalg.qr(rng.normal(size=(2 * k, 2 * k)))[0]


def shapes(n=400, deviations=(0.10, 0.05, 0.01)):
    """Faces that vary along three modes, with exactly these sample deviations."""
    mean, vectors = modes()
    b = np.random.default_rng(1).normal(size=(n, 3))
    b = np.linalg.qr(b - b.mean(0))[0] * np.sqrt(n - 1) * deviations
    return (mean.reshape(-1) + b @ vectors[:, :3].T).reshape(n, -1, 2), b


def test_the_modes_are_found():
    mean, vectors = modes()
    model = shape_model.fit(shapes()[0], variance=1.0)
    np.testing.assert_allclose(model.mean, mean, atol=1e-6)
    np.testing.assert_allclose(model.eigenvalues, np.square([0.10, 0.05, 0.01]), rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(model.basis * vectors[:, :3], axis=0)), 1.0, atol=1e-5)
    assert model.variance == pytest.approx(1.0)


@pytest.mark.parametrize(("variance", "count"), [(0.5, 1), (0.79, 1), (0.80, 2), (0.99, 2), (0.995, 3)])
def test_as_few_components_as_hold_the_variance(variance, count):
    model = shape_model.fit(shapes()[0], variance=variance)  # shares: 0.7937, 0.9921, 1
    assert len(model.eigenvalues) == count
    assert model.variance == pytest.approx([100 / 126, 125 / 126, 1.0][count - 1], abs=1e-6)


def test_projection_clips_what_is_kept_and_drops_the_rest():
    mean, vectors = modes()
    model = shape_model.fit(shapes()[0], variance=0.95)  # the first two modes
    b = np.array([[0.2, -0.1, 0.5, 0.3], [0.9, 0.01, 0.0, 0.0], [-0.31, -0.9, 0.0, 0.0]])
    faces = (mean.reshape(-1) + b @ vectors[:, :4].T).reshape(3, -1, 2)
    kept = np.array([[0.2, -0.1], [0.3, 0.01], [-0.3, -0.15]])  # three deviations: 0.3 and 0.15
    expected = (mean.reshape(-1) + kept @ vectors[:, :2].T).reshape(3, -1, 2)
    np.testing.assert_allclose(shape_model.project(model, faces), expected, atol=1e-5)
    free = (mean.reshape(-1) + b[:, :2] @ vectors[:, :2].T).reshape(3, -1, 2)
    np.testing.assert_allclose(shape_model.project(model, faces, clip=np.inf), free, atol=1e-5)
    narrow = shape_model.project(model, faces[1:2], clip=1.0).reshape(-1) - mean.reshape(-1)
    np.testing.assert_allclose(narrow @ vectors[:, :2], [0.1, 0.01], atol=1e-5)
    np.testing.assert_allclose(shape_model.project(model, faces[0]), expected[0], atol=1e-5)


def test_projecting_twice_changes_nothing_and_numpy_agrees_with_jit():
    model = shape_model.fit(shapes()[0])
    faces = np.random.default_rng(2).uniform(0, 1, (4, 5, 6, 2)).astype(np.float32)
    once = shape_model.project(model, faces)
    assert isinstance(once, np.ndarray) and once.dtype == np.float32 and once.shape == faces.shape
    np.testing.assert_allclose(shape_model.project(model, once), once, atol=1e-6)
    on_device = jax.jit(lambda x: shape_model.project(model, x))(faces)
    assert isinstance(on_device, jax.Array) and on_device.dtype == jnp.float32
    np.testing.assert_allclose(on_device, once, atol=1e-6)
    assert shape_model.project(model, faces.astype(np.float64)).dtype == np.float64


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 6)), r"\[4, 6\]"),
        (np.zeros((4, 6, 3)), r"\[N, K, 2\]"),
        (np.zeros((1, 6, 2)), "two shapes, not 1"),
        (np.full((5, 6, 2), 0.3), "all of these are the same"),
        (np.where(np.arange(60).reshape(5, 6, 2) == 25, np.nan, 0.5), "Shape 2"),
    ],
)
def test_shapes_that_make_no_model(bad, message):
    with pytest.raises(InputError, match=message):
        shape_model.fit(bad)


@pytest.mark.parametrize("variance", [0.0, 1.01, float("nan")])
def test_variance_is_a_share_of_one(variance):
    with pytest.raises(InputError, match="variance"):
        shape_model.fit(shapes()[0], variance=variance)


def test_another_number_of_landmarks_is_named():
    with pytest.raises(InputError, match="has 6 landmarks"):
        shape_model.project(shape_model.fit(shapes()[0]), np.zeros((3, 5, 2)))


def test_fewer_shapes_than_coordinates_leave_no_empty_component():
    model = shape_model.fit(shapes()[0][:3], variance=1.0)
    assert len(model.eigenvalues) == 2 and (model.eigenvalues > 0).all()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("shape") / "faces"  # no suffix is added
    shape_model.save(shape_model.fit(shapes()[0]), path)
    return path


def test_saved_and_loaded_are_the_same(saved):
    model, loaded = shape_model.fit(shapes()[0]), shape_model.load(saved)
    for name in ("mean", "basis", "eigenvalues"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
        assert getattr(loaded, name).dtype == np.float32
    assert loaded.variance == model.variance
    assert [path.name for path in saved.parent.iterdir()] == ["faces"]


def test_files_that_are_no_shape_model(tmp_path, saved):
    def write(content):
        path = tmp_path / "bad.npz"
        path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
        return path

    with np.load(saved) as file:
        good = dict(file)
    cases = [
        (b"", "damaged, or is not"),
        (b"mean,basis", "damaged, or is not"),
        (saved.read_bytes()[:300], "damaged, or is not"),
        ({name: good[name] for name in ("mean", "basis")}, "eigenvalues"),
        (good | {"mean": np.array([object()])}, "damaged, or is not"),
        (good | {"mean": good["mean"] * np.nan}, "not finite"),
        (good | {"mean": good["mean"][:4]}, "do not fit together"),
        (good | {"basis": good["basis"] * 2}, "not orthonormal"),
        (good | {"eigenvalues": -good["eigenvalues"]}, "not orthonormal"),
    ]
    for content, message in cases:
        with pytest.raises(InputError, match=message):
            shape_model.load(write(content))
    with pytest.raises(InputError, match="does not exist"):
        shape_model.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match="cannot be read"):
        shape_model.load(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        shape_model.save(shape_model.fit(shapes()[0]), tmp_path / "no" / "folder.npz")


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_changed_bytes_loads_or_says_why_not(saved, tmp_path, data):
    content = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.npz"
    path.write_bytes(bytes(content))
    try:
        model = shape_model.load(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert np.isfinite(model.basis).all()
