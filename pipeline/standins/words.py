"""The words of the demo, and a tokenizer in which each of them is one token."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.data.speaker_names import POOLS
from pipeline.prompts import Mode, PromptTokenizer, prompt_pieces
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_meta

NAMES = POOLS["tiny"]  # the tiny recipes draw from the same pool


def words_by_language(data: Path) -> dict[str, list[str]]:
    """The words of the training utterances, by language; Chinese is cut into characters."""
    words: dict[str, set[str]] = {}
    dataset = open_dataset(str(data / "asr"))
    for shard in range(len(dataset.shards)):
        for meta in read_meta(dataset, shard):
            for segment in meta["segments"]:
                text = segment["text"]
                words.setdefault(meta["language"], set()).update(text if meta["language"] == "zh" else text.split())
    return {language: sorted(found) for language, found in sorted(words.items())}


def write_tokenizer(folder: Path, words: dict[str, list[str]]) -> PromptTokenizer:
    """Byte-level BPE in which every word, name and prompt word of the demo is one token."""
    from pipeline.standins.random_models import make_tokenizer

    frame = [p.text for p in prompt_pieces(Mode.MATCH, ["x"]) + prompt_pieces(Mode.ASR) if hasattr(p, "text")]
    texts = [*frame, "system You are a helpful assistant. user assistant", "spk0 spk1 spk2 spk3"]
    texts += [f" {w}" for found in words.values() for w in found] + [w for found in words.values() for w in found]
    texts += NAMES
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as made:  # encoder and LLM may be made at the same time: both read whole files
        for path in make_tokenizer(Path(made), texts * 3, vocab_size=4000).iterdir():
            path.replace(folder / path.name)
    return PromptTokenizer.from_folder(folder)
