"""``speakerlm-shards card DATASET``: a dataset card, README.md with Hugging Face's front matter, next to the shards."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.info import summarize
from shards.errors import ConfigError
from shards.plugins import load_plugin

CARD = "README.md"
NOT_STATED = "not stated"
# Upper bounds of Hugging Face's size categories.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LOADING = """\
With this project: a recipe's `data.train: [{path: FOLDER}]`, or

```python
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample

sample = read_sample(open_dataset("FOLDER"), 0, 0)  # shard and row; its bytes are checked against the index
print(sample.key, sample.duration, [(s.speaker, s.start, s.end, s.text) for s in sample.segments])
```

The shards are plain WebDataset tars, so other programs read them too, without these checks:

```python
import webdataset

for sample in webdataset.WebDataset("FOLDER/SHARD", shardshuffle=False):
    print(sample["__key__"], len(sample["flac"]), sample["json"])
```"""
PERSONAL = """\
Speech and speaker vectors identify people. Check that their consent and the corpora's terms allow what you plan, before
you train on this data or pass it on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("dataset", help="folder or s3://bucket/prefix of a dataset")
    parser.add_argument(
        "--licence", action="append", default=[], metavar="CORPUS=TEXT",
        help="licence of a corpus, such as mine=cc-by-4.0; repeat for others (default: what this project knows)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"other place than {CARD} of the dataset; - prints it")


def run(args: argparse.Namespace) -> int:
    """Write the card."""
    dataset = open_dataset(args.dataset)
    text = dataset_card(dataset, _licences(args.licence))
    if str(args.out) == "-":
        sys.stdout.write(text)
        return 0
    if args.out is None:
        dataset.storage.write_atomic(CARD, text.encode())
    else:
        try:
            args.out.write_text(text, encoding="utf-8")
        except OSError as e:
            raise ConfigError(f"--out {args.out}: {e.strerror or e}; name a file that can be written") from e
    print(args.out or f"{dataset.url}/{CARD}")
    return 0


def _licences(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        corpus, equals, text = pair.partition("=")
        if not (corpus and equals and text.strip()):
            raise ConfigError(f"--licence {pair!r}: expected CORPUS=TEXT, such as mine=cc-by-4.0")
        found[corpus] = " ".join(text.split())
    return found


def dataset_card(dataset: Dataset, licences: Mapping[str, str] | None = None) -> str:
    """Return the card of a dataset. All indexes are read, no audio.

    Args:
        licences: corpus → its licence; for others that which this project's reader of the corpus states.

    Raises:
        ConfigError: a licence is given for a corpus that the dataset does not hold.
        ShardError: an index is damaged.
    """
    facts = summarize(dataset)
    corpora: Mapping[str, int] = facts["samples_per_corpus"]
    if unknown := sorted(set(licences or {}) - set(corpora)):
        raise ConfigError(f"{dataset.url} holds no corpus {', '.join(unknown)}; it holds {', '.join(corpora)}")
    terms = {c: (licences or {}).get(c) or _stated(c) for c in corpora}
    title = _plain(dataset.name)
    parts = [
        _front_matter(title, facts, terms),
        f"# {title}",
        f"{facts['hours']:.2f} hours of speech in {facts['samples']:,} samples, packed for training and testing models "
        "that write who said what. A sample is 16 kHz mono FLAC, a JSON file with speakers, texts and times, and a "
        "vector of each speaker if speakers were enrolled.",
        _numbers(facts),
        "## Corpora\n\n"
        + _table(("corpus", "samples", "licence"), [(c, f"{corpora[c]:,}", terms[c]) for c in corpora]),
        "## Making\n\n" + _table(("", ""), _provenance(facts["provenance"])),
        "## Loading\n\n" + LOADING.replace("FOLDER", title).replace("SHARD", dataset.shards[0].tar),
        "## People\n\n" + PERSONAL,
    ]
    return "\n\n".join(parts) + "\n"


def _stated(corpus: str) -> str:
    """Return the licence that a reader of a corpus states in ``LICENCE``."""
    try:
        module = load_plugin("corpora", corpus, "shards.corpora")
    except ConfigError:  # a corpus of the user
        return NOT_STATED
    return str(getattr(module, "LICENCE", NOT_STATED))


def _front_matter(title: str, facts: Mapping[str, Any], terms: Mapping[str, str]) -> str:
    """Return YAML; every value is JSON, which is YAML."""
    known = set(terms.values())
    licence = next(iter(known)).lower() if len(known) == 1 and NOT_STATED not in known else "other"
    size = next((name for most, name in SIZES if facts["samples"] < most), "n>10M")
    values = {
        "pretty_name": title,
        "language": [x for x in facts["samples_per_language"] if x != "und"],
        "license": licence if " " not in licence else "other",
        "size_categories": [size],
        "task_categories": ["automatic-speech-recognition"],
        "tags": ["speaker-diarization", "speaker-attributed-transcription", "webdataset", "audio"],
    }
    return "\n".join(["---", *(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in values.items() if v), "---"])


def _numbers(facts: Mapping[str, Any]) -> str:
    by_speakers = ", ".join(f"{n}: {count:,}" for n, count in facts["samples_by_number_of_speakers"].items())
    rows = [
        ("samples", f"{facts['samples']:,}"),
        ("hours", f"{facts['hours']:.2f}"),
        ("length of a sample", f"{facts['seconds_per_sample']} s"),
        ("languages", ", ".join(f"{x} ({n:,})" for x, n in facts["samples_per_language"].items())),
        ("speakers", f"{facts['speakers']:,}"),
        ("sessions", f"{facts['sessions']:,}"),
        ("samples by number of speakers", by_speakers),
        ("characters of text", f"{facts['characters']:,}"),
        ("shards", f"{facts['shards']:,}, {facts['bytes'] / 1e9:.2f} GB"),
        ("fingerprint", f"`{facts['fingerprint']}`"),
    ]
    return _table(("", ""), rows)


def _provenance(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    extractor = found.get("extractor")
    dim, sha256 = found.get("extractor_dim"), found.get("extractor_sha256") or "unknown"
    vectors = f"{extractor}, {dim} numbers, weights' sha256 `{sha256}`" if extractor else "none: no speaker is enrolled"
    rows = [("speaker extractor", vectors)]
    if found.get("self_enrolled"):
        rows.append(("vectors made of a sample's own speech", f"{found['self_enrolled']:,}"))
    named = (("clip rule", "clip_rule"), ("text policy", "normaliser"), ("seed", "seed"), ("version", "tool_version"))
    return rows + [(title, str(found[key])) for title, key in named if found.get(key) is not None]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Return text as one cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")
