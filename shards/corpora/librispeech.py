"""LibriSpeech (openslr 12): English audiobooks, read by Lhotse's recipe.

``train-clean-100/<speaker>/<chapter>/<speaker>-<chapter>-NNNN.flac`` with ``<speaker>-<chapter>.trans.txt``, for every
part; ``SPEAKERS.TXT`` gives the gender. ROOT is the folder ``LibriSpeech`` or its parent. One manifest per part found.
Utterances with missing files, which the recipe only logs, are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.corpora.lhotse import lhotse_module
from shards.errors import ManifestError
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepare_types import Prepared, PrepareOptions, sorted_speakers
from shards.manifests.text_files import keyed_lines, read_text
from shards.manifests.text_policy import TextPolicy
from shards.sample import Segment

CORPUS = "librispeech"
PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
MINI_PARTS = ("train-clean-5", "dev-clean-2")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest for each part found."""
    base = next((b for b in (root, root / "LibriSpeech") if any((b / p).is_dir() for p in PARTS + MINI_PARTS)), None)
    if base is None:
        raise corpus_not_found(root, "LibriSpeech", f"one of {', '.join(PARTS)}")
    gender = genders(base / "SPEAKERS.TXT")
    return [_Part(base, part, gender, options).prepared() for part in PARTS + MINI_PARTS if (base / part).is_dir()]


def genders(path: Path) -> dict[str, str]:
    """Read speaker → f or m from ``SPEAKERS.TXT`` (``14 | F | train-clean-360 | 25.03 | name``) if it exists."""
    if not path.is_file():
        return {}
    rows = (line.split("|") for line in read_text(path).split("\n") if line.strip() and not line.startswith(";"))
    return {row[0].strip(): row[1].strip().lower() for row in rows if len(row) > 1}


class _Part:
    """A manifest of one part."""

    def __init__(self, base: Path, part: str, gender: dict[str, str], options: PrepareOptions) -> None:
        self.base, self.part, self.gender, self.options = base, part, gender, options
        self.audit, self.text = Audit(), TextPolicy(options.text or "plain")
        self.speakers: dict[str, SpeakerInfo] = {}

    def prepared(self) -> Prepared:
        return Prepared(
            self.part,
            self._recordings(),
            sorted_speakers(self.speakers),
            lambda: {"text": self.text.result()} | self.audit.result(),
        )

    def _recordings(self) -> Iterator[Recording]:
        recipe = lhotse_module("lhotse.recipes.librispeech").prepare_librispeech
        transcribed = {key for path in sorted((self.base / self.part).rglob("*.trans.txt")) for key in self._keys(path)}
        try:
            made = recipe(self.base, dataset_parts=[self.part], num_jobs=max(1, self.options.workers))[self.part]
        except (ValueError, AssertionError, OSError) as error:
            raise ManifestError(f"{self.base / self.part}: Lhotse's recipe failed: {error}") from error
        files = {r.id: r for r in made["recordings"]}
        for s in sorted(made["supervisions"], key=lambda s: s.id):
            transcribed.discard(s.recording_id)
            recording = self._recording(s, files[s.recording_id])
            if recording is not None:
                yield recording
        for key in sorted(transcribed):
            self.audit.skip("text without audio", key)

    def _keys(self, path: Path) -> Iterator[str]:
        """Yield the keys of a transcript file; the recipe would fail on a line without words and not name it."""
        for number, key, text in keyed_lines(path):
            if not text:
                raise ManifestError(f"{path}:{number}: {key} has no words; remove the line")
            yield key

    def _recording(self, s: Any, file: Any) -> Recording | None:
        text = self.text(s.text)
        if not text:
            self.audit.skip("utterance without words", f"{s.id}: {s.text[:40]!r}")
            return None
        speaker = f"{CORPUS}:{s.speaker}"
        info = SpeakerInfo(speaker, CORPUS, "en", self.gender.get(s.speaker), speaker)
        self.speakers.setdefault(speaker, info)
        return Recording(
            key=s.id,
            corpus=CORPUS,
            split=self.part,
            session=s.id.rpartition("-")[0],  # speaker and chapter
            language="en",
            audio=str(Path(file.sources[0].source).absolute()),
            segments=(Segment(speaker, 0.0, file.duration, text),),
            duration=file.duration,
        )
