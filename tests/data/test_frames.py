"""Frames of videos, stacks and folders: the values that were written, their unit and rate, and wrong sources."""

import re

import cv2
import made_flir
import numpy as np
import pytest
import tifffile

from mlcm_jax.data import frames, image_file
from mlcm_jax.errors import InputError

CELSIUS = (np.random.default_rng(0).uniform(20, 37, (3, 24, 32))).astype(np.float32).round(2)


def read(source, **options):
    clip = frames.open_clip(str(source), **options)
    return clip, list(clip.frames)


def test_an_array(tmp_path):
    np.save(tmp_path / "a.npy", CELSIUS)
    clip, found = read(tmp_path / "a.npy")
    assert (clip.count, clip.rate) == (3, 25.0) and "25 per second were assumed; give --fps" in clip.notes[0]
    np.testing.assert_array_equal([image.celsius for image in found], CELSIUS)
    assert read(tmp_path / "a.npy", rate=9.0)[0][1:] == (9.0, 3, ())


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"bigtiff": True}])
def test_a_tiff_with_an_image_per_frame(tmp_path, options):
    counts = ((CELSIUS + 273.15) * 100).round().astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", counts, photometric="minisblack", **options)
    clip, found = read(tmp_path / "a.tif")
    assert clip.count == len(found) == 3
    np.testing.assert_allclose([image.celsius for image in found], CELSIUS, atol=0.006)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_tiff_in_colours_has_whole_frames(tmp_path, planar):
    colours = np.random.default_rng(0).integers(0, 255, (2, 24, 32, 3), np.uint8)
    stored = colours if planar == "contig" else colours.transpose(0, 3, 1, 2)
    for count in (1, 2):
        tifffile.imwrite(tmp_path / "a.tif", stored[:count], photometric="rgb", planarconfig=planar)
        clip, found = read(tmp_path / "a.tif")
        assert clip.count == len(found) == count
        np.testing.assert_array_equal([image.rgb for image in found], colours[:count])


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"extratags": [(274, "H", 1, 3, True)]}])
def test_a_tiff_reads_as_its_first_image_does(tmp_path, options):
    counts = ((CELSIUS + 273.15) * 100).round().astype(np.uint16)
    white = "minisblack" if "imagej" in options else "miniswhite"
    tifffile.imwrite(
        tmp_path / "a.tif", counts if "imagej" in options else 65535 - counts, photometric=white, **options
    )
    _, found = read(tmp_path / "a.tif")
    wanted = image_file.read_image(tmp_path / "a.tif").celsius
    np.testing.assert_array_equal(found[0].celsius, wanted)
    assert np.abs(np.median(wanted) - np.median(CELSIUS[0])) < 0.01


def test_all_frames_of_a_seq(tmp_path):
    parts = [made_flir.fff(made_flir.counts(image)) for image in CELSIUS]
    (tmp_path / "a.seq").write_bytes(b"".join(parts))
    clip, found = read(tmp_path / "a.seq")
    assert clip.count == len(found) == 3
    np.testing.assert_allclose([image.celsius for image in found], CELSIUS, atol=0.05)


def test_the_unit_of_the_first_frame_holds_for_all(tmp_path):
    kelvin = CELSIUS + 273.15
    kelvin[2] -= 150.0  # alone, it would be taken for °C
    np.save(tmp_path / "a.npy", kelvin)
    _, found = read(tmp_path / "a.npy")
    np.testing.assert_allclose([image.celsius for image in found], kelvin - 273.15, atol=1e-3)
    _, found = read(tmp_path / "a.npy", celsius="1,-200")
    np.testing.assert_allclose(found[1].celsius, kelvin[1] - 200, atol=1e-3)


def video(path, code, images, rate=12.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, images[0].shape[1::-1])
    for image in images:
        writer.write(image)
    writer.release()


def ramps():
    """Smooth frames, which compression hardly changes."""
    x = np.linspace(0, 200, 160)
    return [np.uint8(np.tile(x + 10 * k, (120, 1))) for k in range(4)]


