"""Which tables a set of rows gives, and that the paper's figures are the published ones."""

import csv
import io
import json

import pytest

from pipeline.decode.jobs import PAPER_BINS
from pipeline.evaluation.metrics import Coarse
from pipeline.evaluation.paper_results import PUBLISHED, canonical, published
from pipeline.evaluation.result_tables import (
    TrainingFacts,
    all_tables,
    is_bin,
    latest,
    lineage,
    results,
    scaling,
    with_times,
)
from pipeline.evaluation.timed_results import TIMED, TITLES, timed


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


# Tables 2 to 4 as printed: AliMeeting | AISHELL-4 | AISHELL-5, CER cpCER Δcp each (registered: CER saCER Δsa).
PRINTED = """
no 3D-Speaker + Paraformer| 21.30 24.94 3.64 23.02 26.01 2.99 60.16 64.12 3.96
no Pyannote 3.1 + Paraformer| 21.30 24.45 3.15 23.02 28.22 5.20 60.16 68.37 8.21
no DiariZen-base + Paraformer| 21.30 23.97 2.67 23.02 27.27 4.25 60.16 66.89 6.73
no DiariZen-large + Paraformer| 21.30 23.20 1.90 23.02 25.78 2.76 60.16 61.81 1.65
no DiariZen-large + Paraformer + ChatGPT-4.5 zero-shot| 30.63 38.64 8.01 33.02 39.21 6.19 67.34 79.05 11.71
no DiariZen-large + Paraformer + Qwen2.5-7B zero-shot| 40.10 51.01 10.91 33.92 44.16 10.24 65.67 73.30 7.63
no DiariZen-large + Paraformer + Qwen2.5-7B fine-tuned| 21.38 22.65 1.27 23.05 24.93 1.88 60.17 61.63 1.46
no SpeakerLM|212.25 18.63 32.22 13.59 17.75 26.14 8.39 48.40 64.96 16.56
no SpeakerLM|694.06 18.14 29.60 11.46 17.48 25.28 7.80 48.39 54.81 6.42
no SpeakerLM|2269.57 17.32 27.97 10.65 17.32 23.10 5.78 47.78 50.04 2.26
no SpeakerLM|7638.95 13.97 16.05 2.08 17.17 18.37 1.20 47.24 47.81 0.57
match SpeakerLM|7638.95 13.98 15.57 1.59 17.13 19.73 2.60 47.05 47.36 0.31
over SpeakerLM|7638.95 13.96 15.71 1.75 17.15 20.16 3.01 46.69 47.35 0.66
"""


def test_published_rows_are_those_of_the_paper():
    expected = {
        ("asr", "SpeakerLM-ASR (stage 1)", None, "", t): (cer, None, None)
        for t, cer in (("alimeeting", 20.98), ("aishell4", 18.02), ("aishell5", 55.50))
    }
    for line in PRINTED.strip().splitlines():
        label, numbers = line.split("|")
        mode, system = label.split(" ", maxsplit=1)
        hours = float(numbers.split()[0]) if numbers[0] != " " else None
        figures = [float(n) for n in numbers.split()[0 if hours is None else 1 :]]
        for i, test_set in enumerate(("alimeeting", "aishell4", "aishell5")):
            key = (mode, system, hours, "ERes2NetV2" if hours else "", test_set)
            expected[key] = tuple(figures[3 * i : 3 * i + 3])
    expected["match", "SA-Transformer", None, "", "alimeeting"] = (None, 41.55, None)
    for mode, cer, speaker_cer in (("no", 14.63, 16.74), ("match", 14.74, 17.23), ("over", 14.71, 16.92)):
        expected[mode, "SpeakerLM", 7638.95, "CAM++", "alimeeting"] = (cer, speaker_cer, None)
    found = {(p.mode, p.system, p.hours, p.extractor, p.test_set): (p.cer, p.speaker_cer, p.delta) for p in PUBLISHED}
    assert len(found) == len(PUBLISHED)
    assert found == expected


