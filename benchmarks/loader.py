"""Reading and decoding samples, against the loaders that others use, over the same FLAC bytes in one run.

Process CPU time a sample, rounds interleaved, files in the page cache, no worker processes. The floor decodes the same
bytes from memory and does nothing else. Ours reads in random order by ranged reads and checks every crc32; the others
read front to back, check nothing, and give audio and metadata too. Peers that are not installed (see
benchmarks/requirements.txt) are left out and named.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import io
import json
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shards.audio import decode, encode_flac
from shards.index import Dataset, open_dataset
from shards.reader import read_sample
from shards.sample import SAMPLE_RATE, Sample, Segment
from shards.storage import LocalStorage
from shards.writer import write_dataset_json, write_shard

TARGETS = {"over_floor": 1.45}
Loader = Callable[[], Iterator[Any]]


def made(count: int, seconds: float) -> list[Sample]:
    """Coloured noise in syllables, a segment every 4 s."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(1)
    samples = []
    for i in range(count):
        n = round(seconds * SAMPLE_RATE)
        loudness = np.repeat(np.abs(rng.standard_normal(n // 3200 + 1)) * (rng.random(n // 3200 + 1) > 0.2), 3200)[:n]
        wave = np.clip(lfilter([1], [1, -1.6, 0.8], rng.standard_normal(n)) * loudness * 0.01, -1, 1)
        parts = tuple(
            Segment("c:S1", float(t), float(t) + 3.5, "今天下午三点我们开会") for t in range(0, round(seconds) - 3, 4)
        )
        samples.append(Sample(f"c-{i:05d}", "c", "train", f"s{i}", "zh", 0.0, n, parts, encode_flac(wave)))
    return samples


def pack(folder: Path, samples: list[Sample], per_shard: int = 200) -> Dataset:
    """As the packer writes them."""
    storage = LocalStorage(folder)
    groups = [samples[i : i + per_shard] for i in range(0, len(samples), per_shard)]
    infos = [write_shard(storage, f"c-{n:06d}", group) for n, group in enumerate(groups)]
    write_dataset_json(storage, "c", infos, {})
    return open_dataset(folder)


def floor(samples: list[Sample]) -> Loader:
    """Decoding alone."""
    return lambda: (decode(s.audio) for s in samples)


def ours(dataset: Dataset) -> Loader:
    """Random order, ranged reads, crc32 of every byte, parsed metadata."""
    places = [(shard, row) for shard, info in enumerate(dataset.shards) for row in range(info.samples)]
    order = np.random.default_rng(0).permutation(len(places)).tolist()

    def one(place: tuple[int, int]) -> tuple[Sample, np.ndarray]:
        sample = read_sample(dataset, *place)
        return sample, decode(sample.audio)

    return lambda: (one(places[i]) for i in order)


def webdataset(dataset: Dataset) -> Loader:
    """The plain pipeline of its documentation, over our tars."""
    import webdataset as wds

    urls = [str(dataset.storage.local_path(s.tar)) for s in dataset.shards]

    def audio(key: str, data: bytes) -> Any:
        return soundfile.read(io.BytesIO(data), dtype="float32")[0] if key.endswith("flac") else None

    return lambda: iter(wds.WebDataset(urls, shardshuffle=False).shuffle(1000).decode(audio).to_tuple("flac", "json"))


def lhotse_shar(folder: Path, samples: list[Sample]) -> Loader:
    """``lhotse shar export`` as FLAC, read lazily."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.audio import AudioSource
    from lhotse.shar import SharWriter

    (folder / "lhotse").mkdir()
    with SharWriter(str(folder / "lhotse"), fields={"recording": "flac"}, shard_size=200) as writer:
        for s in samples:
            source = AudioSource("memory", [0], s.audio)
            seconds = s.num_samples / SAMPLE_RATE
            said = [
                SupervisionSegment(f"{s.key}-{i}", s.key, g.start, g.end - g.start, text=g.text, speaker=g.speaker)
                for i, g in enumerate(s.segments)
            ]
            recording = Recording(s.key, [source], SAMPLE_RATE, s.num_samples, seconds)
            writer.write(MonoCut(s.key, 0.0, seconds, 0, said, recording=recording))
    return lambda: ((c, c.load_audio()) for c in CutSet.from_shar(in_dir=str(folder / "lhotse")))


def streaming(folder: Path, samples: list[Sample]) -> Loader:
    """mosaicml-streaming's MDS with the FLAC as bytes, from a local folder."""
    _without_torchvision()
    from streaming import MDSWriter, StreamingDataset

    out = str(folder / "mds")
    with MDSWriter(out=out, columns={"flac": "bytes", "json": "bytes"}) as writer:
        for s in samples:
            writer.write({"flac": s.audio, "json": s.members()["json"]})
    dataset = StreamingDataset(local=out, shuffle=True, batch_size=1)

    def one(i: int) -> tuple[Any, np.ndarray]:
        found = dataset[i]
        return json.loads(found["json"]), soundfile.read(io.BytesIO(found["flac"]), dtype="float32")[0]

    order = np.random.default_rng(0).permutation(len(samples)).tolist()
    return lambda: (one(i) for i in order)


def _without_torchvision() -> None:
    """streaming imports torchvision for images; its wheel does not load beside a CPU torch."""

    class Empty(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    for name in ("", ".datasets", ".transforms", ".transforms.functional", ".io"):
        module = Empty(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        module.__path__ = []
        sys.modules.setdefault(module.__name__, module)


def measure(loaders: dict[str, Loader], count: int, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds a sample of each, round by round; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(rounds + 1):
        for name, loader in loaders.items():
            began = time.process_time()
            seen = sum(1 for _ in loader())
            taken = 1000 * (time.process_time() - began) / seen
            assert seen == count, f"{name} gave {seen} of {count} samples"
            found[name] += [taken] if number else []
    return found


def main() -> int:
    """Run, print the tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of samples")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    met = True
    for seconds, count in ((4.0, round(600 * args.scale)), (45.0, round(60 * args.scale))):
        with tempfile.TemporaryDirectory(prefix="speakerlm-bench-") as name:
            folder = Path(name)
            samples = made(count, seconds)
            dataset = pack(folder / "ours", samples)
            loaders = {"floor": floor(samples), "ours, crc checked": ours(dataset), "webdataset": webdataset(dataset)}
            for peer, make in (("lhotse shar", lhotse_shar), ("mosaicml-streaming", streaming)):
                try:
                    loaders[peer] = make(folder, samples)
                except ImportError as e:
                    print(f"{peer} is left out: {e}")
            found = measure(loaders, count, args.rounds)
        base = found["floor"]
        print(f"{seconds:g} s: ms of CPU a sample, {count} samples, {args.rounds} interleaved rounds")
        print(f"  {'':22}{'median':>9}{'least':>9}{'most':>9}{'x floor':>9}")
        for who, taken in found.items():
            over = statistics.median(t / b for t, b in zip(taken, base, strict=True))
            print(f"  {who:22}{statistics.median(taken):9.3f}{min(taken):9.3f}{max(taken):9.3f}{over:9.2f}")
            figures[f"{who.partition(',')[0]}_{seconds:g}s_over_floor"] = round(over, 3)
        mine = figures[f"ours_{seconds:g}s_over_floor"]
        peers = [
            v for n, v in figures.items() if n.endswith(f"_{seconds:g}s_over_floor") and n[:4] not in ("ours", "floo")
        ]
        met &= mine <= TARGETS["over_floor"] and mine < min(peers)
    print(json.dumps({"name": "loader", "figures": figures, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
