"""Kaldi data folders: ``wav.scp``, ``text``, ``utt2spk``, and where they are there ``segments`` and ``spk2gender``.

ROOT is such a folder, or a folder of them, each a manifest under its own name. With ``segments`` the sessions are the
recordings of ``wav.scp``, otherwise every utterance is one. An entry of ``wav.scp`` that is a command (``… |``) is not
run: it is left out and counted; write the audio to files first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.prepared import Prepared, PrepareOptions
from shards.manifests.text_files import read_table
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """A manifest per data folder."""
    folders = [f for f in (root, *sorted(p for p in root.glob("*") if p.is_dir())) if (f / "wav.scp").is_file()]
    if not folders:
        raise corpus_not_found(root, "Kaldi data folder", "wav.scp, text and utt2spk, here or one level below")
    found = []
    for folder in folders:
        genders = folder / "spk2gender"
        told = {s: g.lower() for s, g in read_table(genders).items()} if genders.is_file() else {}
        manifest = TranscribedSessions(corpus_name(root, options), folder.name, [], options, told)
        manifest.sessions = _sessions(folder, options.audio or Path(), manifest.audit)
        found.append(manifest.prepared(folder.name))
    return found


def _sessions(folder: Path, audio: Path, audit: Audit) -> Iterator[TranscribedSession]:
    texts, speakers = read_table(folder / "text"), read_table(folder / "utt2spk")
    spoken: dict[str, list[RawSegment]] = {}
    for utterance, where in _places(folder, texts, audit):
        if utterance not in texts:
            audit.skip("utterance without a text", utterance)
        elif not speakers.get(utterance):
            audit.skip("utterance without a speaker", utterance)
        else:
            recording, start, end = where
            spoken.setdefault(recording, []).append(RawSegment(speakers[utterance], start, end, texts[utterance]))
    for recording, source in read_table(folder / "wav.scp").items():
        if source.rstrip().endswith("|"):
            audit.skip("audio that is a command", f"{recording}: {source}")
        elif recording in spoken:
            yield TranscribedSession(recording, audio / source, tuple(spoken.pop(recording)))
        else:
            audit.skip("audio without an utterance that can be used", recording)
    for recording in spoken:
        audit.skip("utterances of a recording that wav.scp lacks, or that is a command", recording)


def _places(folder: Path, texts: dict[str, str], audit: Audit) -> Iterator[tuple[str, tuple[str, float, float | None]]]:
    """(utterance, (recording, start, end)); without ``segments`` an utterance is its own recording, to its end."""
    if not (folder / "segments").is_file():
        yield from ((utterance, (utterance, 0.0, None)) for utterance in texts)
        return
    places = read_table(folder / "segments")
    for utterance in texts:
        if utterance not in places:
            audit.skip("text without a line of segments", utterance)
    for utterance, rest in places.items():
        try:
            recording, start, end = rest.split()[:3]
            yield utterance, (recording, float(start), float(end) if float(end) != -1 else None)
        except ValueError:
            audit.skip("line of segments that is not of the form", f"{utterance} {rest}")
