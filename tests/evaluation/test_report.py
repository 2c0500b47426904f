"""`mlcm report`: what it shows equals what the files of the run say, and what a run lacks is said."""

import html
import json
import re
import shutil
import types

import chromium
import numpy as np
import pytest
import stored_runs
from commands import once
from needed import need

from mlcm_jax import cli
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import report, report_files
from mlcm_jax.models import stored

STAGES = ["teacher", "thermal_alone", "transfer", "light_alone", "compress"]


def tables(text: str) -> list[list[list[str]]]:
    """Returns the cells of all tables of a page, with their headers."""
    return [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall(r"<tr[^>]*>(.*?)</tr>", one)]
        for one in re.findall(r"<table[^>]*>(.*?)</table>", text, re.S)
    ]


def section(text: str, name: str) -> str:
    return re.search(rf"<h2 [^>]*>{name}</h2>(.*?)(?=<h2 |</main>)", text, re.S)[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory, smoke_run, data_dir):
    """A copy of the finished smoke run, without its plots, and with a report; made once for all workers."""

    def make(folder):
        mine = folder / "a<b>&c"
        shutil.copytree(smoke_run, mine, ignore=shutil.ignore_patterns("*.png", "tensorboard"))
        cli.main(["report", f"--workdir={mine}", f"--data_dir={data_dir}"])

    return once(tmp_path_factory, "report", make) / "a<b>&c"


@pytest.fixture(scope="module")
def page(run):
    return (run / "report.html").read_text()


def test_the_table_is_that_of_results_json(run, page):
    rows = json.loads((run / "results.json").read_text())["rows"]
    header, *cells = tables(section(page, "Results"))[0]
    found = {row[0]: dict(zip(header, row, strict=True)) for row in cells}
    assert list(found) == ["mean_shape", *STAGES] == [row["name"] for row in rows]
    for row in rows:
        mine = found[row["name"]]
        assert mine["NME %"] == f"{row['nme']:.2f}" and mine["parameters"] == f"{row['params']:,}"
        assert mine["MFLOPs"] == f"{row['flops'] / 1e6:,.1f}" and mine["FR@10 %"] == f"{row['fr10']:.1f}"
        assert mine["AUC@8"] == f"{row['auc8']:.3f}" and mine["eyes %"] == f"{row['nme_outer_eyes_frontal']:.2f}"
    nme = {row["name"]: row["nme"] for row in rows}
    assert found["transfer"]["difference"] == f"{nme['transfer'] - nme['thermal_alone']:+.2f} to thermal_alone"
    assert found["teacher"]["difference"] == "–"
    # The predictions are those of the run: their means are in the table of gains, and nothing differs.
    gains = {row[0]: row for row in tables(section(page, "Results"))[1][1:]}
    assert set(gains) == {"transfer", "compress"}
    difference = float(gains["compress"][2].split(" ± ")[0])
    assert difference == pytest.approx(nme["compress"] - nme["light_alone"], abs=0.006)
    assert "What is missing" not in page


def test_errors_by_band_are_means_over_all_faces(run, page, data_dir):
    nme = {row["name"]: row["nme"] for row in json.loads((run / "results.json").read_text())["rows"]}
    examples = open_examples("synthetic_faces/48x48", "test", data_dir=str(data_dir), layout="ibug68")
    yaw = np.abs([examples.metadata(i)["pose"][0] for i in range(len(examples))])
    header, *rows = tables(section(page, "Pose"))[0]
    counts = [int(re.search(r"\((\d+)\)", name)[1]) for name in header[1:]]
    assert sum(counts) == len(examples) and counts[0] == (yaw < 15).sum()
    for name in ("Pose", "Resolution"):
        header, *rows = tables(section(page, name))[0]
        counts = [int(re.search(r"\((\d+)\)", one)[1]) for one in header[1:]]
        for row in rows:
            assert np.dot(counts, [float(value) for value in row[1:]]) / sum(counts) == pytest.approx(
                nme[row[0]], abs=0.011
            )
    landmarks, faces = tables(section(page, "Occlusion"))
    hidden = sum(int((~examples[i]["visible"]).sum()) for i in range(len(examples)))
    assert landmarks[0][2] == f"hidden landmarks ({hidden:,})" and len(faces) == 1 + 1 + len(STAGES)
    regions = tables(section(page, "Parts of the face"))[0]
    assert regions[0][1] == "jaw (17)" and len(regions[0]) == 1 + 8
    worst = tables(section(page, "Cumulative errors"))[0][-1][-1]
    assert f": {worst} %" not in page and len(re.findall("<img ", section(page, "Predictions"))) == 3


