"""``speakerlm-shards prepare CORPUS ROOT OUT``: a corpus as manifest folders, with an audit of each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shards.corpora import corpus_names, find_corpus
from shards.manifests import Recording, write_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("corpus", help=f"one of: {', '.join(corpus_names())}")
    parser.add_argument("root", type=Path, help="folder of the corpus; for packaged-speech, the download cache")
    parser.add_argument("out", type=Path, help="folder for the manifests, one subfolder each")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode audio")


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print one line per manifest."""
    for prepared in find_corpus(args.corpus)(args.root, args.out, args.workers):
        audit = summarize(prepared.recordings) | prepared.audit
        write_manifest(args.out / prepared.name, prepared.recordings, prepared.speakers, audit)
        print(
            f"{args.out / prepared.name}: {audit['recordings']} recordings, {len(audit['speakers'])} speakers, "
            f"{audit['hours']:.2f} h"
        )
    return 0


def summarize(recordings: Iterable[Recording]) -> dict[str, Any]:
    """Counts that every audit begins with: sessions, speakers, hours of speech, share of it where several speak."""
    sessions: set[str] = set()
    speakers: dict[str, float] = {}
    count = words = 0
    speech = overlap = 0.0
    for recording in recordings:
        count += 1
        sessions.add(recording.session)
        for segment in recording.segments:
            speakers[segment.speaker] = speakers.get(segment.speaker, 0.0) + segment.end - segment.start
            words += bool(segment.text)
        covered, several = speech_and_overlap([(s.start, s.end) for s in recording.segments])
        speech, overlap = speech + covered, overlap + several
    return {
        "recordings": count,
        "sessions": len(sessions),
        "speakers": {speaker: round(seconds, 2) for speaker, seconds in sorted(speakers.items())},
        "hours": round(speech / 3600, 4),
        "overlap": round(overlap / speech, 4) if speech else 0.0,
        "segments_with_text": words,
    }


def speech_and_overlap(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Seconds in which at least one and at least two of the (start, end) spans are open."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    covered = several = last = 0.0
    depth = 0
    for time, step in edges:
        covered += (time - last) * (depth > 0)
        several += (time - last) * (depth > 1)
        last, depth = time, depth + step
    return covered, several
