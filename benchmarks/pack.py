"""Packing against the tools that others use, on the same cuts in one run: process CPU time, interleaved rounds.

Copying: FLAC of the right form, against plain ``webdataset.ShardWriter`` fed with the same files and lines of JSON (no
checksums, no index, no sync there, and the manifest's order). Encoding: 16-bit wav, against ``lhotse shar export -a
flac``. Each is timed from its manifest on: ours with planning, permutation, index, checksums, sync and merge, lhotse
with reading its cuts and shuffling them. A floor is work that no packer of this format can avoid. Embedding: CAM++ on a
core, where its weights can be had; at most 16 clips of 2–10 s of a speaker are embedded, so "all speech" is the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
from fastcrc import crc32

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shards.cli import main as shards_main
from shards.errors import SpeakerLMError
from shards.manifests.manifest import RECORDINGS, Recording, read_manifest, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from shards.sound.audio import encode_flac

PER_SHARD = 1000
COPY_PEER, ENCODE_PEER = "webdataset.ShardWriter, copy", "lhotse shar export, encode"
COPY, COPY_DECODED, ENCODE = "pack, copy", "pack, copy, --audio-check decode", "pack, encode"
COPY_FLOOR, ENCODE_FLOOR = "  floor: read, sha256, crc32, write", "  floor: libFLAC alone, level 5"
TARGETS = {"copy_speedup": 1.0, "encode_speedup": 2.0}
HOURS = 600_000


def speech_like(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Coloured noise in syllables and pauses; FLAC takes it to about 0.6, as it does speech."""
    from scipy.signal import lfilter

    count = round(seconds * SAMPLE_RATE)
    loudness = np.repeat(np.abs(rng.standard_normal(count // 3200 + 1)) * (rng.random(count // 3200 + 1) > 0.2), 3200)
    wave: np.ndarray = lfilter([1], [1, -1.6, 0.8], rng.standard_normal(count)) * loudness[:count] * 0.01
    return np.clip(wave, -1, 1)


def make(folder: Path, count: int, seconds: float) -> None:
    """The same cuts as two manifests, one of FLAC and one of wav."""
    rng = np.random.default_rng(1)
    records: dict[str, list[Recording]] = {"flac": [], "wav": []}
    for number in range(count):
        wave = speech_like(rng, seconds)
        segments = (Segment(f"c:S{number % 50}", 0.0, seconds, "今天下午三点我们在会议室讨论一下这个问题" * 2),)
        for form, made in records.items():
            path = folder / form / f"{number:06d}.{form}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
            made.append(Recording(f"c-{number:06d}", "c", "train", f"s{number}", "zh", str(path.absolute()), segments))
    for form, made in records.items():
        write_manifest(folder / form, made, [], {})


def ours(manifest: Path, out: Path, *options: str) -> None:
    """``speakerlm-shards pack``."""
    command = ["pack", str(manifest), str(out), "--no-speakers", "--samples-per-shard", str(PER_SHARD), *options]
    with contextlib.redirect_stdout(None):
        assert shards_main(command) == 0


def shard_writer(manifest: Path, out: Path) -> None:
    """webdataset's writer, as its documentation shows it, over the same lines."""
    import webdataset

    out.mkdir()
    with (
        (manifest / RECORDINGS).open(encoding="utf-8") as lines,
        webdataset.ShardWriter(f"{out}/x-%06d.tar", maxcount=PER_SHARD, verbose=0) as writer,
    ):
        for line in lines:
            record = json.loads(line)
            audio = (manifest / record.pop("audio")).read_bytes()
            writer.write({"__key__": record["key"], "flac": audio, "json": record})


def lhotse_shar(cuts: Path, out: Path) -> None:
    """``lhotse shar export -a flac CUTS OUT``."""
    from lhotse.bin.modes.shar import export

    given = {p.name: p.default for p in export.params} | {"cuts": str(cuts), "outdir": str(out), "audio": "flac"}
    assert export.callback
    export.callback(**given | {"shard_size": PER_SHARD, "custom": [], "verbose": 0})


def lhotse_cuts(manifest: Path) -> Path:
    """The manifest as lhotse's cuts; its making is not timed."""
    from lhotse import CutSet, MonoCut, SupervisionSegment
    from lhotse import Recording as LhotseRecording

    cuts = []
    for r in read_manifest(manifest):
        recording = LhotseRecording.from_file(r.audio, recording_id=r.key)
        s = r.segments[0]
        said = SupervisionSegment(r.key, r.key, s.start, s.end, text=s.text, speaker=s.speaker)
        cuts.append(MonoCut(r.key, 0.0, recording.duration, 0, [said], recording=recording))
    CutSet.from_cuts(cuts).to_file(manifest / "cuts.jsonl")
    return manifest / "cuts.jsonl"


def copy_floor(manifest: Path, out: Path) -> None:
    """Read the files, hash them twice, write them."""
    digest = hashlib.sha256()
    with out.open("wb", buffering=1 << 20) as file:
        for audio in sorted(manifest.glob("*.flac")):
            data = audio.read_bytes()
            crc32.iso_hdlc(data)
            digest.update(data)
            file.write(data)


def encode_floor(waves: list[np.ndarray], out: Path) -> None:
    """libFLAC, on samples that are in memory already, at the level that both tools leave it at."""
    out.touch()
    for wave in waves:
        encode_flac(wave)


def cpu(work: Callable[[Path], None], folder: Path) -> float:
    """CPU seconds of this process, all threads, kernel included; the output is removed."""
    out = folder / "out"
    begin = time.process_time()
    work(out)
    seconds = time.process_time() - begin
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return seconds


def embedding_factor(manifest: Path, seconds: float) -> float | None:
    """Seconds of speech that one core embeds in a second; None where the weights cannot be had."""
    import torch

    from shards.voices.extractors import load_extractor
    from shards.voices.features import log_mel

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
    return len(waves) * seconds / (time.process_time() - begin)


def measure(args: argparse.Namespace, folder: Path) -> tuple[dict[str, list[float]], float | None]:
    """CPU seconds of every work in every round, and the embedding factor."""
    make(folder, args.cuts, args.seconds)
    flac, wav = folder / "flac", folder / "wav"
    waves = [soundfile.read(p, dtype="int16")[0] for p in sorted(wav.glob("*.wav"))[: args.cuts]]
    works: dict[str, Callable[[Path], None]] = {
        COPY_PEER: lambda out: shard_writer(flac, out),
        COPY: lambda out: ours(flac, out),
        COPY_DECODED: lambda out: ours(flac, out, "--audio-check", "decode"),
        COPY_FLOOR: lambda out: copy_floor(flac, out),
        ENCODE: lambda out: ours(wav, out),
        ENCODE_FLOOR: lambda out: encode_floor(waves, out),
    }
    try:
        cuts = lhotse_cuts(wav)
        works[ENCODE_PEER] = lambda out: lhotse_shar(cuts, out)
    except ImportError:
        print("lhotse is not installed (benchmarks/requirements.txt): the comparison with encoding is skipped")
    rounds: dict[str, list[float]] = {work: [] for work in works}
    for number in range(args.rounds + 1):
        for work, call in works.items():
            seconds = cpu(call, folder)
            rounds[work] += [seconds] if number else []  # the first round imports
    return rounds, embedding_factor(wav, args.seconds)


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a cut")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="speakerlm-bench-") as name:
        rounds, factor = measure(args, Path(name))
    return report(rounds, args, factor)


def report(rounds: dict[str, list[float]], args: argparse.Namespace, factor: float | None) -> int:
    """The table, the projection and the line of JSON."""
    speech = args.cuts * args.seconds
    median = {work: statistics.median(seconds) for work, seconds in rounds.items()}
    print(f"{args.cuts} cuts of {args.seconds:g} s, {args.rounds} rounds, interleaved; CPU time of the process")
    print(f"{'':42}{'ms a cut':>10}{'least':>8}{'most':>8}{'x real time':>13}")
    for work, seconds in rounds.items():
        of_cut = [1000 * s / args.cuts for s in (median[work], min(seconds), max(seconds))]
        print(f"{work:42}{of_cut[0]:10.3f}{of_cut[1]:8.3f}{of_cut[2]:8.3f}{speech / median[work]:13,.0f}")
    figures: dict[str, float | None] = {
        "copy_speedup": median[COPY_PEER] / median[COPY],
        "copy_speedup_least": min(a / b for a, b in zip(rounds[COPY_PEER], rounds[COPY], strict=True)),
        "copy_speedup_decoded": median[COPY_PEER] / median[COPY_DECODED],
        "copy_floor_share": median[COPY_FLOOR] / median[COPY],
        "encode_floor_share": median[ENCODE_FLOOR] / median[ENCODE],
        "embedding_x_real_time_per_core": factor,
    }
    if ENCODE_PEER in median:
        figures["encode_speedup"] = median[ENCODE_PEER] / median[ENCODE]
        figures["encode_speedup_least"] = min(a / b for a, b in zip(rounds[ENCODE_PEER], rounds[ENCODE], strict=True))
        figures["encode_speedup_of_libflac_alone"] = median[ENCODE_PEER] / median[ENCODE_FLOOR]
    figures |= projection({"copy": median[COPY] / speech, "encode": median[ENCODE] / speech}, factor)
    rounded = {name: value and round(value, 3) for name, value in figures.items()}
    met = all((figures.get(name) or 0) >= least for name, least in TARGETS.items())
    print(json.dumps({"name": "pack", "figures": rounded, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


def projection(cost: dict[str, float], factor: float | None) -> dict[str, float | None]:
    """Print the cost of 600,000 h; return core hours for the line of JSON. `cost`: CPU seconds a second of speech."""
    hours: dict[str, float | None] = {kind: HOURS * seconds for kind, seconds in cost.items()}
    if factor:
        hours["embed_all_speech_once"] = HOURS / factor
    print(f"\n{HOURS:,} h of speech{'':12}{'core hours':>12}{'days on 64 cores':>18}{'days on 512 cores':>19}")
    for kind, value in hours.items():
        if value is not None:
            print(f"  {kind:26}{value:14,.0f}{value / 64 / 24:18.2f}{value / 512 / 24:19.2f}")
    return {f"core_hours_600000h_{kind}": value for kind, value in hours.items()}


if __name__ == "__main__":
    sys.exit(main())