def test_training_networks_config_and_environment(run, page):
    rows = tables(section(page, "Training"))[0][1:]
    for row in rows:
        last = json.loads((run / row[0] / "metrics.jsonl").read_text().splitlines()[-1])
        assert row[3] == f"{last['step']:,} of {last['step']:,}" and row[4] == f"{last['task']:.4f}"
    assert [row[0] for row in rows] == STAGES and rows[4][2] == "transfer"
    results = {row["name"]: row for row in json.loads((run / "results.json").read_text())["rows"]}
    networks = section(page, "Networks")
    headings = re.findall("<h3>(.*?): resnet18</h3>", networks)
    assert headings == ["teacher", "thermal_alone, transfer, light_alone, compress"]  # smoke has one size of student
    for heading, table in zip(headings, tables(networks), strict=True):
        row = results[heading.split(", ")[0]]
        assert table[-1][:2] == ["total", f"{row['params']:,}"] and table[-1][3] == f"{row['flops'] / 1e6:,.1f}"
        assert sum(int(line[1].replace(",", "")) for line in table[1:-1]) == row["params"]
        assert not [line for line in table if line[0] == "backbone.second" and line[3] == "0.0"]
    own, every = tables(section(page, "Config"))
    config = json.loads((run / "config.json").read_text())
    assert ["image_size", str(config["image_size"])] in [row[:2] for row in every]
    assert "dataset" in [row[0] for row in own] and len(own) < len(every)
    origin = json.loads((run / "origin.json").read_text())
    machine, fingerprints, files = tables(section(page, "Environment"))
    machine = {row[0]: row[1:] for row in machine}
    assert machine["jax"] == [origin["environment"]["jax"]] * 2 and "cpu" in machine["devices"][0]
    assert machine["date"][0] == origin["environment"]["date"] and machine["processes"] == ["1", "1"]
    digest = json.loads((run / "compress" / "model.json").read_text())["weights_sha256"]
    assert ["weights: compress", digest] in fingerprints
    assert [f"data: {name}" for name in origin["data"]] == [fingerprints[1][0]]
    assert files[1][0] == "config.json"


def test_the_page_is_self_contained_and_its_text_is_escaped(run, page):
    assert "a&lt;b&gt;&amp;c" in page and "<b>&c" not in page
    assert not re.search(r"""\b(src|href)=(?!"(data:|#))""", page) and "<script" not in page and "url(" not in page
    images = re.findall(r'<img src="data:image/(png|svg\+xml);base64,', page)
    assert len(images) == 11 and page.count("alt=") == 11
    assert len(page) < 8_000_000
    assert not list(run.glob("*.new"))


@pytest.mark.slow
def test_it_opens_without_errors_in_chromium(run, page, tmp_path):
    need("chromium")
    document, console = chromium.load(run / "report.html")
    assert console == [] and document.count("<img") == 11 and "Report of a&lt;b&gt;&amp;c" in document
    bad = tmp_path / "bad.html"
    bad.write_text(page.replace("</main>", "<img src='http://example.org/a.png'></main>"))
    assert "Content Security Policy" in chromium.load(bad)[1][0]  # so errors would be seen


# Runs that lack something. None of these needs a dataset: that of a run without one cannot be opened.


