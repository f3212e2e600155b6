"""Packing against the tools that others use, on the same cuts in one run: process CPU time, interleaved rounds.

Copying: FLAC of the right form, against plain ``webdataset.ShardWriter`` fed with the same files and JSON (no
checksums, no index there). Encoding: 16-bit wav, against what ``lhotse shar export -a flac`` runs. The whole command
is timed, planning, index, checksums and sync included. Embedding: CAM++ on one core, where its weights can be had.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shards.cli import main as shards_main
from shards.errors import SpeakerLMError
from shards.manifests import Recording, read_manifest, write_manifest
from shards.sample import SAMPLE_RATE, Segment

SECONDS = 8.0
TARGETS = {"copy_speedup": 1.0, "encode_speedup": 2.0}
HOURS = 600_000


def speech_like(rng: np.random.Generator) -> np.ndarray:
    """Coloured noise in syllables and pauses; FLAC takes it to about 0.6, as it does speech."""
    from scipy.signal import lfilter

    count = round(SECONDS * SAMPLE_RATE)
    loudness = np.repeat(np.abs(rng.standard_normal(count // 3200 + 1)) * (rng.random(count // 3200 + 1) > 0.2), 3200)
    wave: np.ndarray = lfilter([1], [1, -1.6, 0.8], rng.standard_normal(count)) * loudness[:count] * 0.01
    return np.clip(wave, -1, 1)


def make(folder: Path, count: int) -> None:
    """The same cuts as two manifests, one of FLAC and one of wav."""
    rng = np.random.default_rng(1)
    records: dict[str, list[Recording]] = {"flac": [], "wav": []}
    for number in range(count):
        wave = speech_like(rng)
        segments = (Segment(f"c:S{number % 50}", 0.0, SECONDS, "今天下午三点我们在会议室讨论一下这个问题" * 2),)
        for form, made in records.items():
            path = folder / form / f"{number:06d}.{form}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
            made.append(Recording(f"c-{number:06d}", "c", "train", f"s{number}", "zh", str(path.absolute()), segments))
    for form, made in records.items():
        write_manifest(folder / form, made, [], {})


def ours(manifest: Path, out: Path, *options: str) -> None:
    """``speakerlm-shards pack``."""
    command = ["pack", str(manifest), str(out), "--no-speakers", "--samples-per-shard", "1000", *options]
    with contextlib.redirect_stdout(None):
        assert shards_main(command) == 0


def shard_writer(manifest: Path, out: Path) -> None:
    """webdataset's writer, as its documentation shows it, over the same manifest."""
    import webdataset

    out.mkdir()
    with webdataset.ShardWriter(f"{out}/x-%06d.tar", maxcount=1000, verbose=0) as writer:
        for r in read_manifest(manifest):
            about = {"corpus": r.corpus, "session": r.session, "segments": [asdict(s) for s in r.segments]}
            writer.write({"__key__": r.key, "flac": Path(r.audio).read_bytes(), "json": about})


def lhotse_shar(cuts: Any, out: Path) -> None:
    """What ``lhotse shar export`` runs for audio as FLAC."""
    out.mkdir()
    cuts.to_shar(out, fields={"recording": "flac"}, shard_size=1000, verbose=False)


def lhotse_cuts(manifest: Path) -> Any:
    """The manifest as a CutSet; its making is not timed."""
    from lhotse import CutSet, MonoCut, SupervisionSegment
    from lhotse import Recording as LhotseRecording

    cuts = []
    for r in read_manifest(manifest):
        recording = LhotseRecording.from_file(r.audio, recording_id=r.key)
        said = SupervisionSegment(r.key, r.key, 0.0, SECONDS, text=r.segments[0].text, speaker=r.segments[0].speaker)
        cuts.append(MonoCut(r.key, 0.0, recording.duration, 0, [said], recording=recording))
    return CutSet.from_cuts(cuts)


