"""Lhotse manifests: whatever ``lhotse prepare …`` wrote, so every corpus that Lhotse has a recipe for.

ROOT holds ``*cuts*.jsonl.gz``, or pairs ``NAME_recordings_PART.jsonl.gz`` and ``NAME_supervisions_PART.jsonl.gz`` (also
plain ``.jsonl``); each becomes a manifest under PART. A recording's first channel is taken. What only Lhotse can render
is left out and counted: mixed or padded cuts, recordings with transforms, audio that is no file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from shards.corpora import Options, Prepared
from shards.corpora.audit import Audit
from shards.corpora.generic import Generic, RawSegment, Session, corpus_name
from shards.corpora.meetings import nothing_found
from shards.errors import ConfigError, ManifestError

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


def prepare(root: Path, out: Path, options: Options) -> list[Prepared]:
    """A manifest per file of cuts and per pair of recordings and supervisions."""
    files = {p.name[: -len(end)]: p for end in _ENDS for p in sorted(root.glob(f"*{end}"))}
    corpus, found = corpus_name(root, options), []
    for stem, path in sorted(files.items()):
        genders: dict[str, str] = {}
        if "cuts" in stem:
            name = _part(stem, "cuts")
            manifest = Generic(corpus, name, [], options, genders)
            manifest.sessions = _of_cuts(path, manifest.audit, genders)
        elif "recordings" in stem and (other := files.get(stem.replace("recordings", "supervisions"))):
            name = _part(stem, "recordings")
            manifest = Generic(corpus, name, [], options, genders)
            manifest.sessions = _of_pair(path, other, manifest.audit, genders)
        else:
            continue
        found.append(manifest.prepared(name))
    if not found:
        raise nothing_found(root, "Lhotse manifest", "*cuts*.jsonl.gz, or *recordings* and *supervisions*.jsonl.gz")
    return found


def _part(stem: str, kind: str) -> str:
    """``ami_recordings_train`` → ``train``; ``cuts`` → ``all``."""
    before, _, after = stem.partition(kind)
    return after.strip("_-.") or before.strip("_-.") or "all"


def _load(path: Path) -> Any:
    try:
        loaded = lhotse_module("lhotse").load_manifest_lazy(path)
    except (ValueError, KeyError, OSError, AssertionError) as error:
        raise ManifestError(f"{path}: Lhotse cannot read it: {error}") from error
    return () if loaded is None else loaded


def _of_pair(recordings: Path, supervisions: Path, audit: Audit, genders: dict[str, str]) -> Iterator[Session]:
    spoken: dict[str, list[Any]] = {}
    for s in _load(supervisions):
        spoken.setdefault(s.recording_id, []).append(s)
    for recording in _load(recordings):
        own = spoken.pop(recording.id, [])
        source = _file(recording, audit)
        if source is not None:
            yield _session(recording.id, recording.id, source, own, genders, 0.0, None)
    for name in spoken:
        audit.skip("supervisions of a recording that is not there", name)


def _of_cuts(path: Path, audit: Audit, genders: dict[str, str]) -> Iterator[Session]:
    for cut in _load(path):
        if type(cut).__name__ not in ("MonoCut", "MultiCut") or cut.recording is None:
            audit.skip("cut that only Lhotse can render", f"{cut.id}: {type(cut).__name__}")
            continue
        source = _file(cut.recording, audit)
        if source is not None:
            yield _session(cut.id, cut.recording.id, source, cut.supervisions, genders, cut.start, cut.duration)


def _file(recording: Any, audit: Audit) -> tuple[Path, int] | None:
    """File and channel in it of a recording's first channel."""
    first = min(recording.sources, key=lambda s: min(s.channels), default=None)
    if first is None or first.type != "file":
        audit.skip("audio that is no file", f"{recording.id}: {first.type if first else 'no source'}")
    elif recording.transforms:
        audit.skip("recording with transforms", recording.id)
    else:
        return Path(first.source), 0
    return None


def _session(
    key: str,
    session: str,
    source: tuple[Path, int],
    supervisions: list[Any],
    genders: dict[str, str],
    start: float,
    duration: float | None,
) -> Session:
    segments = tuple(RawSegment(s.speaker, s.start, s.start + s.duration, s.text or "") for s in supervisions)
    for s in supervisions:
        if s.speaker and s.gender:
            genders.setdefault(s.speaker, s.gender[:1].lower())
    language = next((_LANGUAGES.get(s.language.lower(), s.language) for s in supervisions if s.language), None)
    return Session(key, source[0], segments, session, start, duration, source[1], language)


_LANGUAGES = {"chinese": "zh", "mandarin": "zh", "english": "en", "japanese": "ja", "german": "de", "french": "fr"}
