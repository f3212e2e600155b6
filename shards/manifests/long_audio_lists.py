"""Long audio files with one large JSON list of their segments, the format of WenetSpeech and GigaSpeech."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from pydantic import AliasChoices, Field

from shards.errors import ConfigError, ManifestError
from shards.manifests.audio_files import is_file
from shards.manifests.audit import Audit
from shards.manifests.foreign_rows import Identifier, Row, Seconds, Text, parse_row
from shards.manifests.foreign_rows import Path as AudioPath
from shards.manifests.keys import LONGEST_KEY, plain_key
from shards.manifests.manifest import Recording
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.segment_cleaning import clean_segments
from shards.manifests.text_policy import TextPolicy
from shards.sample import UNKNOWN, Segment
from shards.workers import progress

BUFFER = 65_536  # bytes of a list that are read at a time


class _Audio(Row):
    """An entry of ``audios``, without its segments."""

    unused = frozenset(
        {"segments", "md5", "source", "tags", "subsets", "title", "url", "codec", "channels", "speaker", "category"}
        | {"language", "sample_rate", "format", "chapter"}
    )
    aid: Identifier
    path: AudioPath
    duration: Seconds


class _Segment(Row):
    """An entry of ``segments``; ``text_tn`` is GigaSpeech's text."""

    unused = frozenset({"confidence", "md5", "url", "speaker"})
    sid: Identifier
    begin_time: Seconds
    end_time: Seconds
    subsets: list[str]
    text: Text = Field(validation_alias=AliasChoices("text_tn", "text"))


class LongAudio:
    """A subset of the list ``audios[].{aid, path, duration, segments[].{sid, begin_time, end_time, subsets, …}}``."""

    def __init__(
        self,
        corpus: str,
        language: str,
        listing: Path,
        name: str,
        subset: str,
        options: PrepareOptions,
        before: Callable[[str], str] = str,
    ) -> None:
        self.corpus, self.language, self.listing, self.name, self.subset = corpus, language, listing, name, subset
        self.before = before
        self.audit, self.text = Audit(), TextPolicy(options.text or "plain")

    def prepared(self) -> Prepared:
        """Return the manifest; the list is read while its recordings are iterated."""
        return Prepared(self.name, self._recordings(), (), lambda: {"text": self.text.result()} | self.audit.result())

    def _recordings(self) -> Iterator[Recording]:
        rows = progress(_audios(self.listing), f"{self.corpus} {self.name}", unit="file")
        for number, entry in enumerate(rows, 1):
            where = f"{self.listing}: audio {number}"
            try:
                audio = parse_row(_Audio, entry, self.audit, where)
                wanted = self._wanted(entry.get("segments"), where)
            except ManifestError as error:
                self.audit.skip("invalid entry", str(error))
                continue
            path = self.listing.parent / audio.path
            if wanted and not is_file(path):
                self.audit.skip("missing audio file", f"{path} with {len(wanted)} segments")
                continue
            for segment in wanted:
                try:
                    s = parse_row(_Segment, segment, self.audit, where)
                except ManifestError as error:
                    self.audit.skip("invalid segment", str(error))
                    continue
                recording = self._recording(audio, s, path)
                if recording is not None:
                    yield recording

    def _wanted(self, segments: object, where: str) -> list[object]:
        """Return the segments of the subset, and those of which it cannot be said."""
        if not isinstance(segments, list):
            raise ManifestError(f"{where}: segments is a {type(segments).__name__}, expected a list")
        return [s for s in segments if not _has_subsets(s) or self._in_subset(s["subsets"])]

    def _in_subset(self, subsets: list[object]) -> bool:
        return self.subset in subsets or self.subset.strip("{}") in subsets

    def _recording(self, audio: _Audio, segment: _Segment, path: Path) -> Recording | None:
        speaker = f"{self.corpus}:{UNKNOWN}"
        raw = Segment(speaker, segment.begin_time, segment.end_time, self.before(segment.text))
        if not raw.text.strip():
            self.audit.skip("utterance without words", segment.sid)
            return None
        key = plain_key(segment.sid)
        if len(key.encode()) > LONGEST_KEY:
            self.audit.skip(f"recording key of more than {LONGEST_KEY} bytes", key[:80])
            return None
        kept = clean_segments([raw], audio.duration, self.text, self.audit, segment.sid)
        if not kept:
            return None
        (clean,) = kept
        return Recording(
            key=key,
            corpus=self.corpus,
            split=self.name,
            session=audio.aid,
            language=self.language,
            audio=str(path.absolute()),
            segments=(Segment(speaker, 0.0, clean.end - clean.start, clean.text),),
            start=clean.start,
            duration=clean.end - clean.start,
        )


def _has_subsets(segment: object) -> TypeGuard[dict[str, list[object]]]:
    return isinstance(segment, dict) and isinstance(segment.get("subsets"), list)


def _audios(listing: Path) -> Iterator[Any]:
    """Yield the entries of ``audios``, one at a time."""
    try:
        import ijson
    except ImportError as error:
        raise ConfigError("reading this corpus needs ijson: pip install 'speakerlm-pretrain[corpora]'") from error
    try:
        with listing.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            yield from ijson.items(_Numbers(file), "audios.item", use_float=True, buf_size=BUFFER)
    except (ijson.JSONError, OSError) as error:
        raise ManifestError(f"{listing}: {error}; is the file truncated, or not JSON?") from error


class _Numbers:
    """A file of JSON with null in place of NaN and Infinity, which Python writes and JSON does not have."""

    # The value of a key: inside a string, a quote behind a letter would be escaped.
    _VALUE = re.compile(rb'(?<=\w)("\s*:\s*)(?:NaN|-?Infinity)(?=\s*[,}])')

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Return about `size` bytes, up to the end of a value."""
        data = self._file.read(size)
        while data and size and data[-1:] not in b",}":
            more = self._file.read(1)
            if not more:
                break
            data += more
        return self._VALUE.sub(rb"\1null", data) if b"NaN" in data or b"Infinity" in data else data
