"""Lhotse manifests, the output of ``lhotse prepare …`` for every corpus that Lhotse has a recipe for.

ROOT contains ``*cuts*.jsonl.gz``, or pairs ``NAME_recordings_PART.jsonl.gz`` and ``NAME_supervisions_PART.jsonl.gz``
(also plain ``.jsonl``); each becomes the manifest PART. If all supervisions share a channel, as with an array, the
first shared channel is used. Otherwise, as with telephone calls and headsets, each channel with speech becomes a
recording ``ID-CHANNEL``. Relative audio paths are relative to ``--audio`` or the current folder. Audio that only Lhotse
can render is skipped and counted: mixed or padded cuts, recordings with transforms, sources other than files.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from shards.errors import ConfigError, DataError, ManifestError
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name

_ENDS = (".jsonl.gz", ".jsonl")


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
    corpus, found = corpus_name(root, options), []
    origin: dict[str, Path] = {}  # part → the file it comes from
    for stem, path in sorted(files.items()):
        genders: dict[str, str] = {}
        if "cuts" in stem:
            name = _part(stem, "cuts")
            manifest = TranscribedSessions(corpus, name, [], options, genders)
            manifest.sessions = _Reader(options, manifest.audit, genders).of_cuts(path)
        elif "recordings" in stem and (other := files.get(stem.replace("recordings", "supervisions"))):
            name = _part(stem, "recordings")
            manifest = TranscribedSessions(corpus, name, [], options, genders)
            manifest.sessions = _Reader(options, manifest.audit, genders).of_pair(path, other)
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


def _load(path: Path) -> Iterator[Any]:
    """Yield the entries of a Lhotse manifest, read lazily.

    Raises:
        ManifestError: the file is truncated or not a Lhotse manifest.
    """
    lhotse = lhotse_module("lhotse")
    try:
        yield from lhotse.load_manifest_lazy(path) or ()
    except (ValueError, KeyError, TypeError, OSError, AssertionError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: Lhotse cannot read it: {error}; is the file truncated?") from error


class _Reader:
    """Reads the sessions of one manifest."""

    def __init__(self, options: PrepareOptions, audit: Audit, genders: dict[str, str]) -> None:
        self.audio, self.audit, self.genders = options.audio or Path(), audit, genders

    def of_pair(self, recordings: Path, supervisions: Path) -> Iterator[TranscribedSession]:
        """Yield the sessions of a pair of manifests."""
        spoken: dict[str, list[Any]] = {}
        for s in _load(supervisions):
            spoken.setdefault(s.recording_id, []).append(s)
        for recording in _load(recordings):
            own = spoken.pop(recording.id, [])
            yield from self._sessions(recording.id, recording, recording.channel_ids, own, 0.0, None)
        for name in spoken:
            self.audit.skip("supervisions without a recording", name)

    def of_cuts(self, path: Path) -> Iterator[TranscribedSession]:
        """Yield the sessions of a manifest of cuts."""
        for cut in _load(path):
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
            if source is None or source.type != "file":
                self.audit.skip("audio source other than a file", f"{key}: {source.type if source else 'no source'}")
                continue
            yield TranscribedSession(
                key=key if len(groups) == 1 else f"{key}-{channel}",
                audio=self.audio / source.source,
                segments=tuple(RawSegment(s.speaker, s.start, s.start + s.duration, s.text or "") for s in own),
                session=recording.id,
                start=start,
                duration=duration,
                channel=source.channels.index(channel),
                language=next((_LANGUAGES.get(s.language.lower(), s.language) for s in own if s.language), None),
            )

    def _by_channel(self, key: str, channels: Sequence[int], supervisions: Sequence[Any]) -> dict[int, list[Any]]:
        """Map each channel to use to the supervisions on it."""
        found: list[tuple[Any, set[int]]] = []
        for s in supervisions:
            if s.speaker and s.gender:
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


def _channels(of: Any) -> list[int]:
    """Return the channels of a supervision or cut as a list."""
    return [of.channel] if isinstance(of.channel, int) else list(of.channel)


_LANGUAGES = {"chinese": "zh", "mandarin": "zh", "english": "en", "japanese": "ja", "german": "de", "french": "fr"}