def test_published_rows_are_found_by_any_spelling_of_a_test_set():
    assert [canonical(n) for n in ("AliMeeting-Test", "aishell-4_test", "AISHELL5", "toy")] == [
        "alimeeting", "aishell4", "aishell5", None,
    ]  # fmt: skip
    assert len(published("alimeeting", "no")) == 12
    assert published("toy") == []
    fair = [p for p in published("AISHELL-5", "no") if p.hours == 212.25]
    assert [(p.cer, p.speaker_cer, p.delta) for p in fair] == [(48.40, 64.96, 16.56)]


def test_our_rows_come_before_the_papers_of_the_same_set_and_mode():
    table = results([row(), row(mode="match"), row(test_set="toy")])
    kinds = [(line[1], line[2], i in table.paper) for i, line in enumerate(table.lines)]
    assert kinds[0] == ("AliMeeting-Test", "no", False)
    assert kinds[1:13] == [("AliMeeting", "no", True)] * 12
    assert kinds[13] == ("AliMeeting-Test", "match", False)
    assert kinds[-1] == ("toy", "no", False)
    ours, paper = dict(zip(table.head, table.lines[0], strict=True)), dict(zip(table.head, table.lines[1], strict=True))
    assert (ours["split"], ours["unit"], ours["normaliser"]) == ("Test", "clip", "paper-zh-v1")
    assert (paper["split"], paper["unit"], paper["normaliser"]) == ("Test", "clip", "not stated")


def test_ranges_of_a_sweep_are_distinguished_from_the_full_range():
    full = row(mode="over", n_ov="1-50")
    bins = [row(mode="over", n_ov=f"{a}-{a + 9}", cer=float(a)) for a in (11, 1, 21)]
    rows = [full, *bins]
    assert [is_bin(r, rows) for r in rows] == [False, True, True, True]
    assert [is_bin(r, bins) for r in bins] == [True] * 3
    assert not is_bin(full, [full])
    names = {t.name: t for t in all_tables(rows)}
    assert [line[2] for line in names["n_ov"].lines] == ["1-10", "11-20", "21-30"]
    assert sum("paper" not in line[0] for line in names["results"].lines) == 1


def test_the_papers_bins_are_a_sweep():
    """They share their ends and differ in width: 1-10 holds ten numbers, 10-20 eleven."""
    bins = [row(mode="over", n_ov=b) for b in PAPER_BINS]
    assert [is_bin(r, bins) for r in bins] == [True] * 10
    names = {t.name: t for t in all_tables(bins)}
    assert [line[2] for line in names["n_ov"].lines] == list(PAPER_BINS)
    assert names["results"].lines == ()
    full = row(mode="over", n_ov="1-50")  # what the main result draws from: it ends before the bins do
    assert [is_bin(r, [full, *bins]) for r in (full, *bins)] == [False] + [True] * 10


def test_every_table_has_split_unit_and_normaliser():
    rows = [row(), row(run="b-stage4"), row(run="slm-stage2", stage=2), *(row(mode="over", n_ov=b) for b in PAPER_BINS)]
    about = {"slm-stage4": TrainingFacts("CAM++", 100.0), "b-stage4": TrainingFacts("ERes2NetV2", 500.0)}
    made = all_tables(rows, about)
    assert {t.name for t in made} == {"results", "with_times", "n_ov", "stages", "extractors", "scaling"}
    for t in made:
        assert t.head[-3:] == ("split", "unit", "normaliser")
        for i, line in enumerate(t.lines):
            if t.name == "with_times" and i in t.paper:
                assert (line[-3], line[-1]) == ("not stated", "not stated")
            else:
                assert line[-3:] == ("Test", "clip", "not stated" if i in t.paper else "paper-zh-v1")


def test_stage_curve_needs_two_stages():
    assert lineage("slm-stage4") == "slm"
    assert "stages" not in {t.name for t in all_tables([row()])}
    made = {t.name: t for t in all_tables([row(), row(run="slm-stage2", stage=2)])}
    assert [(line[0], line[3]) for line in made["stages"].lines] == [("slm", 2), ("slm", 4)]


