"""``speakerlm-shards prepare CORPUS ROOT OUT``: a corpus as manifest folders, with an audit of each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shards.arguments import positive
from shards.corpora import Options, corpus_names, find_corpus
from shards.errors import ManifestError
from shards.manifests.manifest import Recording, write_manifest
from shards.manifests.text import POLICIES

SPEAKERS_LISTED = 10_000  # with their seconds; of more, only the number is in the audit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("corpus", help=f"one of: {', '.join(corpus_names())}")
    add("root", type=Path, help="folder (or file) of the corpus; for packaged-speech, the download cache")
    add("out", type=Path, help="folder for the manifests, one subfolder each")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="threads or processes that open audio")
    add("--text", choices=sorted(POLICIES), help="text policy; default: plain for known corpora, raw for generic ones")
    generic = parser.add_argument_group("generic formats (jsonl, kaldi, lhotse, tars, transcripts)")
    generic.add_argument("--name", default="", help="name of the corpus (default: that of the folder)")
    generic.add_argument("--language", default="und", help="where the format does not say")
    session = "a speaker's id means somebody else in every session: nobody knows the person"
    generic.add_argument("--session-speakers", action="store_true", help=session)
    generic.add_argument("--audio", type=Path, help="folder of the audio, where it is not under ROOT")


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print what each manifest holds and lacks."""
    options = Options(args.workers, args.text, args.name, args.language, args.session_speakers, args.audio)
    made = 0
    for prepared in find_corpus(args.corpus)(args.root, args.out, options):
        counted = Summary()
        own = prepared.audit

        def audit(counted: Summary = counted, own: Any = own) -> dict[str, Any]:
            return counted.result() | dict(own() if callable(own) else own)

        folder = args.out / prepared.name
        write_manifest(folder, counted.over(prepared.recordings), prepared.speakers, audit)
        made += counted.recordings
        print("\n".join(told(folder, audit())))
    if not made:
        raise ManifestError(f"{args.root}: no recording of {args.corpus} could be used; see audit.json in {args.out}")
    return 0


def told(folder: Path, audit: dict[str, Any]) -> list[str]:
    """The audit in a few lines."""
    lines = [
        f"{folder}: {audit['recordings']} recordings of {audit['sessions']} sessions, "
        f"{audit['num_speakers']} speakers, {audit['hours']:.2f} h of speech, {audit['overlap']:.1%} of it overlapped"
    ]
    text = audit.get("text")
    if isinstance(text, dict):
        kinds = ("with_punctuation", "with_lower_case", "with_digits")
        shares = ", ".join(f"{text[k]} {k.replace('_', ' ')}" for k in kinds)
        lines.append(f"  text {text['policy']}: {text['means']}; of {text['texts']} texts {shares}")
    for kind in ("skipped", "changed"):
        lines += [f"  {kind} {count} × {reason}" for reason, count in audit.get(kind, {}).items()]
    return lines


class Summary:
    """Counts that every audit begins with: sessions, speakers, hours of speech, share of it where several speak."""

    def __init__(self) -> None:
        self.recordings = self._texts = 0
        self._sessions: set[str] = set()
        self._speakers: dict[str, float] = {}
        self._speech = self._overlap = 0.0

    def over(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """The same recordings, counted as they pass."""
        for recording in recordings:
            self.add(recording)
            yield recording

    def add(self, recording: Recording) -> None:
        """Count one."""
        self.recordings += 1
        self._sessions.add(recording.session)
        for s in recording.segments:
            self._speakers[s.speaker] = self._speakers.get(s.speaker, 0.0) + s.end - s.start
            self._texts += bool(s.text)
        covered, several = speech_and_overlap([(s.start, s.end) for s in recording.segments])
        self._speech, self._overlap = self._speech + covered, self._overlap + several

    def result(self) -> dict[str, Any]:
        """For ``audit.json``."""
        known = self._speakers if len(self._speakers) <= SPEAKERS_LISTED else {}
        return {
            "recordings": self.recordings,
            "sessions": len(self._sessions),
            "num_speakers": len(self._speakers),
            "speakers": {speaker: round(seconds, 2) for speaker, seconds in sorted(known.items())},
            "hours": round(self._speech / 3600, 4),
            "overlap": round(self._overlap / self._speech, 4) if self._speech else 0.0,
            "segments_with_text": self._texts,
        }


def summarize(recordings: Iterable[Recording]) -> dict[str, Any]:
    """:class:`Summary` of all of them."""
    summary = Summary()
    for recording in recordings:
        summary.add(recording)
    return summary.result()


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