def test_a_video_of_gray_levels(tmp_path):
    video(tmp_path / "a.mp4", "mp4v", [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) for image in ramps()])
    clip, found = read(tmp_path / "a.mp4")
    assert clip.rate == pytest.approx(12.0) and clip.count == len(found) == 4 and clip.notes == ()
    for image, wanted in zip(found, ramps(), strict=True):
        assert image.celsius is None and np.abs(image.values - wanted).mean() < 3
    assert read(tmp_path / "a.mp4", rate=5.0)[0].rate == 5.0


def test_a_video_in_colours_of_a_palette(tmp_path):
    video(tmp_path / "a.avi", "MJPG", [cv2.applyColorMap(image, cv2.COLORMAP_INFERNO) for image in ramps()])
    _, found = read(tmp_path / "a.avi")
    assert len(found) == 4
    for image, wanted in zip(found, ramps(), strict=True):
        assert np.median(np.abs(image.values - wanted)) < 4
    assert any("inferno" in note for note in found[0].notes)


def test_a_folder_in_the_order_of_names(tmp_path):
    for name, image in zip(("c", "a", "b"), CELSIUS, strict=True):
        np.save(tmp_path / f"{name}.npy", image)
    clip, found = read(tmp_path)
    assert clip.count == 3
    np.testing.assert_array_equal([image.celsius for image in found], CELSIUS[[1, 2, 0]])


def test_the_unit_of_the_first_file_of_a_folder_holds_for_all(tmp_path):
    kelvin = CELSIUS + 273.15
    kelvin[1] -= 150.0  # alone, it would be taken for °C
    for number, image in enumerate(kelvin):
        np.save(tmp_path / f"{number}.npy", image)
    _, found = read(tmp_path)
    np.testing.assert_allclose([image.celsius for image in found], kelvin - 273.15, atol=1e-3)


def test_a_folder_of_two_kinds_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "b.png"), ramps()[0][:24, :32])
    for name in ("a", "c"):
        np.save(tmp_path / f"{name}.npy", CELSIUS[0])
        with pytest.raises(InputError, match=r"holds .*, and the first frame .*; give frames of one kind"):
            read(tmp_path)
        (tmp_path / f"{name}.npy").unlink()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"\0" * 500, "No frame can be read from the video .*is it damaged"),
        ("a.npy", b"\x93NUMPY\x01\0v\0{'descr'", "not an array that numpy saved, or it is damaged"),
        ("a.seq", b"FFF\0" + b"\0" * 70, "not one of FLIR's, or it is damaged"),
        ("a.tif", b"II*\0\x08\0\0\0", "cannot be read"),
        ("a.doc", b"abc", "not a video that can be read"),
        ("a.csq", b"abc", "not one of FLIR's"),
    ],
)
def test_damaged_sources_are_told(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_other_mistakes_are_told(tmp_path):
    with pytest.raises(InputError, match=r"The video .*gone\.mp4 does not exist"):
        read(tmp_path / "gone.mp4")
    with pytest.raises(InputError, match="holds no image"):
        read(tmp_path)
    np.save(tmp_path / "a.npy", CELSIUS[0])
    with pytest.raises(InputError, match=r"has shape \(24, 32\) .*a video has \[T, H, W\]"):
        read(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", CELSIUS)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"a\.npy is an archive of numpy"):
        read(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", CELSIUS)
    for rate in (-1.0, 1e-9, 1e6, np.inf, np.nan):
        with pytest.raises(InputError, match=rf"--fps={re.escape(f'{rate:g}')} must be .* from 0.01 to 10000"):
            read(tmp_path / "a.npy", rate=rate)
    with pytest.raises(InputError, match="No frame can be read from camera 97; is it connected"):
        frames.open_clip(97)


def test_frames_without_a_value_are_named(tmp_path):
    stack = CELSIUS.copy()
    for number in (1, 0):
        stack[number] = np.nan
        np.save(tmp_path / "a.npy", stack)
        with pytest.raises(InputError, match=rf"frame {number} holds no value"):
            read(tmp_path / "a.npy")


def test_a_frame_that_is_damaged_is_named(tmp_path):
    good = made_flir.fff(made_flir.counts(CELSIUS[0]))
    (tmp_path / "a.seq").write_bytes(good + good[: len(good) // 2])
    clip = frames.open_clip(str(tmp_path / "a.seq"))
    next(clip.frames)
    with pytest.raises(InputError, match=r"Frame 1 of .*a\.seq cannot be read"):
        next(clip.frames)
