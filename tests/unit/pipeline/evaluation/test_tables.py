"""Which tables a set of rows gives, and that the paper's figures are the published ones."""

import csv
import io
import json

import pytest

from pipeline.evaluation.paper import PUBLISHED, canonical, published
from pipeline.evaluation.tables import About, all_tables, is_bin, lineage, result_blocks, results, scaling


def row(run="slm-stage4", stage=4, test_set="AliMeeting-Test", mode="no", n_ov=None, cer=20.0, **more):
    made = {
        "run": run, "stage": stage, "test_set": test_set, "split": "Test", "unit": "clip", "mode": mode, "n_ov": n_ov,
        "cer": cer, "cpcer": cer + 2, "sacer": None if mode == "no" else cer + 3, "delta_cp": 2.0,
        "delta_sa": None if mode == "no" else 3.0, "n_ref": 100, "ci": None, "normaliser": "paper-zh-v1",
    }  # fmt: skip
    return made | more


@pytest.mark.parametrize("p", PUBLISHED, ids=lambda p: f"{p.system}-{p.test_set}-{p.mode}-{p.hours}-{p.extractor}")
def test_published_differences_agree_with_published_rates(p):
    if p.delta is not None:
        assert p.speaker_cer - p.cer == pytest.approx(p.delta, abs=0.011)


def test_published_rows_are_found_by_any_spelling_of_a_test_set():
    assert [canonical(n) for n in ("AliMeeting-Test", "aishell-4_test", "AISHELL5", "toy")] == [
        "alimeeting", "aishell4", "aishell5", None,
    ]  # fmt: skip
    assert len(published("alimeeting", "no")) == 12
    assert published("toy") == []
    fair = [p for p in published("AISHELL-5", "no") if p.hours == 212.25]
    assert [(p.cer, p.speaker_cer, p.delta) for p in fair] == [(48.40, 64.96, 16.56)]


def test_our_rows_stand_before_the_papers_of_the_same_set_and_mode():
    table = results([row(), row(mode="match"), row(test_set="toy")])
    kinds = [(line[1], line[2], i in table.paper) for i, line in enumerate(table.lines)]
    assert kinds[0] == ("AliMeeting-Test", "no", False)
    assert kinds[1:13] == [("AliMeeting", "no", True)] * 12
    assert kinds[13] == ("AliMeeting-Test", "match", False)
    assert kinds[-1] == ("toy", "no", False)
    ours, paper = dict(zip(table.head, table.lines[0], strict=True)), dict(zip(table.head, table.lines[1], strict=True))
    assert (ours["split"], ours["unit"], ours["normaliser"]) == ("Test", "clip", "paper-zh-v1")
    assert (paper["split"], paper["unit"], paper["normaliser"]) == ("Test", "clip", "not stated")


def test_blocks_leave_out_what_says_nothing():
    blocks = result_blocks(results([row(), row(mode="over", n_ov="1-50")]))
    assert [b.title for b in blocks] == ["AliMeeting-Test, No-Regist", "AliMeeting-Test, Over-Regist"]
    assert "saCER" not in blocks[0].head
    assert "N_ov" in blocks[1].head
    assert len(blocks[0].paper) == 12
    assert len(blocks[0].lines) == 13


def test_ranges_of_a_sweep_are_told_from_the_full_range():
    full = row(mode="over", n_ov="1-50")
    bins = [row(mode="over", n_ov=f"{a}-{a + 9}", cer=float(a)) for a in (11, 1, 21)]
    rows = [full, *bins]
    assert [is_bin(r, rows) for r in rows] == [False, True, True, True]
    assert [is_bin(r, bins) for r in bins] == [True] * 3
    assert not is_bin(full, [full])
    names = {t.name: t for t in all_tables(rows)}
    assert [line[2] for line in names["n_ov"].lines] == ["1-10", "11-20", "21-30"]
    assert sum("paper" not in line[0] for line in names["results"].lines) == 1


def test_stage_curve_needs_two_stages():
    assert lineage("slm-stage4") == "slm"
    assert "stages" not in {t.name for t in all_tables([row()])}
    made = {t.name: t for t in all_tables([row(), row(run="slm-stage2", stage=2)])}
    assert [(line[0], line[3]) for line in made["stages"].lines] == [("slm", 2), ("slm", 4)]


def test_extractors_are_compared_after_the_last_stage():
    rows = [row(run="a-stage3", stage=3), row(run="a-stage4"), row(run="b-stage4"), row(run="b-stage4", mode="match")]
    about = {"a-stage3": About("CAM++"), "a-stage4": About("CAM++"), "b-stage4": About("ERes2NetV2")}
    made = {t.name: t for t in all_tables(rows, about)}
    ours = [line for i, line in enumerate(made["extractors"].lines) if i not in made["extractors"].paper]
    assert [(line[0], line[2], line[3]) for line in ours] == [
        ("CAM++", "a-stage4", "no"), ("ERes2NetV2", "b-stage4", "no"), ("ERes2NetV2", "b-stage4", "match"),
    ]  # fmt: skip
    assert [line[5] for line in ours] == [22.0, 22.0, 23.0]
    assert len(made["extractors"].paper) == 6


def test_data_scaling_stands_among_the_papers_hours():
    table = scaling([row()], {"slm-stage4": About(hours=500.0)})
    assert [line[2] for line in table.lines] == [212.25, 500.0, 694.06, 2269.57, 7638.95]
    assert table.paper == {0, 2, 3, 4}
    assert scaling([row(test_set="toy")], {"slm-stage4": About(hours=1.0)}) is None


def test_the_three_forms_of_a_table_say_the_same():
    table = results([row(cer=1 / 3, n_ov=None)])
    read = list(csv.reader(io.StringIO(table.csv())))
    assert read[0] == list(table.head)
    assert float(read[1][4]) == json.loads(table.json())[0]["CER"] == 1 / 3
    assert "| 0.33 |" in table.markdown().replace("  ", " ").replace("  ", " ")
    assert len(read) == len(json.loads(table.json())) + 1
