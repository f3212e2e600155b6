"""The HTML page: whole, self-contained, escaped, worst first."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation import pairwise
from pipeline.evaluation.bootstrap import resample
from pipeline.evaluation.breakdown import Measured, facts_of
from pipeline.evaluation.charts import loss_chart
from pipeline.evaluation.error_analysis import analyse_session, spans
from pipeline.evaluation.metrics import describe
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.report import analyse_sessions, names_table, with_other, write_report
from pipeline.evaluation.score_decoded import publish
from pipeline.evaluation.scores import RowLabel, make_row
from pipeline.evaluation.session_scores import score_session
from pipeline.evaluation.timeline import timeline
from tests.support.pages import Page, checked_page
from tests.support.results import decoded
from tests.support.scoring import random_session

NONE = profile("none")


def test_everything_is_published_and_the_page_is_self_contained(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "train.jsonl").write_text(
        "".join(f'{{"step": {i}, "loss": {3 / i}}}\n' for i in range(1, 60)) + '{"step": 60'
    )
    (run / "validation.jsonl").write_text('{"step": 0, "loss": 3.0}\n{"step": 50, "loss": 1.0}\n')
    folders = [decoded(tmp_path / f"stage{n}", n) for n in (2, 3, 4)]
    rows = publish(folders, tmp_path / "out", [run], show=2, audio=lambda key: b"fLaC" + key.encode(), embed=1)
    assert len(rows) == 9
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {
        "scores.json",
        "report.html",
        "tables.md",
        "results.csv",
        "results.json",
        "stages.csv",
        "scaling.csv",
    }
    page = checked_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("audio") == 3
    assert "paper: SpeakerLM, 212\u00a0h" in page.text
    assert names >= {"breakdown.csv", "pairs.csv", "breakdown.json", "pairs.json"}


def test_rows_are_compared_once_for_table_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[tuple[int, str]] = []

    def counted(scores: Any, figure: str, replicates: int) -> Any:
        drawn.append((id(scores), figure))
        return resample(scores, figure, 50)

    monkeypatch.setattr(pairwise, "resample", counted)
    publish([decoded(tmp_path / "stage4", 4, ("no", "match"))], tmp_path / "out", show=1)
    assert len(drawn) == len(set(drawn)) > 0
    assert (tmp_path / "out" / "pairs.json").is_file()
    page = checked_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert page.having("section", id="pairs")


def test_the_page_begins_with_three_numbers_and_a_chart(tmp_path: Path):
    rows = publish([decoded(tmp_path / f"stage{n}", n) for n in (3, 4)], tmp_path / "out", show=1)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = checked_page(text)
    tiles = page.having(cls="tile")
    assert len(tiles) == 3
    final = {r["mode"]: r for r in rows if r["stage"] == 4}
    for figure, mode in (("cer", "no"), ("cpcer", "no"), ("sacer", "match")):
        assert f">{final[mode][figure]:.1f}<small>" in text
    assert text.index('class="tile"') < text.index('class="chart"') < text.index("<table")
    chart = page.having("svg", cls="chart")[0]
    assert "CER, No-Regist: " in chart["aria-label"]
    assert "by stage" in chart["aria-label"]


def test_tables_of_stages_are_folded_and_the_best_of_a_column_is_marked(tmp_path: Path):
    rows = publish([decoded(tmp_path / f"stage{n}", n, ("no",)) for n in (3, 4)], tmp_path / "out", show=1)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    folded = text[text.index("<details><summary>After each stage") :]
    folded = folded[: folded.index("</details>")]
    best = re.findall(r'<b class="best" title="best">([^<]+)</b>', folded)
    wanted = [f"{min(r[k] for r in rows):.2f}" for k in ("cer", "cpcer", "delta_cp")]
    assert best == wanted
    shown = text[text.index("<h2>Results") : text.index("<details")]
    assert f">{rows[0]['cer']:.2f}" not in shown  # of an earlier stage
    assert "best" not in re.findall(r'<tr class="published">.*?</tr>', shown, re.S)[0]


def two_systems() -> tuple[list[SessionTranscript], list[SessionTranscript]]:
    """The same sessions with two hypotheses without times: one with other names, one without the last turn."""
    made = [random_session(i) for i in range(1, 13)]
    untimed = [tuple(replace(x, start=None, end=None, speaker=f"x{x.speaker}") for x in s.reference) for s in made]
    first = [replace(s, id=f"s{i}", hypothesis=h) for i, (s, h) in enumerate(zip(made, untimed, strict=True))]
    return first, [replace(s, hypothesis=s.hypothesis[:-1] or s.hypothesis) for s in first]


def test_one_timeline_has_the_reference_and_two_systems(tmp_path: Path):
    a, b = two_systems()
    found = with_other(
        replace(analyse_sessions(a, "x", NONE, show=2, embed=1, audio=lambda _: b"fLaC"), name="A"), "B", b, NONE
    )
    write_report(tmp_path / "r.html", [], sets=[found])
    page = checked_page((tmp_path / "r.html").read_text(encoding="utf-8"))
    lanes = timeline(max(found.details, key=lambda d: len(d.hypothesis)), {}, "A").lanes
    assert list(dict.fromkeys(x.group.partition(" (")[0] for x in lanes)) == ["reference", "A", "B"]
    assert len(page.having(cls="time")) == 2
    assert len(page.having(cls="plays")) == 1  # the one with audio
    assert all("data-at" in bar for bar in page.having(cls="bar"))
    assert page.having("button", cls="turn")
    assert "data-clip" in page.having("details", cls="clip")[0]


def test_a_person_has_one_colour_in_all_timelines_of_a_page(tmp_path: Path):
    publish([decoded(tmp_path / "stage4", 4)], tmp_path / "out")
    page = checked_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    seen: dict[str, set[str]] = {}
    for bar in page.having(cls="bar"):
        if "soft" not in bar["style"]:
            seen.setdefault(bar["title"].partition(",")[0], set()).add(bar["style"].partition("--who:")[2])
    assert len(seen) > 2
    registered = {x.speaker for i in range(6) for x in random_session(401 + i).reference}
    assert registered & seen.keys()
    assert all(len(seen[name]) == 1 for name in registered & seen.keys() if not name.startswith("spk"))


def test_a_hypothesis_speaker_has_one_colour_in_lanes_and_turns(tmp_path: Path):
    """That of the reference speaker that it was assigned to; else none, also if another session has that name."""
    reference = (SegLstRow("s", "A", "一二三", 0.0, 2.0), SegLstRow("s", "B", "四五", 2.0, 4.0))
    heard = (
        SegLstRow("s", "B", "一二三", 0.0, 2.0),
        SegLstRow("s", "x", "四五", 2.0, None),
        SegLstRow("s", "A", "九", 4, 5),
    )
    found = analyse_sessions([SessionTranscript("s", reference, heard)], "x", NONE)
    write_report(tmp_path / "r.html", [], sets=[found])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    of_turns = re.findall(r'<b style="color:([^"]+)">(\w)</b>', text)
    (a, _), (b, _), *rest = of_turns
    assert rest == [(a, "B"), (b, "x"), ("var(--soft)", "A")]
    lanes = {(x.group.partition(" (")[0], x.name): x.colour for x in timeline(found.details[0], {"A": a, "B": b}).lanes}
    assert lanes["hypothesis", "B"] == a
    assert lanes["hypothesis", "x"] == b


def test_any_two_rows_can_be_chosen_and_figures_are_split(tmp_path: Path):
    publish([decoded(tmp_path / f"stage{n}", n, ("no", "match")) for n in (3, 4)], tmp_path / "out", show=1)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = checked_page(text)
    choices = page.having("select")
    assert len(choices) == 2
    labels = {a["for"] for a in page.having("label")}
    assert {c["id"] for c in choices} == labels
    options = [a["value"] for a in page.having("option")]
    assert len(options) == 2 * len(set(options))
    pairs = {(a["data-a"], a["data-b"]) for _, a in page.elements if "data-a" in a}
    assert pairs
    assert {name for pair in pairs for name in pair} == set(options)
    assert "By session" in page.text
    assert "p, bootstrap" in page.text


def test_a_metric_that_was_asked_for_is_explained_and_split(tmp_path: Path):
    publish([decoded(tmp_path / "stage4", 4, ("no",))], tmp_path / "out", show=1, metrics=["speaker-count", "orc-cer"])
    page = checked_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "share of sessions with the right number of speakers" in page.text
    further = page.text[page.text.index("Further metrics") : page.text.index("Breakdown", page.text.index("Further"))]
    assert "No-Regist" in further
    chart = page.having("svg", cls="chart")[0]["aria-label"]
    assert "CER, No-Regist: " in chart  # one system, without stages to compare: bars, named by mode
    assert "slm-stage4" not in chart
    head = (tmp_path / "out" / "breakdown.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.endswith("speaker-count,orc-cer")
    assert describe("boundary-error, s").startswith("Boundary error")
    assert describe("metric-of-another-machine") is None


def test_a_skipped_step_has_no_point_in_the_loss_chart(tmp_path: Path):
    rows = [f'{{"step": {i}, "loss": {"null" if i in (1, 5) else 3 / i}}}\n' for i in range(1, 10)]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    (tmp_path / "validation.jsonl").write_text('{"step": 0, "loss": null}\n{"step": 8, "loss": 1.0}\n')
    with_gaps = loss_chart(tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(r for r in rows if "null" not in r))
    (tmp_path / "validation.jsonl").write_text('{"step": 8, "loss": 1.0}\n')
    assert with_gaps is not None
    assert with_gaps == loss_chart(tmp_path)


def test_sessions_are_sorted_by_error():
    sessions = [random_session(i, noise=0.1 + 0.02 * i) for i in range(1, 15)]
    found = analyse_sessions(sessions, "x", NONE, show=5)
    rates = [s.cpcer.rate for s in (*(d.score for d in found.details), *found.rest)]
    assert rates == sorted(rates, reverse=True)
    assert (len(found.details), len(found.rest)) == (5, 9)


def test_name_figures_are_undefined_without_registration():
    plain = SessionTranscript("s", (SegLstRow("s", "A", "x"),), (SegLstRow("s", "B", "x"), SegLstRow("s", None, "y")))
    registered = SessionTranscript("s", plain.reference, plain.hypothesis, names=("A", "B"))
    lines = names_table(
        [analyse_sessions([plain], "no", NONE), analyse_sessions([registered], "match", NONE, "match", True)]
    ).lines
    assert lines[0] == ("no", 2, None, None, None, 50.0, 100.0, 0.0, None)
    assert lines[1] == ("match", 2, 50.0, 0.0, 0.0, 50.0, 100.0, 0.0, None)
    assert names_table([]) is None


def test_text_from_transcripts_is_escaped(tmp_path: Path):
    bad = "<script>alert(1)</script>"
    ref = (SegLstRow("s", bad, bad, 0.0, 1.0),)
    found = analyse_sessions([SessionTranscript(bad, ref, (SegLstRow("s", bad, bad + "x"),))], bad, NONE)
    write_report(tmp_path / "r.html", [], sets=[found], title=bad)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert bad not in text
    assert text.count("<script") == 1  # the page's own
    assert "&lt;script&gt;" in text
    checked_page(text)


def test_one_stream_is_called_all_speakers(tmp_path: Path):
    plain = SessionTranscript("s", (SegLstRow("s", None, "一二", 0.0, 1.0),), (SegLstRow("s", None, "一"),))
    write_report(tmp_path / "r.html", [], sets=[analyse_sessions([plain], "x", NONE, "asr")])
    page = checked_page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.text.count("all speakers") == 3  # two lanes, the alignment
    assert [b["title"].partition(",")[0] for b in page.having(cls="bar")] == ["all speakers"] * 2
    assert "(no speaker)" not in page.text


@pytest.mark.parametrize("seed", range(8))
def test_any_sessions_give_a_page(tmp_path: Path, seed: int):
    """Turns without speaker, without times or with a start alone, on both sides, with a second system and without."""
    rng = random.Random(seed)

    def damaged(rows: tuple[SegLstRow, ...]) -> tuple[SegLstRow, ...]:
        kinds = ({}, {"speaker": None}, {"start": None, "end": None}, {"end": None}, {"text": ""})
        return tuple(replace(r, **rng.choice(kinds)) for r in rows if rng.random() < 0.9)

    made = [random_session(10 * seed + i) for i in range(6)]
    sessions = [
        replace(
            s,
            id=f"s{i}",
            group=f"m{i // 2}",
            reference=damaged(s.reference) or s.reference,
            hypothesis=damaged(s.hypothesis),
        )
        for i, s in enumerate(made)
    ]
    measured = []
    for name in ("a", "b"):
        scores = tuple(score_session(s, NONE) for s in sessions)
        row = make_row(scores, RowLabel(name, None, "toy", "?", "no"), NONE, 50)
        measured.append(Measured(row, scores, tuple(facts_of(s) for s in sessions)))
    first = analyse_sessions(sessions, "x", NONE, audio=lambda _: b"fLaC")
    other = [replace(s, hypothesis=damaged(s.hypothesis)) for s in sessions]
    sets = [first, with_other(first, "b", other, NONE)]
    write_report(tmp_path / "r.html", [m.row for m in measured], sets=sets, measured=measured)
    page = checked_page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.tags.count("audio") == 10


def test_report_without_rows_is_a_page(tmp_path: Path):
    write_report(tmp_path / "r.html", [])
    checked_page((tmp_path / "r.html").read_text(encoding="utf-8"))


def test_spans_show_every_token_once():
    found = spans(list("abcxd"), list("abyde"))
    assert "".join(s.reference for s in found) == "abcxd"
    assert "".join(s.hypothesis for s in found) == "abyde"
    assert found[0].kind == "correct"


def test_errors_of_the_alignments_sum_to_the_score():
    for seed in range(40):
        s = random_session(seed)
        for by_name in (False, True):
            found = analyse_session(s, NONE, "match" if by_name else "no", by_name)
            edits = found.score.sacer if by_name else found.score.cpcer
            assert sum(p.errors for p in found.pairs) == edits.errors
            assert sum(p.tokens for p in found.pairs) == edits.reference


def test_confusion_counts_every_token_once():
    s = random_session(3)
    found = analyse_session(s, NONE, "no", False)
    assert sum(sum(r) for r in found.confusion.counts[:-1]) == sum(len(x.text) for x in s.reference)
    said = sum(len(x.text) for x in s.hypothesis)
    assert sum(n for r in found.confusion.counts for n in r[:-1]) == said
    assert found.confusion.columns[-1] == "missed"


def test_untimed_hypothesis_gets_times_from_the_alignment():
    reference = (SegLstRow("s", "A", "一二三四", 0.0, 4.0), SegLstRow("s", "B", "五六", 4.0, 6.0))
    hypothesis = (SegLstRow("s", "x", "二三"), SegLstRow("s", "y", "五六"), SegLstRow("s", "z", "九"))
    found = analyse_session(SessionTranscript("s", reference, hypothesis), NONE, "no", False)
    assert found.estimated
    assert [(b.speaker, b.start, b.end) for b in found.hypothesis_bars] == [("x", 1.0, 3.0), ("y", 4.0, 6.0)]


def test_words_are_separated_in_an_alignment():
    reference, hypothesis = (SegLstRow("s", "A", "good day all", 0.0, 1.0),), (SegLstRow("s", "A", "good day"),)
    found = analyse_session(SessionTranscript("s", reference, hypothesis), profile("en"), "no", False)
    assert [s.reference for s in found.pairs[0].spans] == ["good day", "all"]


def test_a_label_has_one_colour_in_all_charts_of_a_page():
    from pipeline.evaluation.charts import COLOURS, line_chart

    both = line_chart({"a": ([1, 2], [3.0, 4.0]), "b": ([1, 2], [5.0, 6.0])}, "x", "y", colour_of=["a", "b"])
    alone = line_chart({"b": ([1, 2], [5.0, 6.0])}, "x", "y", colour_of=["a", "b"])
    assert COLOURS[0] in both
    assert COLOURS[1] in alone
    assert COLOURS[0] not in alone


def test_runs_of_one_name_keep_their_own_intervals(tmp_path: Path):
    """Two seeds of one recipe, of which one got a turn wrong."""
    folders = [decoded(tmp_path / f"seed{n}", 4) for n in (1, 2)]
    for file in folders[1].glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**x, "raw": x["raw"] + " 多多多"}) + "\n" for x in lines))
    rows = publish(folders, tmp_path / "out", embed=0)
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    wanted = [f"{r['ci']['cer'][0]:.2f} – {r['ci']['cer'][1]:.2f}" for r in rows if r["mode"] == "no"]
    assert len(set(wanted)) == 2
    assert all(interval in page.text for interval in wanted), page.text


def test_runs_of_one_name_are_separate_lines():
    from pipeline.evaluation.report_charts import stage_series

    rows = [
        {"run": "exp/stage1", "mode": "no", "n_ov": None, "stage": stage, "cpcer": 10.0 * stage + seed, "test_set": "a"}
        for seed in (0, 1)
        for stage in (1, 2)
    ]
    series = stage_series(rows, "cpcer")
    assert list(series.values()) == [([1, 2], [10.0, 20.0]), ([1, 2], [11.0, 21.0])]
    assert len(series) == 2
