"""Kaldi data folders: ``wav.scp``, ``text``, ``utt2spk``, optionally ``segments`` and ``spk2gender``.

ROOT is such a folder, or a folder of them; each becomes the manifest of its name. With ``segments`` the sessions are
the recordings of ``wav.scp``, otherwise every utterance is a session. Entries of ``wav.scp`` may be paths (relative to
``--audio`` or the current folder), URLs, and commands (``… |``), which are counted and not run without
``--allow-commands``; their output is kept under ``OUT/audio``. Folders of ``--untranscribed`` need no ``text``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards.errors import ManifestError
from shards.manifests.audit import Audit
from shards.manifests.commands import Commands
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.foreign_rows import name_of, seconds_of, text_of
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import read_table
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name
from shards.storage.sources import joined


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest per data folder."""
    folders = [f for f in (root, *sorted(p for p in root.glob("*") if p.is_dir())) if (f / "wav.scp").is_file()]
    if not folders:
        raise corpus_not_found(root, "Kaldi data folder", "wav.scp, text and utt2spk, here or one level below")
    found = []
    for folder in folders:
        table = folder / "spk2gender"
        genders = {s: g.lower() for s, g in read_table(table).items()} if table.is_file() else {}
        manifest = TranscribedSessions(corpus_name(root, options), folder.name, [], options, genders)
        wordless = folder.name in options.untranscribed
        if not wordless and not (folder / "text").is_file():
            raise ManifestError(
                f"{folder / 'text'}: no such file; for speech without words, such as enrolment clips, add "
                f"--untranscribed {folder.name}"
            )
        manifest.sessions = _sessions(folder, Commands(out / "audio", options), manifest.audit, wordless)
        found.append(manifest.prepared(folder.name))
    return found


def _sessions(folder: Path, commands: Commands, audit: Audit, wordless: bool) -> Iterator[TranscribedSession]:
    speakers = read_table(folder / "utt2spk")
    texts = dict.fromkeys(speakers, "") if wordless else {}
    texts |= read_table(folder / "text") if (folder / "text").is_file() else {}
    spoken: dict[str, list[RawSegment]] = {}
    for utterance, where in _places(folder, texts, audit):
        if utterance not in texts:
            audit.skip("utterance without text", utterance)
        elif not speakers.get(utterance):
            audit.skip("utterance without a speaker", utterance)
        else:
            recording, start, end = where
            segment = RawSegment(name_of(speakers[utterance]), start, end, text_of(texts[utterance]))
            spoken.setdefault(recording, []).append(segment)
    for recording, source in read_table(folder / "wav.scp").items():
        is_command = source.rstrip().endswith("|")
        if is_command and not commands.allowed:
            audit.skip("wav.scp entry that is a command", f"{recording}: {source}; run it by --allow-commands")
        elif recording in spoken:
            place = commands.of(recording, source) if is_command else joined(commands.folder, source)
            yield TranscribedSession(recording, place, tuple(spoken.pop(recording)))
        else:
            audit.skip("audio without usable utterances", recording)
    for recording in spoken:
        audit.skip("utterances without audio in wav.scp", recording)


def _places(folder: Path, texts: dict[str, str], audit: Audit) -> Iterator[tuple[str, tuple[str, float, float | None]]]:
    """Yield (utterance, (recording, start, end)); without ``segments`` each utterance is a whole recording."""
    if not (folder / "segments").is_file():
        yield from ((utterance, (utterance, 0.0, None)) for utterance in texts)
        return
    places = read_table(folder / "segments")
    for utterance in texts:
        if utterance not in places:
            audit.skip("text without an entry in segments", utterance)
    for utterance, rest in places.items():
        try:
            recording, start, end = rest.split()[:3]
            last = seconds_of(end)
            yield utterance, (recording, seconds_of(start), last if last != -1 else None)
        except ValueError:
            audit.skip("invalid line in segments", f"{utterance} {rest}")
