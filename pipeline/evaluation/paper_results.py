"""Published results to compare with (arXiv 2508.06372, Tables 2 to 4). Rates in percent, copied, never recomputed.

The paper's test sets are clips of 40 to 50 s. What it calls AliMeeting-Eval has the size of the official *Test* set,
AISHELL4-Eval is the official test set, AISHELL5-Eval is Eval2. Its normaliser is not stated.
"""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = {"alimeeting": "Test", "aishell4": "test", "aishell5": "Eval2"}
TITLES = {"alimeeting": "AliMeeting", "aishell4": "AISHELL-4", "aishell5": "AISHELL-5"}
NORMALISER = "not stated"
UNIT = "clip"


@dataclass(frozen=True, slots=True)
class Published:
    """One figure triple: CER and cpCER (No-Regist) or saCER (registered), and the difference."""

    system: str
    test_set: str
    mode: str
    cer: float | None
    speaker_cer: float | None  # cpCER without registration, saCER with
    delta: float | None
    hours: float | None = None  # of SDR training data
    extractor: str = "ERes2NetV2"


_SETS = ("alimeeting", "aishell4", "aishell5")

_BEST = "DiariZen-large + Paraformer"  # what the paper gives to an LLM to correct
_BASELINES = {
    "3D-Speaker + Paraformer": ((21.30, 24.94, 3.64), (23.02, 26.01, 2.99), (60.16, 64.12, 3.96)),
    "Pyannote 3.1 + Paraformer": ((21.30, 24.45, 3.15), (23.02, 28.22, 5.20), (60.16, 68.37, 8.21)),
    "DiariZen-base + Paraformer": ((21.30, 23.97, 2.67), (23.02, 27.27, 4.25), (60.16, 66.89, 6.73)),
    _BEST: ((21.30, 23.20, 1.90), (23.02, 25.78, 2.76), (60.16, 61.81, 1.65)),
    f"{_BEST} + ChatGPT-4.5 zero-shot": ((30.63, 38.64, 8.01), (33.02, 39.21, 6.19), (67.34, 79.05, 11.71)),
    f"{_BEST} + Qwen2.5-7B zero-shot": ((40.10, 51.01, 10.91), (33.92, 44.16, 10.24), (65.67, 73.30, 7.63)),
    f"{_BEST} + Qwen2.5-7B fine-tuned": ((21.38, 22.65, 1.27), (23.05, 24.93, 1.88), (60.17, 61.63, 1.46)),
}  # fmt: skip

_SCALING = {
    212.25: ((18.63, 32.22, 13.59), (17.75, 26.14, 8.39), (48.40, 64.96, 16.56)),
    694.06: ((18.14, 29.60, 11.46), (17.48, 25.28, 7.80), (48.39, 54.81, 6.42)),
    2269.57: ((17.32, 27.97, 10.65), (17.32, 23.10, 5.78), (47.78, 50.04, 2.26)),
    7638.95: ((13.97, 16.05, 2.08), (17.17, 18.37, 1.20), (47.24, 47.81, 0.57)),
}

_REGISTERED = {
    "match": ((13.98, 15.57, 1.59), (17.13, 19.73, 2.60), (47.05, 47.36, 0.31)),
    "over": ((13.96, 15.71, 1.75), (17.15, 20.16, 3.01), (46.69, 47.35, 0.66)),
}

_EXTRACTORS = {  # Table 4, AliMeeting
    "CAM++": {"no": (14.63, 16.74), "match": (14.74, 17.23), "over": (14.71, 16.92)},
    "ERes2NetV2": {"no": (13.97, 16.05), "match": (13.98, 15.57), "over": (13.96, 15.71)},
}


def _rows() -> tuple[Published, ...]:
    rows = [
        Published(n, t, "no", *f, extractor="") for n, fs in _BASELINES.items() for t, f in zip(_SETS, fs, strict=True)
    ]
    for test_set, cer in zip(_SETS, (20.98, 18.02, 55.50), strict=True):
        rows.append(Published("SpeakerLM-ASR (stage 1)", test_set, "asr", cer, None, None, extractor=""))
    for hours, fs in _SCALING.items():
        rows += [Published("SpeakerLM", t, "no", *f, hours=hours) for t, f in zip(_SETS, fs, strict=True)]
    for mode, fs in _REGISTERED.items():
        rows += [Published("SpeakerLM", t, mode, *f, hours=7638.95) for t, f in zip(_SETS, fs, strict=True)]
    rows.append(Published("SA-Transformer", "alimeeting", "match", None, 41.55, None, extractor=""))
    for mode, (cer, speaker_cer) in _EXTRACTORS["CAM++"].items():
        rows.append(Published("SpeakerLM", "alimeeting", mode, cer, speaker_cer, None, 7638.95, "CAM++"))
    return tuple(rows)


PUBLISHED = _rows()


def canonical(test_set: str) -> str | None:
    """``AliMeeting-Test`` → ``alimeeting``: the paper's test set that a name means, if any."""
    plain = plain_name(test_set)
    return next((t for t in _SETS if plain.startswith(t)), None)


def plain_name(test_set: str) -> str:
    """Return the letters and digits of a test set's name, in lower case."""
    return "".join(c for c in test_set.casefold() if c.isalnum())


def published(test_set: str, mode: str | None = None) -> list[Published]:
    """Return the paper's rows for a test set, of one mode or all."""
    name = canonical(test_set)
    return [p for p in PUBLISHED if p.test_set == name and mode in (None, p.mode)]
