"""Published rows of systems with times, against the tables as the model card of Speaker-Reasoner prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.evaluation.paper_results import PUBLISHED
from pipeline.evaluation.timed_results import CARD, CLIP, SESSION, TIMED, UNSTATED

# AISHELL4-Eval, then Alimeeting-Far; DER CER cpCER Δcp each, without DER where the system gives no times.
SEGMENTS = """
Pyannote3.1 + Paraformer 8.10 19.18 26.24 7.06 19.13 30.15 45.39 15.24
Gemini-2.5-Pro 36.07 19.81 25.11 5.30 56.39 30.16 39.29 9.13
Qwen3-Omni-30B-A3B-Instruct 32.42 14.46 22.22 7.76 37.15 25.40 36.28 10.88
Qwen2.5-Omni-7B 85.68 33.37 60.45 27.08 91.77 38.13 73.38 35.25
VibeVoice-ASR 10.88 22.30 26.30 4.00 20.70 34.67 40.54 5.87
TagSpeech-Alimeeting 37.51 35.70 53.44 17.74 52.46 47.11 68.74 21.63
Qwen3-Omni + SOT sft (Stage 1) 17.65 19.59 1.94 24.24 26.03 1.79
Speaker-Reasoner Base (Stage 1) 6.24 14.04 16.54 2.50 8.96 21.16 22.64 1.48
Speaker-Reasoner Multi-turn (Stage 2) 5.19 13.83 14.93 1.10 7.47 20.34 20.29 -0.05
Speaker-Reasoner Multi-turn w/ SAC (Stage 3) 5.26 13.83 14.73 0.90 7.34 20.57 20.43 -0.14
Speaker-Reasoner Base 7B 12.00 15.65 25.60 9.95 18.43 24.97 38.12 13.15
Speaker-Reasoner Multi-turn 7B 9.38 15.31 22.91 7.60 15.56 24.33 34.81 10.48
"""
SPEAKERLM = {212.25: "17.75 26.14 8.39 18.63 32.22 13.59", 7638.95: "17.17 18.37 1.20 13.97 16.05 2.08"}

# WER cpWER DER Δcp of each test set, in the card's order.
DOMAINS = (
    "videointernaleval", "videointernalevalzh", "videointernalevalen", "aishell4", "alimeeting", "amisdm",
    "mlcslmeval1", "mlcslmeval2",
)  # fmt: skip
MULTI_DOMAIN = """
Gemini-2.5-Pro 22.47 44.13 74.05 21.66 18.28 40.97 69.35 22.69 55.40 68.82 100.95 13.42 19.81 25.11 36.07 5.30 30.16 \
39.29 56.39 9.13 31.66 39.98 50.28 8.32 36.87 41.88 42.33 5.01 26.73 32.19 46.19 5.46
VibeVoice-ASR 16.45 58.60 47.18 42.15 17.70 62.06 47.65 44.36 7.11 32.65 44.62 25.54 22.19 26.16 8.94 3.97 34.31 \
39.92 19.62 5.61 30.53 35.86 21.00 5.33 10.30 13.45 6.27 3.15 7.97 11.38 3.14 3.41
Speaker-Reasoner Multi-turn, 4,194 h 6.27 24.43 15.33 18.16 6.50 25.81 16.68 19.31 4.42 16.31 7.58 11.89 7.13 8.14 \
3.38 1.01 19.72 19.92 6.70 0.20 23.29 25.16 13.56 1.87 9.17 11.74 4.76 2.57 8.54 11.76 4.35 3.22
"""


def printed(text: str, sets: int) -> Iterator[tuple[str, list[list[float]]]]:
    """Yield the system of each line and its figures by test set."""
    for line in text.strip().split("\n"):
        end = re.search(r"(?: -?\d+\.\d\d)+$", line)
        numbers = [float(n) for n in end[0].split()]
        size = len(numbers) // sets
        yield line[: end.start()], [numbers[i * size : (i + 1) * size] for i in range(sets)]


def test_rows_of_segments_are_those_of_the_card():
    expected = {
        (system, test_set): tuple([None] * (4 - len(figures)) + figures)
        for system, cells in printed(SEGMENTS, 2)
        for test_set, figures in zip(("aishell4", "alimeeting"), cells, strict=True)
    }
    rows = [p for p in TIMED if p.unit == CLIP and p.source == CARD]
    assert {(p.system, p.test_set): (p.der, p.cer, p.cpcer, p.delta) for p in rows} == expected
    assert len(rows) == len(expected) == 24


def test_rows_of_domains_are_those_of_the_card():
    expected = {
        (system, test_set): tuple(figures)
        for system, cells in printed(MULTI_DOMAIN, 8)
        for test_set, figures in zip(DOMAINS, cells, strict=True)
    }
    rows = [p for p in TIMED if p.unit == UNSTATED and p.cer is not None]
    assert {(p.system, p.test_set): (p.cer, p.cpcer, p.der, p.delta) for p in rows} == expected
    assert len(rows) == len(expected) == 24


def test_rows_of_sessions_and_attributes_are_those_of_the_card():
    long_form = {p.system: (p.der, p.cpcer) for p in TIMED if p.unit == SESSION}
    assert long_form == {
        "Gemini-2.5-Pro": (15.32, 31.59), "Speaker-Reasoner Multi-turn w/ SAC": (21.60, 36.20),
    }  # fmt: skip
    attributes = {p.system: (p.gender, p.count) for p in TIMED if p.gender is not None}
    assert attributes == {
        "Gemini-2.5-Pro": (94.80, 67.03), "Qwen3-Omni-30B-A3B-Instruct": (97.12, 60.49),
        "Speaker-Reasoner Multi-turn": (96.80, 69.03),
    }  # fmt: skip


def test_the_card_s_rows_of_speakerlm_are_the_paper_s():
    for hours, text in SPEAKERLM.items():
        numbers = [float(n) for n in text.split()]
        for test_set, figures in (("aishell4", numbers[:3]), ("alimeeting", numbers[3:])):
            (found,) = [
                p for p in PUBLISHED
                if (p.test_set, p.mode, p.hours, p.extractor) == (test_set, "no", hours, "ERes2NetV2")
            ]  # fmt: skip
            assert [found.cer, found.speaker_cer, found.delta] == figures
