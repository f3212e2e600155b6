"""AISHELL-1 (openslr 33): Mandarin read speech.

``data_aishell/wav/{train,dev,test}/S0002/*.wav`` and ``transcript/aishell_transcript_v0.8.txt``, one file for all
splits, whose spaces between words are removed. Some recordings have no text. ``resource_aishell/speaker.info``, of the
second archive, gives genders (``0002 F``). ROOT is ``data_aishell`` or its parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from shards.manifests.audio_files import audio_by_stem
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.manifest import SpeakerInfo
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import read_genders_of, read_table
from shards.manifests.utterances import Utterance, Utterances

CORPUS = "aishell1"
LICENCE = "apache-2.0"  # as https://openslr.org/33 states it
TEXTS = Path("transcript/aishell_transcript_v0.8.txt")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest for each split found."""
    base = next((b for b in (root, root / "data_aishell") if (b / TEXTS).is_file()), None)
    if base is None:
        raise corpus_not_found(root, "AISHELL-1", f"data_aishell/wav and data_aishell/{TEXTS}")
    info = (b / "resource_aishell" / "speaker.info" for b in (base.parent, base))
    genders = next((read for path in info if (read := read_genders_of(path))), {})
    found = []
    for split in ("train", "dev", "test"):
        if (base / "wav" / split).is_dir():
            manifest = Utterances(CORPUS, split, "zh", [], options)
            manifest.items = _utterances(base, split, genders, manifest.audit)
            found.append(manifest.prepared(split))
    return found


def _utterances(base: Path, split: str, genders: Mapping[str, str], audit: Audit) -> Iterator[Utterance]:
    texts = read_table(base / TEXTS)  # of all splits, so texts without audio are not counted
    for key, path in audio_by_stem(base / "wav" / split, audit).items():
        if key not in texts:
            audit.skip("audio without text", str(path))
            continue
        name = path.parent.name
        speaker, gender = f"{CORPUS}:{name}", genders.get(name) or genders.get(name.removeprefix("S"))
        yield Utterance(key, path, SpeakerInfo(speaker, CORPUS, "zh", gender, speaker), key, texts[key])
