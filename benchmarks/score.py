"""Scoring against meeteval: the same numbers on 1,000 sessions, and the CPU time that they cost.

Both sides start from the same segments of characters and give errors by kind. Target: cpCER equal in every session
(insertions, deletions and substitutions), at no more than 1.2 times meeteval's CPU time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.metrics.cpcer import cp_edits
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.session_scores import score_session
from pipeline.evaluation.tokens import Tokens, streams

LIMIT = 1.2
NONE = profile("none")
CHARACTERS = [chr(0x4E00 + i) for i in range(800)]


def make_session(seed: int) -> SessionTranscript:
    """About what a 40–50 s clip or a longer stretch of a meeting holds: 2–8 speakers, 150–1,500 characters."""
    rng = random.Random(seed)
    speakers = [f"S{i}" for i in range(rng.randint(2, 8))]
    reference, hypothesis, clock = [], [], 0.0
    for _ in range(rng.randint(10, 60)):
        text = "".join(rng.choices(CHARACTERS, k=rng.randint(3, 40)))
        start = max(0.0, clock - rng.random())
        clock = start + 0.2 * len(text)
        reference.append(SegLstRow(str(seed), rng.choice(speakers), text, start, clock))
        said = "".join(rng.choice(CHARACTERS) if rng.random() < 0.1 else c for c in text if rng.random() > 0.07)
        who = rng.choice(speakers) if rng.random() < 0.1 else reference[-1].speaker
        if rng.random() > 0.03:
            hypothesis.append(SegLstRow(str(seed), f"h{who}", said, start, clock))
    return SessionTranscript(str(seed), tuple(reference), tuple(hypothesis))


def ours_cp(session: SessionTranscript) -> Edits:
    """cpCER of this project."""
    split = Tokens(NONE)
    return cp_edits(streams(split.rows(session.reference)), streams(split.rows(session.hypothesis)))[0]


def their_rows(segments: Sequence[SegLstRow]) -> list[dict[str, Any]]:
    """SegLST with characters as words."""
    rows = []
    for s in segments:
        row = {"session_id": s.session, "speaker": s.speaker, "words": " ".join(s.text)}
        rows.append(row | {"start_time": s.start, "end_time": s.end})
    return rows


def their_cp(session: SessionTranscript) -> Edits:
    """meeteval's cpWER on characters."""
    import meeteval

    reference, hypothesis = (meeteval.io.SegLST(their_rows(s)) for s in (session.reference, session.hypothesis))
    found = meeteval.wer.cp_word_error_rate(reference, hypothesis)
    return Edits(found.insertions, found.deletions, found.substitutions, found.length)


def ours_all(session: SessionTranscript) -> None:
    """CER, cpCER and saCER together, as a report needs them."""
    score_session(session, NONE, by_name=True)


def cpu(work: Callable[[SessionTranscript], Any], sessions: Sequence[SessionTranscript]) -> tuple[float, list[Any]]:
    """CPU seconds and results."""
    start = time.process_time()
    found = [work(s) for s in sessions]
    return time.process_time() - start, found


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--sessions", type=int, default=1000)
    args = parser.parse_args()
    sessions = [make_session(i) for i in range(args.sessions)]
    for work in (ours_cp, their_cp):
        work(sessions[0])  # imports are not what is measured
    rounds = []
    for _ in range(3):
        theirs, their_numbers = cpu(their_cp, sessions)
        ours, our_numbers = cpu(ours_cp, sessions)
        rounds.append((ours / theirs, ours, theirs))
    ratio, ours, theirs = sorted(rounds)[len(rounds) // 2]
    everything, _ = cpu(ours_all, sessions)
    different = sum(a != b for a, b in zip(our_numbers, their_numbers, strict=True))
    characters = sum(e.reference for e in our_numbers)
    print(f"{len(sessions)} sessions, {characters} reference characters, median of {len(rounds)} rounds")
    print(f"{'':26}{'CPU s':>9}{'ms a session':>14}")
    for name, seconds in (("meeteval cpWER", theirs), ("cpCER", ours), ("CER + cpCER + saCER", everything)):
        print(f"{name:26}{seconds:9.3f}{1000 * seconds / len(sessions):14.3f}")
    print(f"CPU ratio cpCER / meeteval: {ratio:.3f}   sessions with other numbers: {different}")
    met = different == 0 and ratio <= LIMIT
    figures = {
        "sessions": len(sessions),
        "different": different,
        "cpu_ratio": round(ratio, 4),
        "ours_s": round(ours, 4),
        "meeteval_s": round(theirs, 4),
        "all_three_s": round(everything, 4),
    }
    print(
        json.dumps({"name": "score", "figures": figures, "targets": {"different": 0, "cpu_ratio": LIMIT}, "met": met})
    )
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
