"""LibriSpeech (openslr 12): English audiobooks.

``train-clean-100/<speaker>/<chapter>/<speaker>-<chapter>-NNNN.flac`` with ``<speaker>-<chapter>.trans.txt``, for every
part; ``SPEAKERS.TXT`` gives the gender. ROOT is the folder ``LibriSpeech`` or its parent. One manifest per part found.
Lhotse's recipe is not used: it does not see linked folders, only logs missing files, and fails on a line without words
without naming it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards.errors import ManifestError
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.manifest import SpeakerInfo
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import keyed_lines, read_text
from shards.manifests.utterances import Utterance, Utterances
from shards.storage.folders import files_below

CORPUS = "librispeech"
LICENCE = "cc-by-4.0"  # as https://openslr.org/12 states it
PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
MINI_PARTS = ("train-clean-5", "dev-clean-2")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest for each part found."""
    base = next((b for b in (root, root / "LibriSpeech") if any((b / p).is_dir() for p in PARTS + MINI_PARTS)), None)
    if base is None:
        raise corpus_not_found(root, "LibriSpeech", f"one of {', '.join(PARTS)}")
    gender = genders(base / "SPEAKERS.TXT")
    found = []
    for part in PARTS + MINI_PARTS:
        if (base / part).is_dir():
            manifest = Utterances(CORPUS, part, "en", [], options)
            manifest.items = _utterances(base, part, gender, manifest.audit)
            found.append(manifest.prepared(part))
    return found


def genders(path: Path) -> dict[str, str]:
    """Read speaker → f or m from ``SPEAKERS.TXT`` (``14 | F | train-clean-360 | 25.03 | name``) if it exists."""
    if not path.is_file():
        return {}
    rows = (line.split("|") for line in read_text(path).split("\n") if line.strip() and not line.startswith(";"))
    return {row[0].strip(): row[1].strip().lower() for row in rows if len(row) > 1}


def _utterances(base: Path, part: str, gender: dict[str, str], audit: Audit) -> Iterator[Utterance]:
    texts: dict[str, str] = {}
    audio: dict[str, Path] = {}
    for path in files_below(base / part):
        if path.name.endswith(".trans.txt"):
            for number, key, text in keyed_lines(path):
                if not text:
                    raise ManifestError(f"{path}:{number}: {key} has no words; remove the line")
                if texts.setdefault(key, text) != text:
                    raise ManifestError(f"{path}:{number}: {key} occurs twice with different words; remove one")
        elif path.suffix == ".flac":
            audio[path.stem] = path
    for key, text in sorted(texts.items()):
        if key not in audio:
            audit.skip("text without audio", key)
            continue
        reader = key.partition("-")[0]
        speaker = f"{CORPUS}:{reader}"
        info = SpeakerInfo(speaker, CORPUS, "en", gender.get(reader), speaker)
        yield Utterance(key, audio[key], info, key.rpartition("-")[0], text)  # session: speaker and chapter
    for key in sorted(audio.keys() - texts.keys()):
        audit.skip("audio without text", str(audio[key]))
