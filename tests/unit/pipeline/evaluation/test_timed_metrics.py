"""JER, tcpCER and boundary error against pyannote.metrics, meeteval and plain definitions."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import meeteval
import pytest
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import JaccardErrorRate

from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.metrics.tcp_cer import COLLAR
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.session_scores import score_session, total
from pipeline.evaluation.speaker_metrics import score_speakers
from tests.support.scoring import random_session

NAMES = ["jer", "tcp-cer", "boundary-error"]
TITLES = ["jer", "tcp-cer", "boundary-error, s"]


def timed_session(seed: int) -> SessionTranscript:
    """A session whose turns have times on both sides; some errors are larger than the collar."""
    rng = random.Random(seed)
    drawn = random_session(seed)
    clock, hypothesis = 0.0, []
    for row in drawn.hypothesis:
        start = max(0.0, clock + rng.choice([-0.8, 0.0, 0.4, 9.0]))
        clock = start + 0.2 * max(1, len(row.text))
        hypothesis.append(replace(row, start=round(start, 2), end=round(clock, 2)))
    return replace(drawn, hypothesis=tuple(hypothesis))


SESSIONS = [s for seed in range(40) if (s := timed_session(seed)).reference]


def figures(sessions: list[SessionTranscript]) -> dict[str, float | None]:
    metrics = load_metrics(NAMES)
    sums = total([score_session(s, profile("none"), metrics=metrics) for s in sessions]).metrics
    return {name: rate and rate.figure for name, rate in sums.items()}


def test_jer_is_that_of_pyannote():
    metric = JaccardErrorRate()
    for s in SESSIONS:
        sides = []
        for rows in (s.reference, s.hypothesis):
            made = Annotation()
            for i, r in enumerate(rows):
                if r.end > r.start:
                    made[Segment(r.start, r.end), i] = r.speaker
            sides.append(made.support())
        metric(*sides, uem=Timeline([Segment(0, 1000)]))
    assert figures(SESSIONS)["jer"] == pytest.approx(100 * abs(metric))
    assert 5 < 100 * abs(metric) < 95


def test_tcp_cer_is_that_of_meeteval():
    errors = length = differ = 0
    for s in SESSIONS:
        sides = []
        for rows in (s.reference, s.hypothesis):
            sides.append(
                meeteval.io.SegLST([
                    {"session_id": "s", "speaker": r.speaker, "start_time": r.start, "end_time": r.end,
                     "words": " ".join(r.text)} for r in rows if r.text
                ])
            )  # fmt: skip
        found = meeteval.wer.tcpwer(*sides, collar=COLLAR)["s"] if len(sides[1]) else None
        errors += found.errors if found else sum(len(r.text) for r in s.reference)
        length += sum(len(r.text) for r in s.reference)
        differ += bool(found) and found.errors != meeteval.wer.cpwer(*sides)["s"].errors
    assert figures(SESSIONS)["tcp-cer"] == pytest.approx(100 * errors / length)
    assert differ > 5


def plain_boundaries(ref: list[tuple[float, float]], hyp: list[tuple[float, float]]) -> tuple[float, int]:
    """Every one-to-one matching tried."""

    def share(a, b):
        common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
        return common / (a[1] - a[0] + b[1] - b[0] - common)

    best = (-1.0, 0.0, 0)
    for chosen in itertools.permutations([*range(len(hyp)), *[None] * len(ref)], len(ref)):
        pairs = [(a, hyp[j]) for a, j in zip(ref, chosen, strict=True) if j is not None and share(a, hyp[j]) > 0]
        error = sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in pairs)
        best = max(best, (sum(share(a, b) for a, b in pairs), error, 2 * len(pairs)))
    return best[1], best[2]


def test_boundary_error_is_its_plain_definition():
    rng = random.Random(7)
    (metric,) = load_metrics(["boundary_error"])

    def spans(n):
        return [(t := rng.uniform(0, 8), t + rng.uniform(0.3, 3)) for _ in range(n)]

    for _ in range(20):
        ref, hyp = spans(3), spans(rng.randrange(4))
        rows = [[SegLstRow("x", "A", "好", *span) for span in side] for side in (ref, hyp)]
        assert metric.score(*rows, list) == pytest.approx(plain_boundaries(ref, hyp))


def test_boundary_error_is_in_seconds():
    rows = [SegLstRow("x", "A", "好", 1.0, 3.0), SegLstRow("x", "B", "好", 3.0, 4.0)]
    heard = [replace(rows[0], start=1.5), replace(rows[1], speaker="A", end=4.3)]
    assert figures([SessionTranscript("x", tuple(rows), tuple(heard))])["boundary-error, s"] == pytest.approx(0.2)


def test_without_times_they_are_undefined():
    rows = (SegLstRow("x", "A", "你好", 0.0, 1.0),)
    untimed = SessionTranscript("x", rows, (SegLstRow("x", "A", "你好"),))
    assert figures([untimed]) == dict.fromkeys(TITLES)
    assert figures([untimed, SESSIONS[0]]) == dict.fromkeys(TITLES)


def test_text_without_a_speaker_is_all_errors_of_tcp_cer():
    rows = (SegLstRow("x", "A", "你好", 0.0, 1.0),)
    found = SessionTranscript("x", rows, (replace(rows[0], speaker=None),))
    assert figures([found])["tcp-cer"] == 200.0


def test_nothing_heard_is_all_wrong():
    rows = (SegLstRow("x", "A", "你好", 0.0, 1.0),)
    assert figures([SessionTranscript("x", rows, ())]) == dict(zip(TITLES, (100.0, 100.0, None), strict=True))


def test_speaker_count_error_is_the_mean_absolute_difference():
    a, b, c = (SegLstRow("x", name, "好") for name in "abc")
    sessions = [
        SessionTranscript("1", (a,), (a, b, c)),
        SessionTranscript("2", (a, b), (a,)),
        SessionTranscript("3", (a,), (b,)),
    ]
    found = score_speakers(sessions)
    assert (found.count_error, found.count_accuracy) == (1.0, pytest.approx(100 / 3))
    assert score_speakers([]).count_error is None


def test_der_and_speaker_count_are_those_of_every_report():
    metrics = load_metrics(["der", "speaker_count"])
    sums = total([score_session(s, profile("none"), metrics=metrics) for s in SESSIONS]).metrics
    found = score_speakers(SESSIONS)
    assert sums["der"].figure == pytest.approx(found.der.percent)
    assert sums["speaker-count"].figure == pytest.approx(found.count_accuracy)


def test_text_in_silence_is_counted_apart():
    said = (SegLstRow("x", "A", "你好", 2.0, 4.0),)
    heard = (
        SegLstRow("x", "A", "你好", 2.1, 3.9), SegLstRow("x", "A", "谢谢", 0.0, 1.4),
        SegLstRow("x", "B", "嗯", 4.4, 9.0), SegLstRow("x", "B", "字幕", 4.6, 9.0), SegLstRow("x", None, "杂"),
    )  # fmt: skip
    whole = SessionTranscript("x", said, heard)
    empty = SessionTranscript("y", (SegLstRow("y", "A", "……", 0.0, 9.0),), (SegLstRow("y", "A", "多谢观看"),))
    (metric,) = load_metrics(["silence"])
    scores = [score_session(s, profile("paper-zh"), metrics=[metric]) for s in (whole, empty)]
    assert [(r.errors, r.length) for s in scores for r in s.metrics.values()] == [(4, 2), (4, 0)]
    assert total(scores).metrics["silence"].figure == 400.0
    untimed = replace(whole, hypothesis=(replace(heard[0], start=None, end=None),))
    assert score_session(untimed, profile("paper-zh"), metrics=[metric]).metrics == {"silence": None}