@pytest.fixture
def bare(tmp_path):
    """A run with one finished stage of a dataset that is not on this machine, and nothing else."""
    folder = tmp_path / "bare"
    stored_runs.write(folder, stored_runs.card("light_alone"), stages=["light_alone"])
    config = {"stages": ["light_alone"], "dataset": "rwth_aachen", "steps": {"light": 300}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def written(folder, tmp_path) -> str:
    return html.unescape(report.write(folder, data_dir=str(tmp_path / "data")).read_text())


def test_what_a_run_lacks_is_said(bare, tmp_path, capsys):
    text = written(bare, tmp_path)
    missing, said = re.search("<div class=missing>(.*?)</div>", text, re.S)[1], capsys.readouterr().out
    for sentence in (
        "There is no results.json: the run is not finished, so run the training command again.",
        "The test images cannot be predicted, so there are no errors of single faces: rwth_aachen",
        "Stage light_alone has no readable metrics.jsonl, so it has no curve.",
        "The run did not note the date, the versions and the devices of its training.",
    ):
        assert sentence in missing and sentence in said
    assert "There are no results." in section(text, "Results") and "total" in section(text, "Networks")
    assert tables(section(text, "Training"))[0][1] == ["light_alone", "thermal", "–", "300", "–", "–", "–"]


def test_an_unfinished_stage_says_how_far_it_came(bare, tmp_path):
    for name in (stored.WEIGHTS, stored.CARD):
        (bare / "light_alone" / name).unlink()
    lines = [{"step": 50, "task": 2.5, "skipped": 1.0}, {"step": 100, "task": float("nan"), "skipped": 2.0}]
    log = "\n".join(map(json.dumps, lines))
    (bare / "light_alone" / "metrics.jsonl").write_text(f'{log}\n{{"step": 1')
    text = written(bare, tmp_path)
    assert "Stage light_alone is not finished: its log ends at step 100 of 300." in text
    assert "No stage is finished, so there are no predictions." in text
    row = tables(section(text, "Training"))[0][1]
    assert row[3:5] == ["100 of 300", "not finite"] and row[6] == "3" and "<img" in section(text, "Training")


ROW = '"rows": [{"name": "x", "nme": 5.0, "params": 1, "flops": 1}]'
DAMAGED = (
    "{", "[]", '{"rows": []}', '{"rows": [{"name": "x", "nme": "low"}]}', f'{{"normalizer": ["box"], {ROW}}}',
    f'{{"normalizer": "box", "dataset": "a", {ROW}}}', f'{{"normalizer": "box", "dataset": [], "split": 1, {ROW}}}',
    f'{{"normalizer": "box", {ROW}}}'.replace('"params"', '"images": "many", "params"'),
    f'{{"iou": 0.5, {ROW}}}'.replace("nme", "ap"),
)  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_results_are_left_out_with_a_sentence(bare, tmp_path, content):
    (bare / "results.json").write_text(content)
    (bare / "results_other_test.json").write_text(content)
    text = written(bare, tmp_path)
    assert re.search(r"results\.json (is not JSON|does not hold the table of a run)", text)
    assert "results_other_test.json is damaged and left out." in text


def test_damaged_weights_and_origin_are_told(bare, tmp_path):
    (bare / "light_alone" / stored.WEIGHTS).write_bytes(b"x")
    (bare / "origin.json").write_text("[")
    text = written(bare, tmp_path)
    assert re.search(r"Stage light_alone is left out: The weights .* are damaged", text)
    assert "origin.json is damaged: the code and the data of the training are not known." in text


def test_results_that_differ_from_the_predictions_are_told():
    fake = types.SimpleNamespace(errors={"transfer": np.array([0.04, 0.06])})
    content = {"rows": [{"name": "transfer", "nme": 5.5}, {"name": "teacher", "nme": 1.0}]}
    (sentence,) = report_files._differences(content, fake)
    assert sentence.startswith("transfer has an NME of 5.50 % in results.json, and of 5.00 % as predicted")
    content["rows"][0]["nme"] = 5.001
    assert report_files._differences(content, fake) == []


def test_the_best_row_has_a_number(bare, tmp_path):
    rows = [
        {"name": name, "nme": nme, "params": 1, "flops": 1}
        for name, nme in (("transfer", float("nan")), ("compress", 3.5))
    ]
    (bare / "results.json").write_text(json.dumps({"normalizer": "box", "rows": rows}))
    text = written(bare, tmp_path)
    assert "compress has the smallest error, an NME of 3.50 %" in text
    assert re.findall("<tr class=best><td>(.*?)<", section(text, "Results")) == ["compress"]
    assert tables(section(text, "Results"))[0][1][4] == "not finite"


@pytest.mark.parametrize(("nme", "told"), [(3.0, "No network is better than mean_shape, which has an NME of 3.00 %"),
                                           (4.0, "compress has the smallest error, an NME of 3.50 %")])  # fmt: skip
def test_a_network_worse_than_the_mean_shape_is_not_praised(bare, tmp_path, nme, told):
    errors = {"mean_shape": nme, "compress": 3.5}
    rows = [{"name": name, "nme": error, "params": 1, "flops": 1} for name, error in errors.items()]
    (bare / "results.json").write_text(json.dumps({"normalizer": "box", "rows": rows}))
    assert told in written(bare, tmp_path)


def test_a_detector_has_its_own_table(bare, tmp_path):
    row = {"name": "light_alone", "params": 1234, "flops": 5e6, "threshold": 0.4, "ap": 0.9, "recall": 0.8}
    (bare / "results.json").write_text(json.dumps({"iou": 0.5, "rows": [row]}))
    config = json.loads((bare / "config.json").read_text()) | {"loss": {"name": "boxes"}}
    (bare / "config.json").write_text(json.dumps(config))
    text = written(bare, tmp_path)
    assert tables(section(text, "Results"))[0][1][:4] == ["light_alone", "1,234", "0.40", "0.800"]
    assert "The run trains a detector, which has no landmarks" in text


@pytest.mark.parametrize("start", ['"normalizer": "box"', '"iou": "half"'])
def test_damaged_results_of_a_detector_are_left_out(bare, tmp_path, start):
    config = json.loads((bare / "config.json").read_text()) | {"loss": {"name": "boxes"}}
    (bare / "config.json").write_text(json.dumps(config))
    (bare / "results.json").write_text(f"{{{start}, {ROW}}}".replace("nme", "nme" if "box" in start else "ap"))
    assert "results.json does not hold the table of a run" in written(bare, tmp_path)


def test_an_unknown_stage_is_told(bare, tmp_path):
    (bare / "config.json").write_text('{"stages": ["transfre"]}')
    with pytest.raises(
        InputError, match=r"config\.json cannot be read \(the stage 'transfre' is unknown; did you mean"
    ):
        report.write(bare, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("note.txt", r"note\.txt exists and is no report; remove it, or give another --out"),
        ("none/a.html", "The folder .*none of --out does not exist; make it first"),
        (".", "is a folder; give the name of a file"),
    ],
)
def test_where_a_report_cannot_be_written(bare, tmp_path, out, message):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match=message):
        report.write(bare, str(tmp_path / out), data_dir=str(tmp_path))
    assert (tmp_path / "note.txt").read_text() == "mine"
    report.write(bare, str(tmp_path / "a.html"), data_dir=str(tmp_path))
    report.write(bare, str(tmp_path / "a.html"), data_dir=str(tmp_path))  # a report is replaced


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not the work directory of a run"):
        report.write(tmp_path, data_dir=str(tmp_path))
