"""Reading and decoding samples, against the loaders that others use, over the same FLAC bytes in one run.

Processor time a sample, of all processes together and with their start; rounds of all loaders interleaved; without
worker processes and with 1 and 2, from the page cache and, without workers, after the files were dropped from it
(posix_fadvise; wall time is shown for that too). The floor decodes the same bytes from memory and does nothing else;
all decode with the same function. Ours reads in random order by ranged reads, each announced with the 16 samples of its
micro-batch, checks the crc32 of every byte, and hands over in shared memory, all as in a run. The others check nothing
and read front to back, but mosaicml-streaming, which reads in random order. "plan + collate" is what a run does for its
data, tokens and padded batches included: no peer does that, so it has no target.
Then the time until the first sample or batch after coming back at 90 % of an epoch, for those that can.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.loader_peers import Peer, energon, floor, lhotse_shar, ours, streaming, webdataset, whole
from pipeline.prompts import PromptTokenizer
from pipeline.standins.random_models import make_tokenizer
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.writer import write_dataset_json, write_shard
from shards.sample import SAMPLE_RATE, Sample, Segment
from shards.sound.audio import encode_flac
from shards.storage.local import LocalStorage

TARGETS = {"over_floor": 1.45}
TEXT = "今天下午三点我们开会"
CASES = ((0, "warm"), (0, "cold"), (1, "warm"), (2, "warm"))


def made(count: int, seconds: float) -> list[Sample]:
    """Coloured noise in syllables, a segment every 4 s."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(1)
    samples = []
    for i in range(count):
        n = round(seconds * SAMPLE_RATE)
        loudness = np.repeat(np.abs(rng.standard_normal(n // 3200 + 1)) * (rng.random(n // 3200 + 1) > 0.2), 3200)[:n]
        wave = np.clip(lfilter([1], [1, -1.6, 0.8], rng.standard_normal(n)) * loudness * 0.01, -1, 1)
        parts = tuple(Segment("c:S1", float(t), float(t) + 3.5, TEXT) for t in range(0, round(seconds) - 3, 4))
        samples.append(Sample(f"c-{i:05d}", "c", "train", f"s{i}", "zh", 0.0, n, parts, encode_flac(wave)))
    return samples


def pack(folder: Path, samples: list[Sample], per_shard: int = 200) -> Dataset:
    """As the packer writes them."""
    storage = LocalStorage(folder)
    groups = [samples[i : i + per_shard] for i in range(0, len(samples), per_shard)]
    infos = [write_shard(storage, f"c-{n:06d}", group) for n, group in enumerate(groups)]
    write_dataset_json(storage, "c", infos, {})
    return open_dataset(folder)


def peers(folder: Path, samples: list[Sample]) -> list[Peer]:
    """All that are installed; who is not is named."""
    dataset = pack(folder / "ours", samples, max(1, len(samples) // 4))
    tokenizer = PromptTokenizer.from_folder(make_tokenizer(folder / "tokenizer", (TEXT,)))
    makers: list[Callable[[], Peer]] = [
        partial(floor, samples), partial(ours, dataset), partial(whole, dataset, tokenizer),
        partial(webdataset, dataset), partial(lhotse_shar, folder, samples), partial(streaming, folder, samples),
        partial(energon, folder, dataset),
    ]  # fmt: skip
    made_: list[Peer] = []
    for make in makers:
        try:
            made_.append(make())
        except ImportError as e:
            print(f"skipped: {e}")
    return made_


def drop(folder: Path) -> None:
    """The folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def processor() -> float:
    """Seconds of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(
    who: list[Peer], folder: Path, count: int, rounds: int
) -> dict[tuple[int, str, str], list[tuple[float, float]]]:
    """(processor, wall) milliseconds a sample by (workers, cache, peer), round by round; the first warms up."""
    found: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for workers, cache in CASES:
            for peer in who:
                if cache == "cold":
                    drop(folder)
                began, clock = processor(), time.perf_counter()
                seen = sum(peer.epoch(workers))
                taken = 1000 * (processor() - began) / count, 1000 * (time.perf_counter() - clock) / count
                assert seen == count, f"{peer.name} gave {seen} of {count} samples"
                found.setdefault((workers, cache, peer.name), []).extend([taken] if number else [])
    return found


def resumed(who: list[Peer], rounds: int) -> dict[str, list[float]]:
    """Milliseconds until the first sample or batch after coming back, interleaved."""
    back = {peer.name: peer.resume() for peer in who if peer.resume is not None}
    found: dict[str, list[float]] = {name: [] for name in back}
    for _ in range(rounds):
        for name, go in back.items():
            began = time.perf_counter()
            go()
            found[name].append(1000 * (time.perf_counter() - began))
    return found


def main() -> int:
    """Run, print the tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of samples")
    parser.add_argument("--seconds", type=float, nargs="+", default=[4.0, 45.0], help="lengths of the samples")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    missed: list[str] = []
    for seconds in args.seconds:
        count = round(2500 * args.scale / seconds)
        with tempfile.TemporaryDirectory(prefix="speakerlm-bench-") as name:
            folder = Path(name)
            who = peers(folder, made(count, seconds))
            found = measure(who, folder, count, args.rounds)
            after = resumed(who, args.rounds)
        print(f"{seconds:g} s: ms of a processor a sample, {count} samples, {args.rounds} interleaved rounds", end=", ")
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for workers, cache in CASES:
            columns = f"{'median':>9}{'least':>9}{'most':>9}{'x floor':>9}{'spread':>14}{'wall':>9}"
            print(f"  {workers} workers, {cache:18}{columns}")
            base = [cpu for cpu, _ in found[workers, cache, "floor"]]
            spans: dict[str, tuple[float, float]] = {}
            for peer in who:
                cpu, wall = zip(*found[workers, cache, peer.name], strict=True)
                over = sorted(c / b for c, b in zip(cpu, base, strict=True))
                spans[peer.name] = over[0], over[-1]
                middle = statistics.median(over)
                figures[f"{peer.name.replace(', ', '_')}_{seconds:g}s_{workers}w_{cache}"] = round(middle, 3)
                print(
                    f"  {peer.name:27}{statistics.median(cpu):9.3f}{min(cpu):9.3f}{max(cpu):9.3f}{middle:9.2f}"
                    f"{over[0]:8.2f}-{over[-1]:.2f}{statistics.median(wall):9.3f}"
                )
            mine = figures[f"ours_crc checked_{seconds:g}s_{workers}w_{cache}"]
            where = f"{seconds:g} s, {workers} workers, {cache}"
            figures["over_floor"] = max(mine, figures.get("over_floor", 0.0))
            missed += [f"{where}: {mine} x floor"] if mine > TARGETS["over_floor"] else []
            others = {n: s for n, s in spans.items() if n != "floor" and not n.startswith("ours")}
            missed += [
                f"{where}: not surely ahead of {n}" for n, s in others.items() if spans["ours, crc checked"][1] >= s[0]
            ]
        for peer_name, taken in after.items():
            figures[f"{peer_name.replace(', ', '_')}_{seconds:g}s_resume_ms"] = round(statistics.median(taken), 1)
            print(
                f"  back at 90 %: {peer_name:22}{statistics.median(taken):9.1f} ms ({min(taken):.1f}-{max(taken):.1f})"
            )
    print("\n".join(["missed:", *missed] if missed else ["nothing missed"]))
    print(json.dumps({"name": "loader", "figures": figures, "targets": TARGETS, "met": not missed}))
    return int(args.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
