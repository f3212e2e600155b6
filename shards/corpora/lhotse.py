"""Lhotse manifests: whatever ``lhotse prepare …`` wrote, so every corpus that Lhotse has a recipe for.

ROOT holds ``*cuts*.jsonl.gz``, or pairs ``NAME_recordings_PART.jsonl.gz`` and ``NAME_supervisions_PART.jsonl.gz`` (also
plain ``.jsonl``); each becomes a manifest under PART. Of its channels the first one is taken that all supervisions are
on, as of an array; where there is none, as of a telephone call or of headsets, each channel with speech becomes a
recording of its own, ``ID-CHANNEL``. Relative paths of audio are relative to ``--audio``, else to the
current folder. What only Lhotse can render is left out and counted: mixed or padded cuts, recordings with transforms,
audio that is no file.
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
from shards.manifests.prepared import Prepared, PrepareOptions
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name

_ENDS = (".jsonl.gz", ".jsonl")


def lhotse_module(name: str) -> ModuleType:
    """A module of Lhotse.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is needed: pip install 'speakerlm-pretrain[corpora]'") from error


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """A manifest per file of cuts and per pair of recordings and supervisions.

    Raises:
        DataError: two of them would be one manifest.
    """
    files = {p.name[: -len(end)]: p for end in _ENDS for p in sorted(root.glob(f"*{end}"))}
    corpus, found = corpus_name(root, options), []
    of: dict[str, Path] = {}  # part → the file it is from
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
        if of.setdefault(name, path) != path:
            raise DataError(f"{of[name]} and {path} would both be the manifest {name!r}; move one of them away")
        found.append(manifest.prepared(name))
    if not found:
        raise corpus_not_found(root, "Lhotse manifest", "*cuts*.jsonl.gz, or *recordings* and *supervisions*.jsonl.gz")
    return found


def _part(stem: str, kind: str) -> str:
    """``ami_recordings_train`` → ``train``; ``cuts`` → ``all``."""
    before, _, after = stem.partition(kind)
    return after.strip("_-.") or before.strip("_-.") or "all"


def _load(path: Path) -> Iterator[Any]:
    """What a manifest of Lhotse's holds, read as it is iterated.

    Raises:
        ManifestError: it is cut, or not one.
    """
    lhotse = lhotse_module("lhotse")
    try:
        yield from lhotse.load_manifest_lazy(path) or ()
    except (ValueError, KeyError, TypeError, OSError, AssertionError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: Lhotse cannot read it: {error}; is the file whole?") from error


class _Reader:
    """Sessions of one manifest."""

    def __init__(self, options: PrepareOptions, audit: Audit, genders: dict[str, str]) -> None:
        self.audio, self.audit, self.genders = options.audio or Path(), audit, genders

    def of_pair(self, recordings: Path, supervisions: Path) -> Iterator[TranscribedSession]:
        """A session for each recording."""
        spoken: dict[str, list[Any]] = {}
        for s in _load(supervisions):
            spoken.setdefault(s.recording_id, []).append(s)
        for recording in _load(recordings):
            own = spoken.pop(recording.id, [])
            yield from self._sessions(recording.id, recording, recording.channel_ids, own, 0.0, None)
        for name in spoken:
            self.audit.skip("supervisions of a recording that is not there", name)

    def of_cuts(self, path: Path) -> Iterator[TranscribedSession]:
        """A session for each cut."""
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
            self.audit.change("speech on several channels: a recording for each of them", key)
        for channel, own in groups.items():
            source = next((s for s in recording.sources if channel in s.channels), None)
            if source is None or source.type != "file":
                self.audit.skip("audio that is no file", f"{key}: {source.type if source else 'no source'}")
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
        """Channel to take → supervisions on it."""
        there: list[tuple[Any, set[int]]] = []
        for s in supervisions:
            if s.speaker and s.gender:
                self.genders.setdefault(s.speaker, s.gender[:1].lower())
            if on := set(_channels(s)) & set(channels):
                there.append((s, on))
            else:
                self.audit.skip("supervision on a channel that its recording or cut lacks", f"{key}: {s.id}")
        common = set(channels).intersection(*(on for _, on in there))
        if common:
            return {min(common): [s for s, _ in there]}
        groups: dict[int, list[Any]] = {}
        for s, on in there:
            groups.setdefault(min(on), []).append(s)
        return dict(sorted(groups.items()))


def _channels(of: Any) -> list[int]:
    """Of a supervision or a cut, which may name one or several."""
    return [of.channel] if isinstance(of.channel, int) else list(of.channel)


_LANGUAGES = {"chinese": "zh", "mandarin": "zh", "english": "en", "japanese": "ja", "german": "de", "french": "fr"}
