"""The HTML page: whole, self-contained, escaped, worst first."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from pipeline.evaluation.charts import loss_chart
from pipeline.evaluation.error_analysis import analyse_session, spans
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.report import analyse_sessions, names_table, write_report
from pipeline.evaluation.score_decoded import publish
from tests.support.scoring import random_session

NONE = profile("none")
VOID = {"meta", "br", "line", "rect", "path", "use", "image"}


class Page(HTMLParser):
    """Checks nesting; keeps addresses, tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def decoded(folder: Path, stage: int, modes=("no", "match", "over")) -> Path:
    folder.mkdir(parents=True)
    for mode in modes:
        lines = []
        for i in range(6):
            s = random_session(100 * stage + i + 1)
            names = sorted({x.speaker for x in s.reference}) if mode != "no" else []
            raw = "\n".join(f"{x.speaker}: {x.text}" for x in s.hypothesis)
            reference = [{"speaker": x.speaker, "start": x.start, "end": x.end, "text": x.text} for x in s.reference]
            lines.append({
                "key": f"k{i}", "session": f"m{i % 3}", "corpus": "toy", "split": "test", "mode": mode, "raw": raw,
                "n_ov": 3 if mode == "over" else None, "names": names, "reference": reference,
            })  # fmt: skip
        (folder / f"{mode}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    about = {"run": f"slm-stage{stage}", "stage": stage, "test_set": "AliMeeting", "extractor": "CAM++", "hours": 212.0}
    (folder / "decode.json").write_text(json.dumps({"about": about}))
    return folder


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
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert page.tags.count("audio") == 3
    assert page.text.count("Results") == 1
    assert "paper: SpeakerLM, 212\u00a0h" in page.text
    ids = re.findall(r'\bid="([^"]+)"', (tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids))


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
    assert lines[0] == ("no", 2, None, None, None, 50.0, 100.0, None)
    assert lines[1] == ("match", 2, 50.0, 0.0, 0.0, 50.0, 100.0, None)
    assert names_table([]) is None


def test_text_from_transcripts_is_escaped(tmp_path: Path):
    bad = "<script>alert(1)</script>"
    ref = (SegLstRow("s", bad, bad, 0.0, 1.0),)
    found = analyse_sessions([SessionTranscript(bad, ref, (SegLstRow("s", bad, bad + "x"),))], bad, NONE)
    write_report(tmp_path / "r.html", [], sets=[found], title=bad)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Page(text)


def test_one_stream_is_called_all_speakers(tmp_path: Path):
    plain = SessionTranscript("s", (SegLstRow("s", None, "一二", 0.0, 1.0),), (SegLstRow("s", None, "一"),))
    write_report(tmp_path / "r.html", [], sets=[analyse_sessions([plain], "x", NONE, "asr")])
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.text.count("all speakers") == 5  # two lanes, their bars, the alignment
    assert "(no speaker)" not in page.text


def test_report_without_rows_is_a_page(tmp_path: Path):
    write_report(tmp_path / "r.html", [])
    Page((tmp_path / "r.html").read_text(encoding="utf-8"))


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
    from pipeline.evaluation.report import stage_series

    rows = [
        {"run": "exp/stage1", "mode": "no", "n_ov": None, "stage": stage, "cpcer": 10.0 * stage + seed, "test_set": "a"}
        for seed in (0, 1)
        for stage in (1, 2)
    ]
    series = stage_series(rows, "cpcer")
    assert list(series.values()) == [([1, 2], [10.0, 20.0]), ([1, 2], [11.0, 21.0])]
    assert len(series) == 2
