"""One pair from (seed, index): determinism, geometry between the two cameras, and what is stored."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import generate, workers

SHAPES = {
    "rgb": ((64, 64, 3), np.uint8),
    "thermal": ((64, 64), np.uint8),
    "celsius": ((64, 64), np.float32),
    "landmarks": ((68, 2), np.float32),
    "rgb_landmarks": ((68, 2), np.float32),
    "jaw3d": ((17, 2), np.float32),
    "visible": ((68,), np.bool_),
    "box": ((4,), np.float32),
    "pose": ((3,), np.float32),
}


def _digest(pair):
    return hashlib.sha256(b"".join(np.asarray(pair[key]).tobytes() for key in sorted(pair))).hexdigest()


def test_shapes_and_types():
    pair = generate.example(3, 21, size=64)
    for key, (shape, dtype) in SHAPES.items():
        assert pair[key].shape == shape and pair[key].dtype == dtype, key
    assert pair["subject"] == 21 // 4 and pair["index"] == 21
    assert 0.0 <= pair["light"] <= 1.0
    np.testing.assert_allclose(pair["box"], landmarks.box_from_points(pair["landmarks"]), atol=1e-4)


def test_another_process_renders_the_same():
    code = (
        "import sys; sys.path.insert(0, 'tests/synthetic')\n"
        "from test_generate import _digest; from mlcm_jax.synthetic import generate\n"
        "print(_digest(generate.example(3, 7, size=(48, 96))))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert other.returncode == 0, other.stderr
    generate.example(3, 6, size=48)  # pairs rendered before make no difference
    assert other.stdout.strip() == _digest(generate.example(3, 7, size=(48, 96)))


def test_pairs_differ_and_share_a_person():
    first, second = generate.example(0, 4, size=48), generate.example(0, 5, size=48)
    assert first["subject"] == second["subject"] == 1
    assert np.abs(first["landmarks"] - second["landmarks"]).max() > 1.0
    assert _digest(first) != _digest(generate.example(1, 4, size=48))


def test_sizes_are_drawn_from_the_range():
    sides = {generate.example(0, index, size=(40, 43))["rgb"].shape[0] for index in range(12)}
    assert sides <= {40, 41, 42, 43} and len(sides) > 1


def test_misregistration_is_small_but_not_zero():
    shares = []
    for index in range(300):
        box = np.array([30.0, 20.0, 100.0, 120.0])
        matrix = generate.misregistration(np.random.default_rng(index), box)
        corners = box[:2] + box[2:] * [[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]]
        moved = np.linalg.norm(corners @ matrix[:, :2].T + matrix[:, 2] - corners, axis=1)
        shares.append(moved.max() / np.sqrt(box[2] * box[3]))
    assert max(shares) < 0.02
    assert 0.002 < np.median(shares) < 0.015


def test_rgb_landmarks_lie_where_the_warp_puts_a_dot():
    matrix = generate.misregistration(np.random.default_rng(4), np.array([20.0, 20.0, 88.0, 88.0]))
    point = np.array([70.25, 41.5])
    y, x = np.mgrid[:128, :128]
    dot = (200.0 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 18.0)).astype(np.float32)
    warped = cv2.warpAffine(dot, matrix, (128, 128), flags=cv2.INTER_LINEAR)
    centre = np.array([(x * warped).sum(), (y * warped).sum()]) / warped.sum()
    np.testing.assert_allclose(centre, matrix[:, :2] @ point + matrix[:, 2], atol=0.1)


def test_radiometric_round_trip():
    celsius = np.linspace(-40.0, 120.0, 5000, dtype=np.float32)
    raw = generate.to_raw(celsius)
    assert raw.dtype == np.uint16
    assert generate.to_raw(np.float32([0.0]))[0] == 27315
    np.testing.assert_allclose(generate.to_celsius(raw), celsius, atol=0.0051)


def test_encoded_images_decode_to_the_same():
    pair = generate.example(0, 2, size=64)
    stored = generate.encode(pair)
    decode = {
        key: cv2.imdecode(np.frombuffer(stored[key], np.uint8), cv2.IMREAD_UNCHANGED)
        for key in ("rgb", "thermal", "celsius")
    }
    np.testing.assert_array_equal(decode["thermal"], pair["thermal"])
    np.testing.assert_array_equal(decode["celsius"], generate.to_raw(pair["celsius"]))
    assert np.abs(decode["rgb"][..., ::-1].astype(int) - pair["rgb"]).mean() < 3.0


@pytest.mark.parametrize("size", [8, 5000, (96, 64), (0, 64)])
def test_sizes_out_of_range(size):
    with pytest.raises(InputError, match="size"):
        generate.example(0, 0, size=size)


def test_negative_numbers():
    with pytest.raises(InputError, match="negative"):
        generate.example(0, -1, size=64)


def test_workers_keep_the_order_and_render_the_same():
    indices = [5, 3, 11, 0, 8]
    found = list(workers.render(0, indices, (40, 48), processes=2))
    assert [pair["index"] for pair in found] == indices
    here = generate.example(0, 11, size=(40, 48))
    # Workers use one BLAS thread, which may round the last bit differently.
    np.testing.assert_allclose(found[2]["landmarks"], here["landmarks"], atol=1e-4)
    gray = cv2.imdecode(np.frombuffer(found[2]["thermal"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert (gray == here["thermal"]).mean() > 0.98


def test_the_error_of_a_worker_names_the_pair_and_the_reason():
    with pytest.raises(RuntimeError, match=r"example -1 of seed 0[\s\S]*must not be negative"):
        list(workers.render(0, [0, -1], (40, 40), processes=2))


def test_a_dead_worker_is_reported(monkeypatch):
    start = workers._start

    def start_and_kill(*arguments):
        worker = start(*arguments)
        worker.kill()
        return worker

    monkeypatch.setattr(workers, "_start", start_and_kill)
    with pytest.raises(RuntimeError, match="ended early, exit code -9"):
        list(workers.render(0, [0, 1], (40, 40), processes=1))


def test_abandoned_rendering_ends_its_workers(monkeypatch):
    started = []
    start = workers._start
    monkeypatch.setattr(workers, "_start", lambda *arguments: started.append(start(*arguments)) or started[-1])
    stream = workers.render(0, range(1000), (40, 40), processes=2)
    next(stream)
    stream.close()
    assert len(started) == 2 and all(worker.poll() is not None for worker in started)
