"""SD+ASR+LLM: a language model moves words of a cascade's transcript to the right speaker, as in the SpeakerLM paper

The prompt is the paper's (arXiv 2508.06372, appendix "Prompts for LLMs", after DiarizationLM); the model sees lines
``spk0: hello`` without times. It is asked to show the transcript without explanation, so its whole answer is the
transcript, and what it makes up counts: the paper finds that zero-shot models raise CER by 5 to 19 points. CER before
and after are shown side by side for that reason. With ``keep_words`` the cascade's words are held, and only speakers
are taken from the answer (:mod:`pipeline.baselines.speaker_transfer`): CER cannot change then.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.baselines.cascade import JOB, as_text
from pipeline.baselines.llm import Llm
from pipeline.baselines.speaker_transfer import transfer
from pipeline.decode.store import DecodeFolder, DecodeLabels, DecodeSettings, Timing
from pipeline.evaluation.decoded_folder import read_decoded, read_description
from pipeline.evaluation.decoded_rows import hypothesis, parsed, reference
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.scores import score_decoded
from pipeline.ranks.memory import peak_bytes
from shards.workers import progress

SYSTEM = "You are a helpful assistant."
INSTRUCTION = (
    "In the speaker diarization transcript below, some words are potentially misplaced. Please correct those words and "
    "move them to the right speaker. Directly show the corrected transcript without explaining what changes were made "
    "or why you made those changes."
)
MOST_CHARACTERS = 6000  # of a transcript that is asked about at once; DiarizationLM's limit


def lines(segments: Sequence[SegLstRow]) -> list[str]:
    """``spk0: hello``; neighbours of one speaker are one line."""
    merged: list[tuple[str | None, list[str]]] = []
    for s in segments:
        if merged and merged[-1][0] == s.speaker:
            merged[-1][1].append(s.text)
        else:
            merged.append((s.speaker, [s.text]))
    return [f"{speaker or '?'}: {' '.join(' '.join(texts).split())}" for speaker, texts in merged]


def questions(segments: Sequence[SegLstRow], most: int = MOST_CHARACTERS) -> list[str]:
    """User messages: the instruction and the transcript, split where it is long."""
    parts: list[list[str]] = []
    room = 0
    for line in lines(segments):
        if not parts or len(line) + 1 > room:
            parts.append([])
            room = most
        parts[-1].append(line)
        room -= len(line) + 1
    return [f"{INSTRUCTION}\n\n" + "\n".join(part) for part in parts]


def correct(
    decoded: Path,
    out: Path,
    llm: Llm,
    keep_words: bool = False,
    limit: int | None = None,
    origin: str = "",
) -> Timing | None:
    """Correct a cascade's ``no.jsonl``; rows as the cascade's, with its text under ``before``.

    Args:
        origin: source of the model, since two folders may have the same name.

    Raises:
        ScoreError: nothing is decoded there, or `out` holds output of another model.
        ModelError: the model does not answer. What is corrected already is kept: the same command resumes.
    """
    source = decoded / f"{JOB}.jsonl"
    rows = read_decoded(source)[:limit]
    about = read_description(decoded)
    name = f"{about.get('run', decoded.name)} + {llm.id}{' (words kept)' if keep_words else ''}"
    identity = hashlib.sha256(f"{name}\n{origin}\n{SYSTEM}\n{INSTRUCTION}".encode()).hexdigest()
    fingerprint = hashlib.sha256(source.read_bytes()).hexdigest()
    output = DecodeFolder(
        out,
        DecodeSettings(name, identity, str(decoded), fingerprint, 0, 1, limit),
        DecodeLabels(name, None, str(about.get("test_set") or decoded.name), str(about.get("extractor") or ""), None),
    )
    done = output.rows(JOB).keys()
    with output.part(JOB, 0, 1) as part, progress(total=len(rows), initial=len(done), unit="clip") as bar:
        for row in rows:
            if row["key"] in done:
                continue
            began = time.monotonic()
            corrected = _corrected(row, llm, keep_words)
            seconds = float(row.get("duration") or 0.0)
            part.append([corrected], Timing(1, seconds, time.monotonic() - began, peak_bytes()))
            bar.update()
    timings = output.merge({JOB: [r["key"] for r in rows]})
    return timings[JOB] if timings else None


def _corrected(row: dict[str, Any], llm: Llm, keep_words: bool) -> dict[str, Any]:
    given = list(hypothesis(row, row["key"])[0])
    answers = [llm.ask(SYSTEM, question, len(question) + 64) for question in questions(given)]
    answer = "\n".join(answers)
    said = list(parsed(row["key"], answer)[0])
    kept = transfer(given, [s for s in said if s.speaker]) if keep_words else said
    return {
        **row,
        "before": row["raw"],
        "answer": answer,
        "raw": as_text(kept) if keep_words else answer,
        "hypothesis": [{"speaker": s.speaker, "start": s.start, "end": s.end, "text": s.text} for s in kept],
    }


def compare(before: Path, after: Path, normaliser: str) -> list[dict[str, Any]]:
    """Rows of scores before and after; a rise of CER comes from words that the model inserted or dropped.

    Raises:
        ScoreError: one of them cannot be scored, or they are of other clips.
    """
    return [*score_decoded(before, normaliser=normaliser), *score_decoded(after, normaliser=normaliser)]


def pairs(decoded: Path, out: Path, most: int = MOST_CHARACTERS) -> int:
    """Fine-tuning data from a cascade's output on *training* data: chat messages, one JSON line per question.

    The answer is the cascade's own words with the reference's speakers (DiarizationLM's ``hyp2ora``), so that a model
    learns to move words and not to rewrite them.

    Returns:
        How many lines.

    Raises:
        ScoreError: nothing is decoded there, or without a reference.
    """
    written = []
    for row in read_decoded(decoded / f"{JOB}.jsonl"):
        given, right = list(hypothesis(row, row["key"])[0]), list(reference(row, row["key"]))
        if not given or not right:
            continue
        for part in _within(given, most):
            answer = "\n".join(lines(transfer(part, _around(part, right))))
            messages = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": questions(part, most + len(answer))[0]},
                {"role": "assistant", "content": answer},
            ]
            written.append(json.dumps({"key": row["key"], "messages": messages}, ensure_ascii=False) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(written), encoding="utf-8", newline="")
    return len(written)


def _within(segments: Sequence[SegLstRow], most: int) -> list[list[SegLstRow]]:
    """Segments in groups of at most so many characters."""
    parts: list[list[SegLstRow]] = []
    room = 0
    for s in segments:
        size = len(s.text) + len(s.speaker or "?") + 3
        if not parts or size > room:
            parts.append([])
            room = most
        parts[-1].append(s)
        room -= size
    return parts


def _around(part: Sequence[SegLstRow], right: Sequence[SegLstRow]) -> list[SegLstRow]:
    """The reference of a group: what touches its time, or all of it where times are not known."""
    if not all(s.timed for s in (*part, *right)):
        return list(right)
    first, last = min(s.start or 0.0 for s in part), max(s.end or 0.0 for s in part)
    return [s for s in right if (s.end or 0.0) > first and (s.start or 0.0) < last] or list(right)
