import json

import numpy as np
import pytest

from mlcm_jax.evaluation.seeds import combine


def result(nmes):
    rows = [
        {"name": name, "modality": "thermal", "params": 10, "flops": 20, "nme": nme, "fr10": 1.0, "auc10": 0.5}
        for name, nme in nmes.items()
    ]
    return {"dataset": "d", "split": "test", "normalizer": "box", "rows": rows}


def test_means_deviations_and_paired_differences_match_numpy(tmp_path):
    alone, transfer = [4.0, 5.0, 7.0], [3.5, 5.25, 6.0]
    results = [result({"thermal_alone": a, "transfer": t}) for a, t in zip(alone, transfer, strict=True)]
    found = combine(results, (0, 1, 2), tmp_path)
    row = found["rows"][0]
    assert row["nme"] == pytest.approx(np.mean(alone)) and row["nme_std"] == pytest.approx(np.std(alone, ddof=1))
    difference = np.subtract(transfer, alone)
    (pair,) = found["paired"]
    assert pair["difference"] == pytest.approx(difference.mean())
    assert pair["std"] == pytest.approx(difference.std(ddof=1))
    assert pair["seeds_better"] == 2
    assert json.loads((tmp_path / "results.json").read_text()) == found


def test_one_seed_has_no_deviation(tmp_path):
    found = combine([result({"teacher": 3.0})], (5,), tmp_path)
    assert found["rows"][0]["nme_std"] == 0.0 and found["paired"] == [] and found["seeds"] == [5]
