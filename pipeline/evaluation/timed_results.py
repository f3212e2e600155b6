"""Published results of systems that give times: DER, rates, speaker attributes. Copied, never recomputed; in percent.

Sources: the model card of Speaker-Reasoner (ASLP-lab/Speaker-Reasoner, arXiv 2604.03074) with its baselines, and
SoulX-Transcriber (arXiv 2606.02400). Collar, overlap and normaliser of their figures are not stated. The rates of the
multi-domain table are printed as WER, for Chinese sets too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.evaluation.paper_results import plain_name

CARD = "model card of Speaker-Reasoner"
SOULX = "arXiv 2606.02400"
CLIP, FIVE_MINUTES, SESSION, UNSTATED = "clip", "5 minutes", "session", "not stated"

TITLES = {
    "aishell4": "AISHELL-4",
    "alimeeting": "AliMeeting",
    "amisdm": "AMI-SDM",
    "mlcslmeval1": "MLC-SLM-Eval-1",
    "mlcslmeval2": "MLC-SLM-Eval-2",
    "videointernalevalzh": "Video-Internal-Eval-zh",
    "videointernalevalen": "Video-Internal-Eval-en",
    "videointernaleval": "Video-Internal-Eval",
}


@dataclass(frozen=True, slots=True)
class TimedResult:
    """One published row; None where it is not printed."""

    system: str
    test_set: str
    unit: str  # what is scored: clips of 40 to 50 s, five minutes, sessions
    source: str
    der: float | None = None
    cer: float | None = None
    cpcer: float | None = None
    delta: float | None = None
    gender: float | None = None  # accuracy
    count: float | None = None  # accuracy of the number of speakers


# DER CER cpCER Δcp of AISHELL4-Eval and of Alimeeting-Far; systems without times have no DER.
_SEGMENTED = """
Pyannote3.1 + Paraformer | 8.10 19.18 26.24 7.06 | 19.13 30.15 45.39 15.24
Gemini-2.5-Pro | 36.07 19.81 25.11 5.30 | 56.39 30.16 39.29 9.13
Qwen3-Omni-30B-A3B-Instruct | 32.42 14.46 22.22 7.76 | 37.15 25.40 36.28 10.88
Qwen2.5-Omni-7B | 85.68 33.37 60.45 27.08 | 91.77 38.13 73.38 35.25
VibeVoice-ASR | 10.88 22.30 26.30 4.00 | 20.70 34.67 40.54 5.87
TagSpeech-Alimeeting | 37.51 35.70 53.44 17.74 | 52.46 47.11 68.74 21.63
Qwen3-Omni + SOT sft (Stage 1) | - 17.65 19.59 1.94 | - 24.24 26.03 1.79
Speaker-Reasoner Base (Stage 1) | 6.24 14.04 16.54 2.50 | 8.96 21.16 22.64 1.48
Speaker-Reasoner Multi-turn (Stage 2) | 5.19 13.83 14.93 1.10 | 7.47 20.34 20.29 -0.05
Speaker-Reasoner Multi-turn w/ SAC (Stage 3) | 5.26 13.83 14.73 0.90 | 7.34 20.57 20.43 -0.14
Speaker-Reasoner Base 7B | 12.00 15.65 25.60 9.95 | 18.43 24.97 38.12 13.15
Speaker-Reasoner Multi-turn 7B | 9.38 15.31 22.91 7.60 | 15.56 24.33 34.81 10.48
"""

# WER cpWER DER Δcp.
_DOMAINS = (
    "videointernaleval", "videointernalevalzh", "videointernalevalen", "aishell4", "alimeeting", "amisdm",
    "mlcslmeval1", "mlcslmeval2",
)  # fmt: skip
_MULTI_DOMAIN = """
Gemini-2.5-Pro | 22.47 44.13 74.05 21.66 | 18.28 40.97 69.35 22.69 | 55.40 68.82 100.95 13.42 | 19.81 25.11 36.07 5.30 \
| 30.16 39.29 56.39 9.13 | 31.66 39.98 50.28 8.32 | 36.87 41.88 42.33 5.01 | 26.73 32.19 46.19 5.46
VibeVoice-ASR | 16.45 58.60 47.18 42.15 | 17.70 62.06 47.65 44.36 | 7.11 32.65 44.62 25.54 | 22.19 26.16 8.94 3.97 \
| 34.31 39.92 19.62 5.61 | 30.53 35.86 21.00 5.33 | 10.30 13.45 6.27 3.15 | 7.97 11.38 3.14 3.41
Speaker-Reasoner Multi-turn, 4,194 h | 6.27 24.43 15.33 18.16 | 6.50 25.81 16.68 19.31 | 4.42 16.31 7.58 11.89 \
| 7.13 8.14 3.38 1.01 | 19.72 19.92 6.70 0.20 | 23.29 25.16 13.56 1.87 | 9.17 11.74 4.76 2.57 | 8.54 11.76 4.35 3.22
"""

_OTHERS = (
    TimedResult("SoulX-Transcriber", "aishell4", CLIP, SOULX, 2.89, 14.16, 13.90),
    TimedResult("SoulX-Transcriber", "alimeeting", CLIP, SOULX, 5.39, 13.07, 13.61),
    TimedResult("SoulX-Transcriber", "aishell4", FIVE_MINUTES, SOULX, 7.73, 14.49, 17.82),
    TimedResult("SoulX-Transcriber", "alimeeting", FIVE_MINUTES, SOULX, 5.72, 16.22, 16.99),
    TimedResult("Gemini-2.5-Pro", "aishell4", SESSION, CARD, der=15.32, cpcer=31.59),
    TimedResult("Speaker-Reasoner Multi-turn w/ SAC", "aishell4", SESSION, CARD, der=21.60, cpcer=36.20),
    TimedResult("Gemini-2.5-Pro", "aishell4", UNSTATED, CARD, gender=94.80, count=67.03),
    TimedResult("Qwen3-Omni-30B-A3B-Instruct", "aishell4", UNSTATED, CARD, gender=97.12, count=60.49),
    TimedResult("Speaker-Reasoner Multi-turn", "aishell4", UNSTATED, CARD, gender=96.80, count=69.03),
)


def _lines(text: str) -> Iterator[tuple[str, list[list[float | None]]]]:
    for line in text.strip().splitlines():
        system, *cells = line.split("|")
        yield system.strip(), [[None if n == "-" else float(n) for n in cell.split()] for cell in cells]


def _rows() -> Iterator[TimedResult]:
    for system, cells in _lines(_SEGMENTED):
        for test_set, figures in zip(("aishell4", "alimeeting"), cells, strict=True):
            yield TimedResult(system, test_set, CLIP, CARD, *figures)
    for system, cells in _lines(_MULTI_DOMAIN):
        for test_set, (wer, cpwer, der, delta) in zip(_DOMAINS, cells, strict=True):
            yield TimedResult(system, test_set, UNSTATED, CARD, der, wer, cpwer, delta)
    yield from _OTHERS


TIMED = tuple(_rows())


def timed(test_set: str) -> list[TimedResult]:
    """Return the published rows of a test set, in any spelling of its name."""
    plain = plain_name(test_set)
    name = next((t for t in TITLES if plain.startswith(t)), None)
    return [row for row in TIMED if row.test_set == name]
