"""Long audio files with one large JSON list of their segments, the format of WenetSpeech and GigaSpeech."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shards.errors import ConfigError, ManifestError
from shards.manifests.audit import Audit
from shards.manifests.manifest import Recording
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.segment_cleaning import clean_segments
from shards.manifests.text_policy import TextPolicy
from shards.sample import UNKNOWN, Segment


class LongAudio:
    """A subset of the list ``audios[].{aid, path, duration, segments[].{sid, begin_time, end_time, subsets, …}}``."""

    def __init__(
        self,
        corpus: str,
        language: str,
        listing: Path,
        name: str,
        subset: str,
        field: str,
        options: PrepareOptions,
        before: Callable[[str], str] = str,
    ) -> None:
        self.corpus, self.language, self.listing, self.name, self.subset = corpus, language, listing, name, subset
        self.field, self.before = field, before
        self.audit, self.text = Audit(), TextPolicy(options.text or "plain")

    def prepared(self) -> Prepared:
        """Return the manifest; the list is read while its recordings are iterated."""
        return Prepared(self.name, self._recordings(), (), lambda: {"text": self.text.result()} | self.audit.result())

    def _recordings(self) -> Iterator[Recording]:
        for audio in tqdm(_audios(self.listing), desc=f"{self.corpus} {self.name}", unit="file", disable=None):
            path = self.listing.parent / str(audio["path"])
            wanted = [s for s in audio["segments"] if self._in_subset(s)]
            if wanted and not path.is_file():
                self.audit.skip("missing audio file", f"{path} with {len(wanted)} segments")
                continue
            for segment in wanted:
                recording = self._recording(audio, segment, path)
                if recording is not None:
                    yield recording

    def _in_subset(self, segment: dict[str, Any]) -> bool:
        return self.subset in segment["subsets"] or self.subset.strip("{}") in segment["subsets"]

    def _recording(self, audio: dict[str, Any], segment: dict[str, Any], path: Path) -> Recording | None:
        start, end = float(segment["begin_time"]), float(segment["end_time"])
        speaker = f"{self.corpus}:{UNKNOWN}"
        raw = Segment(speaker, start, end, self.before(str(segment[self.field])))
        kept = clean_segments([raw], float(audio["duration"]), self.text, self.audit, str(segment["sid"]))
        if not kept:
            if not raw.text.strip():
                self.audit.skip("utterance without words", str(segment["sid"]))
            return None
        (clean,) = kept
        return Recording(
            key=re.sub(r"[./\\\s]", "_", str(segment["sid"])),
            corpus=self.corpus,
            split=self.name,
            session=str(audio["aid"]),
            language=self.language,
            audio=str(path.absolute()),
            segments=(Segment(speaker, 0.0, clean.end - clean.start, clean.text),),
            start=clean.start,
            duration=clean.end - clean.start,
        )


def _audios(listing: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of ``audios``, one at a time."""
    try:
        import ijson
    except ImportError as error:
        raise ConfigError("reading this corpus needs ijson: pip install 'speakerlm-pretrain[corpora]'") from error
    try:
        with listing.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            yield from ijson.items(file, "audios.item", use_float=True)
    except (ijson.JSONError, OSError) as error:
        raise ManifestError(f"{listing}: {error}; is the file truncated?") from error
