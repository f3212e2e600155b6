"""AISHELL-2: Mandarin read speech, one folder per speaker.

::

    AISHELL-2/iOS/data/{trans.txt, wav/C0001/IC0001W0001.wav}     AISHELL-2/iOS/{dev,test}/{trans.txt, wav/…}

ROOT is the folder that contains ``data`` (or ``AISHELL-2/iOS/data``). Manifests: those of ``train``, ``dev`` and
``test`` that are found. ``spk_info.txt`` beside a split's ``trans.txt`` gives genders if it exists. In texts 𫖯
becomes 頫 and hyphens become spaces. Lhotse's recipe is not used: it fails if one of the three splits is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards.manifests.audio_files import audio_by_stem
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.manifest import SpeakerInfo
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import read_genders_of, read_table
from shards.manifests.utterances import Utterance, Utterances

CORPUS = "aishell2"
SPLITS = {"train": "data", "dev": "dev", "test": "test"}
VARIANTS = str.maketrans({"\U0002b5af": "頫"})


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest for each split found."""
    bases = (root, root / "iOS", root / "AISHELL-2" / "iOS", root / "AISHELL-DEV-TEST-SET" / "iOS")
    found = []
    for split, name in SPLITS.items():
        folder = next((b / name for b in bases if (b / name / "trans.txt").is_file()), None)
        if folder is not None:
            manifest = Utterances(CORPUS, split, "zh", [], options)
            manifest.items = _utterances(folder, split, manifest.audit)
            found.append(manifest.prepared(split))
    if not found:
        raise corpus_not_found(root, "AISHELL-2", "data/trans.txt, dev/trans.txt or test/trans.txt, each next to wav/")
    return found


def _utterances(folder: Path, split: str, audit: Audit) -> Iterator[Utterance]:
    texts, genders = read_table(folder / "trans.txt"), read_genders_of(folder / "spk_info.txt")
    for key, path in audio_by_stem(folder / "wav", audit).items():
        text = texts.pop(key, None)
        if text is None:
            audit.skip("audio without text", str(path))
            continue
        speaker, gender = f"{CORPUS}:{path.parent.name}", genders.get(path.parent.name)
        text = text.translate(VARIANTS).replace("-", " ")
        yield Utterance(key, path, SpeakerInfo(speaker, CORPUS, "zh", gender, speaker), key, text)
    for key in texts:
        audit.skip("text without audio", f"{split}: {key}")
