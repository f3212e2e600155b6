"""``speakerlm-shards view DATASET OUT.html``: samples of a shard as one self-contained page.

For each sample: a player, the waveform, who speaks when, the words, and the cosines between its speaker vectors and
those of the speaker bank. ``--show`` adds texts that plug-ins make of a sample: a view is an entry point of group
``speakerlm.views``, a module with ``TITLE`` and ``show(sample) -> [(who, text), …]``. The page needs no server and no
network; it embeds the audio, about 1.3 MB per minute.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.arguments import natural, positive
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.pages import TEMPLATES, Bar, Lane, Timeline, people_colours, render, write_page
from shards.dataset.reader import read_sample
from shards.errors import ConfigError, SpeakerLMError
from shards.plugins import load_plugin
from shards.sample import SAMPLE_RATE, Sample
from shards.sound.audio import decode

TEMPLATE = TEMPLATES / "view.html.j2"
GROUP = "views"
PEAKS = 1000  # columns of a waveform, at most
DEFINITIONS = {
    "level": "Mean power of the sample in decibels below full scale. Speech is usually at −35 to −15.",
    "cosine": "Similarity of two voices by their vectors: 1 for the same direction, near 0 for unrelated voices.",
    "Samples": "Conversations or utterances in this shard; the page shows some of them.",
    "Hours": "Length of all audio in this shard.",
    "Speakers": "Different persons in the samples of this page. A person has one colour in all of them.",
}


@dataclass(frozen=True)
class Cosines:
    """Cosines of a sample's vectors; rows and columns are its speakers."""

    speakers: tuple[str, ...]
    own: tuple[tuple[float, ...], ...]
    bank: tuple[float | None, ...]  # with the bank's vector of the same speaker; None if the bank has none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("dataset", help="folder or s3://bucket/prefix")
    parser.add_argument("out", type=Path, help="the page to write, .html")
    parser.add_argument("--shard", type=natural, default=0, help="number of the shard (default 0)")
    parser.add_argument("--samples", type=positive, default=8, help="samples, spread over the shard (default 8)")
    parser.add_argument("--key", action="append", default=[], help="key of a sample; may be repeated")
    parser.add_argument(
        "--show", action="append", default=[], metavar="VIEW", help="add this view, such as dialogue; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path."""
    dataset = open_dataset(args.dataset)
    if not 0 <= args.shard < len(dataset.shards):
        raise ConfigError(f"{dataset.url} has shards 0 to {len(dataset.shards) - 1}, not {args.shard}")
    rows = choose(dataset, args.shard, args.samples, args.key)
    views = [load_plugin(GROUP, name) for name in dict.fromkeys(args.show)]
    write_page(args.out, page(dataset, args.shard, rows, views))
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {len(rows)} samples of {dataset.shards[args.shard].name}, {size:.1f} MB")
    return 0


def choose(dataset: Dataset, shard: int, count: int, keys: Sequence[str]) -> list[int]:
    """Return the rows of the named samples, or of `count` spread evenly over the shard.

    Raises:
        ConfigError: a key that is not in the shard.
    """
    there = dataset.index(shard)["key"].to_pylist()
    if not keys:
        return sorted({int(i) for i in np.linspace(0, len(there) - 1, min(count, len(there))).round()})
    if missing := [k for k in keys if k not in there]:
        raise ConfigError(f"{dataset.url}: {dataset.shards[shard].name} has no sample {missing[0]!r}")
    return [there.index(k) for k in keys]


def page(dataset: Dataset, shard: int, rows: Sequence[int], views: Sequence[Any] = ()) -> str:
    """Render the page."""
    samples = [read_sample(dataset, shard, row) for row in rows]
    colours = people_colours(s.speakers for s in samples)
    about = dataset.shards[shard]
    tiles = [
        {"name": "Samples", "value": f"{about.samples:,}", "note": f"in the shard, {len(samples)} on this page"},
        {"name": "Hours", "value": f"{about.seconds / 3600:,.2f}", "unit": "h", "note": "of audio in the shard"},
        {"name": "Speakers", "value": f"{len(colours)}", "note": f"in the {len(samples)} samples on this page"},
    ]
    values = {
        "dataset": dataset,
        "shard": about,
        "provenance": dataset.info.get("provenance", {}),
        "tiles": tiles,
        "colours": colours,
        "people": [(short_name(s), c) for s, c in colours.items()],
        "samples": [_template_variables(s, dataset, views, colours) for s in samples],
    }
    return render(TEMPLATE, values, DEFINITIONS)


def _template_variables(
    sample: Sample, dataset: Dataset, views: Sequence[Any], colours: Mapping[str, str]
) -> dict[str, Any]:
    """Return the template's variables of a sample."""
    wave = decode(sample.audio)
    return {
        "sample": sample,
        "short": {s: short_name(s) for s in sample.speakers},
        "audio": base64.b64encode(sample.audio).decode(),
        "timeline": timeline(sample, wave, colours),
        "turns": [(s.start, s.end, short_name(s.speaker), colours[s.speaker], s.text) for s in sample.segments],
        "level": f"{10 * np.log10(float(np.mean(wave.astype(np.float64) ** 2)) + 1e-12):.1f}",
        "cosines": cosines(sample, dataset),
        "views": [_view(view, sample) for view in views],
    }


def _view(view: Any, sample: Sample) -> tuple[str, list[tuple[str, str]]]:
    """Return title and rows of a view; a sample that it cannot show has its reason."""
    try:
        return view.TITLE, list(view.show(sample))
    except SpeakerLMError as error:
        return view.TITLE, [("", str(error))]


def short_name(speaker: str) -> str:
    """Return the last part of a speaker id."""
    return speaker.rpartition(":")[2] or speaker


def cosines(sample: Sample, dataset: Dataset) -> Cosines | None:
    """Compute the cosines of a sample; None if it has no vectors."""
    if sample.embeddings is None:
        return None
    vectors = _unit(sample.embeddings.astype(np.float32))
    bank, of_bank = dataset.speakers, []
    known = set(bank.ids) if bank is not None else set()
    for speaker, vector in zip(sample.speakers, vectors, strict=True):
        theirs = None
        if bank is not None and speaker in known:
            theirs = float(_unit(np.asarray(bank.vectors[bank.row(speaker)], np.float32)) @ vector)
        of_bank.append(theirs)
    own = tuple(tuple(float(x) for x in row) for row in vectors @ vectors.T)
    return Cosines(sample.speakers, own, tuple(of_bank))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def timeline(sample: Sample, wave: np.ndarray, colours: Mapping[str, str]) -> Timeline:
    """Return the waveform, and one lane per speaker with a bar per segment."""
    lanes = tuple(
        Lane(
            short_name(speaker),
            colours[speaker],
            tuple(Bar(s.start, s.end, s.text) for s in sample.segments if s.speaker == speaker),
        )
        for speaker in sample.speakers
    )
    return Timeline(lanes, len(wave) / SAMPLE_RATE, _outline(wave))


def _outline(wave: np.ndarray) -> str:
    """Return the highest and lowest value of each column as one closed path in a box of 1000 × 100."""
    columns = min(PEAKS, len(wave))
    edges = np.linspace(0, len(wave), columns + 1).astype(int)[:-1]
    high, low = np.maximum.reduceat(wave, edges), np.minimum.reduceat(wave, edges)
    loud = max(float(np.abs(wave).max()), 1e-4)
    x = (np.arange(columns) + 0.5) * 1000 / columns
    above = [f"{a:.1f} {50 - 47 * float(v) / loud:.1f}" for a, v in zip(x, high, strict=True)]
    below = [f"{a:.1f} {50 - 47 * float(v) / loud:.1f}" for a, v in zip(x, low, strict=True)][::-1]
    return "M" + "L".join(above + below) + "Z"
