"""``speakerlm-shards view DATASET OUT.html``: samples of a shard as one self-contained page.

For each sample: a player, the waveform, who speaks when, the words, and the cosines between its speaker vectors and
those of the speaker bank. The page needs no server and no network; it embeds the audio, about 1.3 MB per minute.
"""

from __future__ import annotations

import argparse
import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.arguments import natural, positive
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.reader import read_sample
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE, Sample
from shards.sound.audio import decode
from shards.storage.local import LocalStorage

COLOURS = ("#2563a8", "#c2571a", "#2e7d4f", "#8a3fa0", "#a8842a", "#0f7f8c", "#b3304f", "#5b6570")
PEAKS = 900  # columns of a waveform
WIDTH, LEFT, LANE, WAVE = 900, 110, 20, 56  # of the drawing, in SVG units


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


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path."""
    dataset = open_dataset(args.dataset)
    if not 0 <= args.shard < len(dataset.shards):
        raise ConfigError(f"{dataset.url} has shards 0 to {len(dataset.shards) - 1}, not {args.shard}")
    rows = choose(dataset, args.shard, args.samples, args.key)
    data = page(dataset, args.shard, rows).encode()
    LocalStorage(args.out.absolute().parent).write_atomic(args.out.name, data)
    print(f"{args.out}: {len(rows)} samples of {dataset.shards[args.shard].name}, {len(data) / 1e6:.1f} MB")
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


def page(dataset: Dataset, shard: int, rows: Sequence[int]) -> str:
    """Render the page."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.get_template("view.html.j2").render(
        dataset=dataset,
        shard=dataset.shards[shard],
        provenance=dataset.info.get("provenance", {}),
        samples=[_template_variables(read_sample(dataset, shard, row), dataset) for row in rows],
    )


def _template_variables(sample: Sample, dataset: Dataset) -> dict[str, Any]:
    """Return the template's variables of a sample."""
    wave = decode(sample.audio)
    colours = {s: COLOURS[i % len(COLOURS)] for i, s in enumerate(sample.speakers)}
    return {
        "sample": sample,
        "short": {s: short_name(s) for s in sample.speakers},
        "colours": colours,
        "audio": base64.b64encode(sample.audio).decode(),
        "drawing": drawing(sample, wave, colours),
        "level": f"{10 * np.log10(float(np.mean(wave.astype(np.float64) ** 2)) + 1e-12):.1f}",
        "cosines": cosines(sample, dataset),
        "left": LEFT / WIDTH,
        "inner": (WIDTH - LEFT) / WIDTH,
    }


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


def drawing(sample: Sample, wave: np.ndarray, colours: dict[str, str]) -> str:
    """Draw the waveform, and below it one lane per speaker with a bar per segment, as SVG."""
    seconds = len(wave) / SAMPLE_RATE
    scale = (WIDTH - LEFT) / seconds
    height = WAVE + LANE * len(colours) + 16
    out = [f'<path d="{_outline(wave)}" fill="#9aa5b1"/>']
    for lane, (speaker, colour) in enumerate(colours.items()):
        y = WAVE + LANE * lane
        label = html.escape(short_name(speaker)[:14])
        out.append(f'<text x="0" y="{y + 14}">{label}</text>')
        out.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y + 9}" y2="{y + 9}" stroke="#e3e7ea"/>')
        for s in sample.segments:
            if s.speaker == speaker:
                x, width = LEFT + s.start * scale, max(1.5, (s.end - s.start) * scale)
                said = html.escape(f"{s.start:.2f}–{s.end:.2f} s: {s.text}")
                out.append(
                    f'<rect data-at="{s.start:.3f}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="12" rx="2" '
                    f'fill="{colour}"><title>{said}</title></rect>'
                )
    for i in range(6):
        x, anchor = LEFT + i / 5 * (WIDTH - LEFT), ("start" if i == 0 else "end" if i == 5 else "middle")
        out.append(
            f'<text class="tick" x="{x:.0f}" y="{height - 3}" text-anchor="{anchor}">{i / 5 * seconds:.1f} s</text>'
        )
    out.append(f'<line class="head" x1="{LEFT}" x2="{LEFT}" y1="0" y2="{height - 16}"/>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" data-seconds="{seconds:.3f}">{"".join(out)}</svg>'


def _outline(wave: np.ndarray) -> str:
    """Return the highest and lowest value of each column, as one closed path."""
    columns = min(PEAKS, len(wave))
    edges = np.linspace(0, len(wave), columns + 1).astype(int)[:-1]
    high, low = np.maximum.reduceat(wave, edges), np.minimum.reduceat(wave, edges)
    loud = max(float(np.abs(wave).max()), 1e-4)
    x = LEFT + (np.arange(columns) + 0.5) * (WIDTH - LEFT) / columns
    middle, half = WAVE / 2, WAVE / 2 - 3
    above = [f"{a:.1f} {middle - half * float(v) / loud:.1f}" for a, v in zip(x, high, strict=True)]
    below = [f"{a:.1f} {middle - half * float(v) / loud:.1f}" for a, v in zip(x, low, strict=True)][::-1]
    return "M" + "L".join(above + below) + "Z"