def test_extractors_are_compared_after_the_last_stage():
    rows = [row(run="a-stage3", stage=3), row(run="a-stage4"), row(run="b-stage4"), row(run="b-stage4", mode="match")]
    about = {
        "a-stage3": TrainingFacts("CAM++"),
        "a-stage4": TrainingFacts("CAM++"),
        "b-stage4": TrainingFacts("ERes2NetV2"),
    }
    made = {t.name: t for t in all_tables(rows, about)}
    ours = [line for i, line in enumerate(made["extractors"].lines) if i not in made["extractors"].paper]
    assert [(line[0], line[2], line[3]) for line in ours] == [
        ("CAM++", "a-stage4", "no"), ("ERes2NetV2", "b-stage4", "no"), ("ERes2NetV2", "b-stage4", "match"),
    ]  # fmt: skip
    assert [line[5] for line in ours] == [22.0, 22.0, 23.0]
    assert len(made["extractors"].paper) == 6


def test_data_scaling_is_sorted_among_the_papers_hours():
    table = scaling([row()], {"slm-stage4": TrainingFacts(hours=500.0)})
    assert [line[2] for line in table.lines] == [212.25, 500.0, 694.06, 2269.57, 7638.95]
    assert table.paper == {0, 2, 3, 4}
    assert scaling([row(test_set="toy")], {"slm-stage4": TrainingFacts(hours=1.0)}) is None


def test_markdown_csv_and_json_of_a_table_agree():
    table = results([row(cer=1 / 3, n_ov=None)])
    read = list(csv.reader(io.StringIO(table.csv())))
    assert read[0] == list(table.head)
    assert float(read[1][4]) == json.loads(table.json())[0]["CER"] == 1 / 3
    assert "| 0.33 |" in table.markdown().replace("  ", " ").replace("  ", " ")
    assert len(read) == len(json.loads(table.json())) + 1


def test_files_say_which_figures_are_coarse():
    """A number cannot, and a reader of the file sees no mark."""
    table = with_times([row(metrics={"der": Coarse(9.5)}, test_set="aishell4-test"), row(test_set="aishell4-test")])
    first, second = list(csv.DictReader(io.StringIO(table.csv())))[:2]
    assert (float(first["DER"]), first["coarse"], second["coarse"]) == (9.5, "DER", "")
    assert json.loads(table.json())[0]["coarse"] == "DER"
    assert "coarse" not in results([row()]).csv()


def test_published_rows_with_times_stand_beside_ours():
    ours = row(metrics={"der": 9.5, "gender-accuracy": 90.0}, test_set="aishell4-test", cer=15.0)
    table = with_times([ours, row(test_set="toy"), row(mode="over", test_set="AISHELL-4")])
    assert table.lines[0] == (
        "slm-stage4", "aishell4-test", 9.5, 15.0, 17.0, 2.0, 90.0, None, "Test", "clip", "paper-zh-v1",
    )  # fmt: skip
    assert table.paper == frozenset(range(1, len(table.lines)))
    stage2 = ("published: Speaker-Reasoner Multi-turn (Stage 2)", "AISHELL-4", 5.19, 13.83, 14.93, 1.1, None, None)
    assert (*stage2, "not stated", "clip", "not stated") in table.lines
    soulx = ("published: SoulX-Transcriber", "AISHELL-4", 7.73, 14.49, 17.82, None, None, None)
    assert (*soulx, "not stated", "5 minutes", "not stated") in table.lines
    assert with_times([row(test_set="toy")]) is None


def test_published_rows_with_times_agree_with_themselves():
    assert len(TIMED) == 12 * 2 + 3 * 8 + 9
    assert {p.test_set for p in TIMED} == set(TITLES)
    for p in TIMED:
        if p.delta is not None:
            assert p.cpcer - p.cer == pytest.approx(p.delta, abs=0.011), p
    assert [len(timed(name)) for name in ("AliMeeting-Test", "AMI-SDM", "MLC-SLM-Eval-2", "Video-Internal-Eval")] == [
        17, 3, 3, 3,
    ]  # fmt: skip


def test_only_the_last_scored_stage_of_each_set_and_mode_is_latest():
    rows = [row(stage=1, mode="asr"), row(stage=1), row(stage=4), row(stage=3, test_set="toy"), row("b-stage2", 2)]
    assert [(r["run"], r["stage"], r["mode"]) for r in latest(rows)] == [
        ("slm-stage4", 1, "asr"), ("slm-stage4", 4, "no"), ("slm-stage4", 3, "no"), ("b-stage2", 2, "no"),
    ]  # fmt: skip