def cpu(work: Callable[[Path], None], folder: Path) -> float:
    """CPU seconds of this process, all threads; the output is removed."""
    out = folder / "out"
    begin = time.process_time()
    work(out)
    seconds = time.process_time() - begin
    shutil.rmtree(out)
    return seconds


def embedding_factor(manifest: Path) -> float | None:
    """Seconds of speech that one core embeds in a second; None where the weights cannot be had."""
    import torch

    from shards.extractors import load_extractor, log_mel

    torch.set_num_threads(1)
    try:
        extractor = load_extractor("campplus")
    except SpeakerLMError:
        return None
    waves = [soundfile.read(r.audio, dtype="float32")[0] for r in islice(read_manifest(manifest), 12)]
    extractor.embed_features([log_mel(waves[0])])
    begin = time.process_time()
    for wave in waves:
        extractor.embed_features([log_mel(wave)])
    return len(waves) * SECONDS / (time.process_time() - begin)


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--cuts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="speakerlm-bench-") as name:
        folder = Path(name)
        make(folder, args.cuts)
        works: dict[str, Callable[[Path], None]] = {
            "webdataset.ShardWriter, copy": lambda out: shard_writer(folder / "flac", out),
            "pack, copy": lambda out: ours(folder / "flac", out),
            "pack, copy, ends checked": lambda out: ours(folder / "flac", out, "--audio-check", "end"),
            "pack, encode": lambda out: ours(folder / "wav", out),
        }
        try:
            cuts = lhotse_cuts(folder / "wav")
            works["lhotse shar export, encode"] = lambda out: lhotse_shar(cuts, out)
        except ImportError:
            print("lhotse is not installed (benchmarks/requirements.txt): the comparison when encoding is left out")
        rounds: dict[str, list[float]] = {work: [] for work in works}
        for number in range(args.rounds + 1):
            for work, call in works.items():
                seconds = cpu(call, folder)
                rounds[work] += [seconds] if number else []  # the first round imports
        factor = embedding_factor(folder / "wav")
    return report(rounds, args, factor)


def report(rounds: dict[str, list[float]], args: argparse.Namespace, factor: float | None) -> int:
    """The table, the projection and the line of JSON."""
    speech = args.cuts * SECONDS
    median = {work: statistics.median(seconds) for work, seconds in rounds.items()}
    print(f"{args.cuts} cuts of {SECONDS:g} s, {args.rounds} rounds, interleaved; CPU time of the process")
    print(f"{'':30}{'ms a cut':>10}{'least':>8}{'most':>8}{'x real time':>13}{'core hours for 600,000 h':>26}")
    for work, seconds in rounds.items():
        of_cut = [1000 * s / args.cuts for s in (median[work], min(seconds), max(seconds))]
        rate = speech / median[work]
        print(f"{work:30}{of_cut[0]:10.3f}{of_cut[1]:8.3f}{of_cut[2]:8.3f}{rate:13.0f}{HOURS / rate:26.0f}")
    figures: dict[str, float | None] = {
        "copy_speedup": median["webdataset.ShardWriter, copy"] / median["pack, copy, ends checked"],
        "copy_speedup_all_decoded": median["webdataset.ShardWriter, copy"] / median["pack, copy"],
        "embedding_x_real_time_per_core": factor,
        "core_hours_600000h_copy": HOURS * median["pack, copy"] / speech,
        "core_hours_600000h_encode": HOURS * median["pack, encode"] / speech,
    }
    if "lhotse shar export, encode" in median:
        figures["encode_speedup"] = median["lhotse shar export, encode"] / median["pack, encode"]
    if factor:
        print(f"embedding: {factor:.0f} times real time on one core")
    rounded = {name: value and round(value, 3) for name, value in figures.items()}
    met = all((figures.get(name) or 0) >= least for name, least in TARGETS.items())
    print(json.dumps({"name": "pack", "figures": rounded, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
