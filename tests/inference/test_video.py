"""`mlcm video`: the files that it writes, and what is kept when something goes wrong."""

import csv
import json
import signal

import cv2
import numpy as np
import pytest

from mlcm_jax.errors import InputError, Interrupted
from mlcm_jax.inference import regions, video
from mlcm_jax.synthetic import generate

COUNT = 6


@pytest.fixture(scope="module")
def pair():
    return generate.example(7, 8, size=128, frontal=True, well_lit=True)


@pytest.fixture(scope="module")
def moving(pair):
    """A face that moves by three pixels per frame, float32 [T, H, W] in °C."""
    frames = np.full((COUNT, 140, 180), float(np.median(pair["celsius"][:8])), np.float32)
    for k in range(COUNT):
        frames[k, 6:134, 3 * k : 3 * k + 128] = pair["celsius"]
    return frames


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_radiometric_stack(tmp_path, moving, pair, capsys):
    np.save(tmp_path / "a.npy", moving)
    summary = video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), rate=10.0)
    assert summary == {"frames": COUNT, "people": 1, "with_faces": COUNT}
    told = capsys.readouterr().out
    assert "6 frames, 1 person, a face in 6 of the frames" in told and "values were taken for °C" in told
    found = lines(tmp_path / "out/a.npy.jsonl")
    assert [one["frame"] for one in found] == list(range(COUNT)) and found[3]["time"] == 0.3
    side = np.sqrt(pair["box"][2] * pair["box"][3])
    for k, one in enumerate(found):
        (face,) = one["faces"]
        wanted = pair["landmarks"] + (3 * k, 6)
        assert face["person"] == 1 and np.linalg.norm(face["landmarks"] - wanted, axis=-1).mean() < 0.05 * side
    rows = table(tmp_path / "out/a.npy_regions.csv")
    assert len(rows) == COUNT * len(regions.NAMES)
    mine = {row["region"]: row for row in rows if row["frame"] == "3"}
    wanted = regions.measure(np.float32(found[3]["faces"][0]["landmarks"]), moving[3])
    assert float(mine["chin"]["mean"]) == pytest.approx(wanted["chin"].mean, abs=0.02)
    assert float(mine["face"]["max"]) == pytest.approx(wanted["face"].max, abs=0.02) and mine["chin"]["time"] == "0.3"
    capture = cv2.VideoCapture(str(tmp_path / "out/a.npy_landmarks.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == COUNT and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    blue, green, red = np.moveaxis(capture.read()[1].astype(int), -1, 0)
    assert ((green > red + 40) & (green > blue + 40)).sum() > 100  # regions are outlined in green
    assert cv2.imread(str(tmp_path / "out/a.npy_regions.png")).shape[1] > 500


def test_gray_levels_have_no_temperatures(tmp_path, pair):
    for k in range(2):
        cv2.imwrite(str(tmp_path / f"{k}.png"), pair["thermal"])
    (tmp_path / "in").mkdir()
    for path in sorted(tmp_path.glob("*.png")):
        path.rename(tmp_path / "in" / path.name)
    video.follow(str(tmp_path / "in"), out=str(tmp_path / "out"), smooth=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in.jsonl", "in_landmarks.mp4"]
    first, second = (one["faces"][0]["landmarks"] for one in lines(tmp_path / "out/in.jsonl"))
    assert np.abs(np.subtract(first, second)).max() < 3


def test_no_face_is_said_and_the_first_frames_alone_can_be_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", np.tile(np.linspace(15, 20, 64, dtype=np.float32), (5, 48, 1)))
    summary = video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), most=3)
    assert summary == {"frames": 3, "people": 0, "with_faces": 0}
    assert [one["faces"] for one in lines(tmp_path / "out/a.npy.jsonl")] == [[], [], []]
    assert not (tmp_path / "out/a.npy_regions.png").exists()
    with pytest.raises(InputError, match="--frames=0 must be at least 1"):
        video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "two"), most=0)


def test_what_was_written_before_an_error_is_whole(tmp_path, moving):
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(moving[:3]):
        np.save(tmp_path / f"in/{k}.npy", frame)
    np.save(tmp_path / "in/3.npy", moving[3, :100, :120])
    with pytest.raises(InputError, match=r"Frame 3 of .*in has 120 x 100 pixels, and the first one 180 x 140"):
        video.follow(str(tmp_path / "in"), out=str(tmp_path / "out"))
    assert len(lines(tmp_path / "out/in.jsonl")) == 3
    assert len(table(tmp_path / "out/in_regions.csv")) == 3 * len(regions.NAMES)
    capture = cv2.VideoCapture(str(tmp_path / "out/in_landmarks.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3


def test_files_of_an_earlier_call_are_kept_unless_asked(tmp_path, moving):
    np.save(tmp_path / "a.npy", moving)
    video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), most=2)
    with pytest.raises(InputError, match=r"a\.npy\.jsonl exists already; replace it by --overwrite"):
        video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), most=1)
    assert len(lines(tmp_path / "out/a.npy.jsonl")) == 2
    video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), most=1, overwrite=True)
    assert len(lines(tmp_path / "out/a.npy.jsonl")) == 1


@pytest.mark.parametrize("options", [{"max_faces": 0}, {"model": "/gone"}, {"rate": 1e9}])
def test_files_of_an_earlier_call_outlive_a_mistake(tmp_path, moving, options):
    np.save(tmp_path / "a.npy", moving)
    video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), most=2)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError):
        video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), overwrite=True, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_frame_be_finished(tmp_path, moving, monkeypatch, capsys, number):
    np.save(tmp_path / "a.npy", moving)
    writes, handlers = video._Sinks.write, [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def write(self, at, *words):
        if at == 2:
            signal.raise_signal(number)
        writes(self, at, *words)

    monkeypatch.setattr(video._Sinks, "write", write)
    with pytest.raises(Interrupted, match=r"Stopped after 3 frames of .*a\.npy; --overwrite begins again") as raised:
        video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"))
    assert raised.value.number == number and "could be read" not in capsys.readouterr().out
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert len(lines(tmp_path / "out/a.npy.jsonl")) == 3 and (tmp_path / "out/a.npy_regions.png").exists()
    assert len(table(tmp_path / "out/a.npy_regions.csv")) == 3 * len(regions.NAMES)
    capture = cv2.VideoCapture(str(tmp_path / "out/a.npy_landmarks.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3


def test_temperatures_that_no_face_has_are_told_once(tmp_path, moving, capsys):
    np.save(tmp_path / "a.npy", moving)
    video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "out"), celsius="kelvin", most=2)
    assert capsys.readouterr().out.count("°C, which no face is; give the unit of the values") == 1
    video.follow(str(tmp_path / "a.npy"), out=str(tmp_path / "two"), most=2)
    assert "which no face is" not in capsys.readouterr().out


def test_the_folder_at_hand_has_a_name(tmp_path, pair, monkeypatch):
    (tmp_path / "mine").mkdir()
    cv2.imwrite(str(tmp_path / "mine/a.png"), pair["thermal"])
    monkeypatch.chdir(tmp_path / "mine")
    video.follow(".", out=str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine.jsonl", "mine_landmarks.mp4"]


def test_nothing_is_written_beside_the_frames(tmp_path, moving):
    np.save(tmp_path / "0.npy", moving[0])
    with pytest.raises(InputError, match="is the folder of the frames, whose images are read; give another --out"):
        video.follow(str(tmp_path), out=f"{tmp_path}/../{tmp_path.name}")
    assert [path.name for path in tmp_path.iterdir()] == ["0.npy"]
