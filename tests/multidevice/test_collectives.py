"""What a step sends between devices, read from the compiled program and compared with golden/collectives.json."""

import json
from pathlib import Path

import pytest
from test_devices import run

from benchmarks import plan

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "collectives.json"

HLO = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (p: bf16[64]) -> bf16[16] {
  %all-reduce.9 = bf16[64]{0:T(256)} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %slice = bf16[16]{0} dynamic-slice(%all-reduce.9, %i), dynamic_slice_sizes={16}
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} get-tuple-element(%state), index=1
  ROOT %sums = (f32[8]{0}, pred[3]{0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%once (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %sum.2 = f32[6]{0} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %of_a_tpu = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%once, metadata={op_name="while"}
  %fusion = bf16[16]{0} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="all-reduce(x)"}
  %gather = (f32[2,3]{1,0}, f32[16,3]{1,0}) all-gather-start(%z), replica_groups=mesh['a'=4,'b'=2] {'a','b'}
  %done = f32[16,3]{1,0} all-gather-done(%gather)
  %scatter = f32[10]{0} reduce-scatter(%z), replica_groups=mesh['a'=8] {'a':(2)4}, dimensions={0}, to_apply=%add
  %move = (f32[7]{0}, f32[7]{0}) collective-permute-start(%z), source_target_pairs={{0,1},{1,0}}
  ROOT %exchange = f32[8]{0} all-to-all(%z), replica_groups={}, dimensions={0}
}
"""


def test_the_parser_reads_kinds_bytes_groups_and_loops():
    found = [(c.kind, c.bytes, c.group, c.times) for c in plan.collectives(HLO)]
    assert found == [
        ("all-reduce", 8 * 4 + 3, 2, 5),
        ("all-reduce", 6 * 4, 4, 3),
        ("reduce-scatter", 64 * 2, 4, 1),
        ("all-gather", 16 * 3 * 4, 8, 1),
        ("reduce-scatter", 10 * 4 * 4, 4, 1),
        ("collective-permute", 7 * 4, 2, 1),
        ("all-to-all", 8 * 4, 8, 1),
    ]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 2 * 3 * 75.0),
        ("all-gather", 3 * 75.0),
        ("reduce-scatter", 3 * 75.0),
        ("collective-permute", 300.0),
    ],
)
def test_bytes_sent_by_ring_algorithms(kind, sent):
    # 100 bytes on 4 devices: a ring takes three steps of 25 bytes, an all-reduce two rings; each runs three times.
    assert plan.Collective(kind, 100, 4, 3, (25,)).sent == pytest.approx(sent)


def test_a_step_takes_the_longer_of_compute_and_memory_plus_the_links():
    times = plan.seconds({"flops": 2 * 197e12, "moved": 819e9, "sent": 50e9})
    assert times == pytest.approx({"compute": 2.0, "memory": 1.0, "links": 0.5, "step": 2.5})


@pytest.fixture(scope="module")
def found():
    return json.loads(run("script_collectives.py", "thermal_alone,1", "transfer,1", "thermal_alone,8"))


def test_data_parallelism_reduces_only_gradients_and_statistics(found):
    for case in ("thermal_alone,1", "transfer,1"):
        one = found[case]
        assert set(one["bytes"]) == {"all-reduce"} and one["groups"] == [8]
        # Reverse injection runs the student's head again, and XLA reduces both gradients before it adds them.
        gradients = one["parameters"] + (one["head"] if case == "transfer,1" else 0)
        rest = one["bytes"]["all-reduce"] / 4 - gradients - one["scalars"]
        assert 0 < rest <= 4 * one["channels"]
        assert one["scalars"] == 0  # loss and terms are reduced together, not one by one


def test_fsdp_gathers_each_weight_once_and_no_activation(found):
    whole, split = found["thermal_alone,1"], found["thermal_alone,8"]
    assert set(split["bytes"]) == {"all-reduce", "all-gather"}
    assert 0.5 < split["bytes"]["all-gather"] / (4 * split["parameters"]) <= 1  # small ones are not split
    numbers = [one["bytes"]["all-reduce"] - 4 * one["scalars"] for one in (whole, split)]
    assert numbers[0] == numbers[1]  # without the scalars, as the gradient's norm is now a sum over devices
    assert split["held"] < whole["held"] / 2


def test_collectives_match_the_golden_file(found):
    # After an intended change, write `found` to the file as JSON, and explain in the commit why it grew.
    golden = json.loads(GOLDEN.read_text())
    for case in ("thermal_alone,1", "transfer,1"):
        assert {key: found[case][key] for key in golden[case]} == golden[case]
