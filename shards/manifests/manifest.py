"""Manifests: the recordings and speakers of a corpus, without its audio.

A manifest is a folder:

==================== ==========================================================================
``recordings.jsonl`` one :class:`Recording` per line
``speakers.jsonl``   one :class:`SpeakerInfo` per line
``audit.json``       counts of what was kept, skipped and changed, with reasons. Copied into the dataset's
                     provenance, which names the keys ``clip_rule`` and ``normaliser``
==================== ==========================================================================

Audio paths inside the folder are relative to it, so the folder can be moved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from shards.errors import ManifestError
from shards.sample import Segment, gender_of
from shards.storage.local import atomic_file
from shards.storage.sources import located

RECORDINGS, SPEAKERS, AUDIT = "recordings.jsonl", "speakers.jsonl", "audit.json"
T = TypeVar("T")
_TEXTS = ("key", "corpus", "split", "session", "language", "audio")


@dataclass(frozen=True, slots=True)
class Recording:
    """A span of audio that becomes one sample, or is cut into clips that do."""

    key: str
    corpus: str
    split: str
    session: str
    language: str
    audio: str  # URL, or path: absolute or relative to the manifest's folder; absolute after `read_manifest`
    segments: tuple[Segment, ...]  # seconds from `start` of this recording
    start: float = 0.0  # seconds into the audio file
    duration: float | None = None  # seconds; None: to the end of the file
    channel: int | None = None  # 0-based; None: mix down
    sources: tuple[str, ...] = ()  # keys of the recordings it was mixed from, excluded from enrolment

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speaker ids in order of first appearance."""
        return tuple(dict.fromkeys(s.speaker for s in self.segments))


@dataclass(frozen=True, slots=True)
class SpeakerInfo:
    """A speaker id. Ids of one person share `person`; None if the person is unknown."""

    speaker: str  # global id, as in segments
    corpus: str
    language: str
    gender: str | None = None
    person: str | None = None


def recording_to_json(recording: Recording) -> dict[str, Any]:
    """Convert a recording to JSON types, without fields that equal their defaults."""
    record = asdict(recording)
    record["segments"] = [asdict(s) for s in recording.segments]
    record["sources"] = list(recording.sources)
    defaults: dict[str, Any] = {"start": 0.0, "duration": None, "channel": None, "sources": []}
    return {k: v for k, v in record.items() if k not in defaults or v != defaults[k]}


def recording_from_json(record: dict[str, Any]) -> Recording:
    """Inverse of :func:`recording_to_json`.

    Raises:
        TypeError, KeyError, ValueError: an unknown or missing field, or a value of the wrong type.
    """
    segments = tuple(
        Segment(_text(str(s["speaker"])), float(s["start"]), float(s["end"]), _text(str(s["text"])))
        for s in record["segments"]
    )
    fields = record | {"segments": segments, "sources": tuple(map(_text, record.get("sources", ())))}
    fields |= {name: _text(fields[name], name) for name in _TEXTS}
    for name in ("start", "duration"):
        if fields.get(name) is not None:
            fields[name] = float(fields[name])
            if not math.isfinite(fields[name]):
                raise ValueError(f"{name} is {fields[name]}, expected seconds")
    if type(fields.get("channel", 0)) not in (int, type(None)):
        raise TypeError(f"channel is {fields['channel']!r}, expected an integer >= 0 or null")
    return Recording(**fields)


def speaker_from_json(record: dict[str, Any]) -> SpeakerInfo:
    """Parse a row of ``speakers.jsonl``. Raises as :func:`recording_from_json`."""
    for name in ("speaker", "corpus", "language", "gender", "person"):
        if name in ("speaker", "corpus", "language") or record.get(name) is not None:
            _text(record[name], name)
    return SpeakerInfo(**record)


def _text(value: object, name: str = "a text") -> str:
    """Return the value, a string that UTF-8 can encode; a lone surrogate (``\\ud83d``) raises ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected a string")
    value.encode()
    return value


def read_manifest(folder: str | Path) -> Iterator[Recording]:
    """Yield the recordings of a manifest folder, with absolute `audio` paths."""
    folder = Path(folder)
    root = folder.absolute()
    for recording in _read_lines(folder / RECORDINGS, recording_from_json):
        yield replace(recording, audio=located(root, recording.audio))


def read_speakers(folder: str | Path) -> Iterator[SpeakerInfo]:
    """Yield the speakers of a manifest folder."""
    return _read_lines(Path(folder) / SPEAKERS, speaker_from_json)


def read_genders(folder: str | Path) -> dict[str, str]:
    """Return speaker → gender, without the unknown ones; empty for a folder without a file of speakers."""
    if not (Path(folder) / SPEAKERS).is_file():
        return {}
    return {s.speaker: gender for s in read_speakers(folder) if (gender := gender_of(s.gender))}


def read_audit(folder: str | Path) -> dict[str, Any]:
    """Return the audit of a manifest folder.

    Raises:
        ManifestError: it is missing or damaged.
    """
    path = Path(folder) / AUDIT
    try:
        audit = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: {error}; write the manifest again") from error
    if not isinstance(audit, dict):
        raise ManifestError(f"{path}: not an audit; write the manifest again")
    return audit


def write_manifest(
    folder: str | Path,
    recordings: Iterable[Recording],
    speakers: Iterable[SpeakerInfo],
    audit: dict[str, Any] | Callable[[], dict[str, Any]],
) -> int:
    """Write a manifest folder and return the number of recordings.

    ``recordings.jsonl`` is committed last: a folder without it is not a manifest. `speakers` and a callable `audit` are
    evaluated after the last recording, so both can be counted while the recordings are iterated.

    Raises:
        ManifestError: a string cannot be encoded as UTF-8.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for recording in recordings:
            count += 1
            yield _line(recording_to_json(replace(recording, audio=_relative(recording.audio, folder))))

    with atomic_file(folder / RECORDINGS) as file:
        file.writelines(lines())
        with atomic_file(folder / SPEAKERS) as other:
            other.writelines(_line(asdict(s)) for s in speakers)
        with atomic_file(folder / AUDIT) as other:
            entries = audit() if callable(audit) else audit
            other.write(
                json.dumps(entries, ensure_ascii=False, sort_keys=True, indent=1).encode(errors="backslashreplace")
                + b"\n"
            )
    return count


def _line(record: dict[str, Any]) -> bytes:
    line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    try:
        return line.encode() + b"\n"
    except UnicodeEncodeError as error:
        place = ascii(line[max(0, error.start - 40) : error.end + 10])
        raise ManifestError(
            f"lone surrogate (half a character) in {place} of {line[:60]!a}; correct the source text"
        ) from error


def _relative(audio: str, folder: Path) -> str:
    """Return a path inside `folder` relative to it, any other path unchanged."""
    path, root = Path(audio), folder.absolute()
    if path.is_absolute() and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return audio


def _read_lines(path: Path, parse: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise ManifestError(
            f"{path}: {error.strerror}; a manifest folder contains {RECORDINGS} and {SPEAKERS}"
        ) from error
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield parse(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ManifestError(f"{path}:{number}: {type(error).__name__}: {error}") from error
