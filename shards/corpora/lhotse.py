"""Lhotse manifests, the output of ``lhotse prepare …`` for every corpus that Lhotse has a recipe for.

ROOT contains ``*cuts*.jsonl.gz``, or pairs ``NAME_recordings_PART.jsonl.gz`` and ``NAME_supervisions_PART.jsonl.gz``
(also plain ``.jsonl``); each becomes the manifest PART. If all supervisions share a channel, as with an array, the
first shared channel is used. Otherwise, as with telephone calls and headsets, each channel with speech becomes a
recording ``ID-CHANNEL``. Relative audio paths are relative to ``--audio`` or the current folder. URLs are read,
commands only with ``--allow-commands``. Audio that only Lhotse can render is skipped and counted: mixed or padded cuts,
recordings with transforms, audio inside the manifest.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from shards.errors import ConfigError, DataError, ManifestError
from shards.manifests.audio_files import Source
from shards.manifests.audit import Audit
from shards.manifests.commands import Commands
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.foreign_rows import name_of, seconds_of, text_of
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name
from shards.storage.sources import joined

_ENDS = (".jsonl.gz", ".jsonl")
_CUTS = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")


def lhotse_module(name: str) -> ModuleType:
    """Import a module of Lhotse.

    Raises:
        ConfigError: Lhotse is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is needed: pip install 'speakerlm-pretrain[corpora]'") from error


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest per file of cuts and per pair of recordings and supervisions.

    Raises:
        DataError: two of them would become the same manifest.
    """
    files = {p.name[: -len(end)]: p for end in _ENDS for p in sorted(root.glob(f"*{end}"))}
    corpus, found, commands = corpus_name(root, options), [], Commands(out / "audio", options)
    origin: dict[str, Path] = {}  # part → the file it comes from
    for stem, path in sorted(files.items()):
        genders: dict[str, str] = {}
        if "cuts" in stem:
            name = _part(stem, "cuts")
            manifest = TranscribedSessions(corpus, name, [], options, genders)
            manifest.sessions = _Reader(commands, manifest.audit, genders).of_cuts(path)
        elif "recordings" in stem and (other := files.get(stem.replace("recordings", "supervisions"))):
            name = _part(stem, "recordings")
            manifest = TranscribedSessions(corpus, name, [], options, genders)
            manifest.sessions = _Reader(commands, manifest.audit, genders).of_pair(path, other)
        else:
            continue
        if origin.setdefault(name, path) != path:
            raise DataError(
                f"{origin[name]} and {path} would both become the manifest {name!r}; move one to another folder"
            )
        found.append(manifest.prepared(name))
    if not found:
        raise corpus_not_found(root, "Lhotse manifest", "*cuts*.jsonl.gz, or *recordings* and *supervisions*.jsonl.gz")
    return found


def _part(stem: str, kind: str) -> str:
    """``ami_recordings_train`` → ``train``; ``cuts`` → ``all``."""
    before, _, after = stem.partition(kind)
    return after.strip("_-.") or before.strip("_-.") or "all"


def _load(path: Path, audit: Audit, *kinds: str) -> Iterator[Any]:
    """Yield the entries of a Lhotse manifest, read lazily; those that Lhotse refuses are counted.

    Args:
        kinds: classes of Lhotse that the manifest may contain.

    Raises:
        ManifestError: the file is truncated or not JSON Lines.
    """
    deserialize = lhotse_module("lhotse.serialization").deserialize_item
    rows = enumerate(lhotse_module("lhotse.lazy").LazyJsonlIterator(path), 1)
    while True:
        try:
            number, row = next(rows, (0, None))
        except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
            raise ManifestError(f"{path}: Lhotse cannot read it: {error}; is the file truncated?") from error
        if not number:
            return
        try:
            item = deserialize(row)
            if type(item).__name__ not in kinds:
                raise TypeError(f"a {type(item).__name__}, expected {' or '.join(kinds)}")
        except (ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
            audit.skip("invalid row", f"{path}:{number}: {type(error).__name__}: {str(error)[:200]}")
            continue
        yield item


class _Reader:
    """Reads the sessions of one manifest."""

    def __init__(self, commands: Commands, audit: Audit, genders: dict[str, str]) -> None:
        self.commands, self.audit, self.genders = commands, audit, genders

    def of_pair(self, recordings: Path, supervisions: Path) -> Iterator[TranscribedSession]:
        """Yield the sessions of a pair of manifests."""
        spoken: dict[str, list[Any]] = {}
        for s in _load(supervisions, self.audit, "SupervisionSegment"):
            spoken.setdefault(s.recording_id, []).append(s)
        for recording in _load(recordings, self.audit, "Recording"):
            own = spoken.pop(recording.id, [])
            yield from self._sessions(recording.id, recording, recording.channel_ids, own, 0.0, None)
        for name in spoken:
            self.audit.skip("supervisions without a recording", name)

    def of_cuts(self, path: Path) -> Iterator[TranscribedSession]:
        """Yield the sessions of a manifest of cuts."""
        for cut in _load(path, self.audit, *_CUTS):
            if type(cut).__name__ not in ("MonoCut", "MultiCut") or cut.recording is None:
                self.audit.skip("cut that only Lhotse can render", f"{cut.id}: {type(cut).__name__}")
            else:
                channels = _channels(cut)
                yield from self._sessions(cut.id, cut.recording, channels, cut.supervisions, cut.start, cut.duration)

    def _sessions(
        self,
        key: str,
        recording: Any,
        channels: Sequence[int],
        supervisions: Sequence[Any],
        start: float,
        duration: float | None,
    ) -> Iterator[TranscribedSession]:
        if recording.transforms:
            self.audit.skip("recording with transforms", recording.id)
            return
        groups = self._by_channel(key, channels, supervisions)
        if len(groups) > 1:
            self.audit.change("speech on several channels: one recording per channel", key)
        for channel, own in groups.items():
            source = next((s for s in recording.sources if channel in s.channels), None)
            audio = self._audio(recording.id, source)
            if source is None or audio is None:
                self.audit.skip("audio source other than a file", f"{key}: {source.type if source else 'no source'}")
                continue
            yield TranscribedSession(
                key=key if len(groups) == 1 else f"{key}-{channel}",
                audio=audio,
                segments=tuple(self._segments(key, own)),
                session=recording.id,
                start=start,
                duration=duration,
                channel=source.channels.index(channel),
                language=next((found for s in own if (found := _language(s.language))), None),
            )

    def _segments(self, key: str, supervisions: Sequence[Any]) -> Iterator[RawSegment]:
        for s in supervisions:
            try:
                text = "" if s.text is None else text_of(s.text)  # null is what Lhotse writes for no text
                start = seconds_of(s.start)
                yield RawSegment(name_of(s.speaker), start, start + seconds_of(s.duration), text)
            except ValueError as error:
                self.audit.skip("invalid supervision", f"{key}: {s.id}: {error}")

    def _audio(self, recording: str, source: Any) -> Source | None:
        """Return where the audio of a source is; None if it cannot or must not be opened."""
        if source is not None and source.type in ("file", "url"):
            return joined(self.commands.folder, source.source)
        if source is not None and source.type == "command" and self.commands.allowed:
            return self.commands.of(recording, source.source)
        return None

    def _by_channel(self, key: str, channels: Sequence[int], supervisions: Sequence[Any]) -> dict[int, list[Any]]:
        """Map each channel to use to the supervisions on it."""
        found: list[tuple[Any, set[int]]] = []
        for s in supervisions:
            if isinstance(s.speaker, str) and isinstance(s.gender, str) and s.gender:
                self.genders.setdefault(s.speaker, s.gender[:1].lower())
            if on := set(_channels(s)) & set(channels):
                found.append((s, on))
            else:
                self.audit.skip("supervision on a missing channel", f"{key}: {s.id}")
        common = set(channels).intersection(*(on for _, on in found))
        if common:
            return {min(common): [s for s, _ in found]}
        groups: dict[int, list[Any]] = {}
        for s, on in found:
            groups.setdefault(min(on), []).append(s)
        return dict(sorted(groups.items()))


def _language(value: object) -> str | None:
    """Return the tag of a language; None if it is unknown."""
    name = value.strip() if isinstance(value, str) else ""
    return _LANGUAGES.get(name.lower(), name_of(name))


def _channels(of: Any) -> list[int]:
    """Return the channels of a supervision or cut as a list."""
    return [of.channel] if isinstance(of.channel, int) else list(of.channel)


_LANGUAGES = {"chinese": "zh", "mandarin": "zh", "english": "en", "japanese": "ja", "german": "de", "french": "fr"}
