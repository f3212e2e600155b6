"""The loaders that benchmarks/loader.py compares: each writes the same FLAC bytes in its own form and reads them.

All decode through :func:`shards.sound.audio.decode` and give audio and metadata. A peer that is not installed (see
benchmarks/requirements.txt) raises an ImportError when it is made.
"""

from __future__ import annotations

import functools
import importlib.machinery
import io
import json
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from pipeline.data.handover import Handover
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths
from pipeline.data.loader import Loader, SampleReader
from pipeline.data.plan import Plan
from pipeline.data.planned import PlanSettings
from pipeline.data.readahead import ReadAhead
from pipeline.data.token_counter import TokenCounter
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.schema import DataConfig, DatasetConfig, RegistrationConfig
from shards.dataset.dataset import Dataset
from shards.sample import SAMPLE_RATE, Sample
from shards.sound.audio import decode

PREFETCH = 8  # samples a worker is ahead
MICRO_BATCH = 16  # samples that a worker of ours knows in advance


@dataclass(frozen=True)
class Peer:
    """A way to load the samples once."""

    name: str
    epoch: Callable[[int], Iterator[int]]  # with so many worker processes; how many samples came, again and again
    resume: Callable[[], Callable[[], Any]] | None = None  # goes 90 % of the way; how to come back and load one there


class ByPlace:
    """A map-style dataset."""

    def __init__(self, one: Callable[[int], Any]) -> None:
        self._one = one

    def __getitem__(self, i: int) -> Any:
        return self._one(i)


class Lazily(IterableDataset[Any]):
    """An iterable dataset over what a function makes in the worker."""

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())


def _counted(dataset: Any, order: list[Any] | None, workers: int) -> Iterator[int]:
    how = {"prefetch_factor": PREFETCH} if workers else {}
    loader = DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers, collate_fn=_as_is, **how)
    return (1 for _ in loader)


def _as_is(item: Any) -> Any:
    return item


def shuffled(count: int) -> list[int]:
    """A fixed random order."""
    return [int(i) for i in np.random.default_rng(0).permutation(count)]


def floor(samples: list[Sample]) -> Peer:
    """Decoding alone, of bytes in memory."""
    order = shuffled(len(samples))
    return Peer("floor", lambda w: _counted(ByPlace(lambda i: decode(samples[i].audio)), order, w))


def ours(dataset: Dataset) -> Peer:
    """Random order, ranged reads, crc32 of every byte, parsed metadata.

    As in a run, a worker knows the samples of its micro-batch, announces them, and hands over in shared memory.
    """
    ahead = ReadAhead()
    places = [(shard, row) for shard, info in enumerate(dataset.shards) for row in range(info.samples)]

    def one(i: int) -> tuple[Any, np.ndarray]:
        place, data = ahead.take(dataset, *places[i])
        sample = place.parse(data, audio=False)
        said = [(s.speaker, s.start, s.end, s.text) for s in sample.segments]
        return (sample.key, said), place.decode(data)  # as the others: plain metadata and samples, no FLAC

    def announced(task: tuple[int, list[int]]) -> tuple[Any, np.ndarray]:
        ahead.announce(dataset, (places[i] for i in task[1]))
        return one(task[0])

    def epoch(workers: int) -> Iterator[int]:
        turns, order = max(1, workers), shuffled(len(places))
        tasks = [
            (i, order[at : at + turns * MICRO_BATCH : turns] if at // turns % MICRO_BATCH == 0 else [])
            for at, i in enumerate(order)
        ]
        loaded = Handover(announced, workers, PREFETCH + 2, 1 << 24) if workers else ByPlace(announced)
        return _counted(loaded, tasks, workers)

    return Peer("ours, crc checked", epoch)


def whole(dataset: Dataset, tokenizer: PromptTokenizer) -> Peer:
    """Plan, reading, decoding, tokens and padded batches: all that a training run does for its data."""
    build_lengths(dataset, tokenizer)

    def plan(epochs: int = 1) -> Plan:
        data = DataConfig(
            micro_batches_per_step=1, max_positions=6000, max_frames=12_000, window_shards=4,
            registration=RegistrationConfig(max_distractors=5),
        )  # fmt: skip
        settings = PlanSettings(1, False, 2, tokenizer.hash, data, epochs=epochs)
        source = DatasetSource(dataset, tokenizer.hash)
        return Plan([source], [DatasetConfig(path=dataset.url)], settings, TokenCounter(tokenizer))

    def loader(planned: Plan, workers: int) -> Loader:
        return Loader(planned, SampleReader([dataset], tokenizer, 2, 192), workers=workers)

    def resume() -> Callable[[], Any]:
        states = [step.state for step in plan(epochs=2)]

        def back() -> Any:
            planned = plan(epochs=2)
            planned.load_state_dict(states[int(0.45 * len(states))])
            return next(iter(loader(planned, 0)))

        return back

    return Peer("ours, plan + collate", lambda w: (len(s.micro_batches[0].keys) for s in loader(plan(), w)), resume)


def webdataset(dataset: Dataset) -> Peer:
    """The plain pipeline of its documentation, over our tars."""
    import webdataset as wds

    urls = [str(dataset.storage.local_path(s.tar)) for s in dataset.shards]

    def both(sample: dict[str, Any]) -> Any:
        return json.loads(sample["json"]), decode(sample["flac"])

    def make() -> Any:
        return wds.WebDataset(urls, shardshuffle=False).shuffle(1000).map(both)

    return Peer("webdataset", lambda w: _counted(make(), None, w))


def lhotse_shar(folder: Path, samples: list[Sample]) -> Peer:
    """``lhotse shar export`` as FLAC, read lazily."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.audio import AudioSource
    from lhotse.shar import SharWriter

    place = folder / "lhotse"
    place.mkdir()
    with SharWriter(str(place), fields={"recording": "flac"}, shard_size=max(1, len(samples) // 4)) as writer:
        for s in samples:
            said = [
                SupervisionSegment(f"{s.key}-{i}", s.key, g.start, g.end - g.start, text=g.text, speaker=g.speaker)
                for i, g in enumerate(s.segments)
            ]
            source = AudioSource("memory", [0], s.audio)
            seconds = s.num_samples / SAMPLE_RATE
            recording = Recording(s.key, [source], SAMPLE_RATE, s.num_samples, seconds)
            writer.write(MonoCut(s.key, 0.0, seconds, 0, said, recording=recording))

    def make(workers: int) -> Iterator[Any]:
        for cut in CutSet.from_shar(in_dir=str(place), split_for_dataloading=workers > 0):
            yield cut.supervisions, decode(cut.recording.sources[0].source)

    return Peer("lhotse shar", lambda w: _counted(Lazily(functools.partial(make, w)), None, w))


def streaming(folder: Path, samples: list[Sample]) -> Peer:
    """mosaicml-streaming's MDS with the FLAC as bytes, from a local folder; no hashes, as is its default."""
    _without_torchvision()
    from streaming import MDSWriter, StreamingDataset

    out = str(folder / "mds")
    with MDSWriter(out=out, columns={"flac": "bytes", "json": "bytes"}) as writer:
        for s in samples:
            writer.write({"flac": s.audio, "json": s.members()["json"]})
    dataset = StreamingDataset(local=out, shuffle=True, batch_size=1)

    def one(i: int) -> Any:
        found = dataset[i]
        return json.loads(found["json"]), decode(found["flac"])

    def resume() -> Callable[[], Any]:
        def back() -> Any:
            state = dataset.state_dict(int(0.9 * len(samples)), True)
            dataset.load_state_dict(state)
            return next(iter(dataset))

        return back

    return Peer("mosaicml-streaming", lambda w: _counted(ByPlace(one), shuffled(len(samples)), w), resume)


def energon(folder: Path, dataset: Dataset) -> Peer:
    """Megatron-Energon over our tars, in its own random order."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        basic_sample_keys,
        get_savable_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors import BaseWebdatasetFactory

    place = folder / "energon"
    place.mkdir()
    for shard in dataset.shards:
        shutil.copy(str(dataset.storage.local_path(shard.tar)), place / Path(shard.tar).name)
    tars = [Path(s.tar).name for s in dataset.shards]
    warnings.filterwarnings("ignore", "'pin_memory' argument")  # it asks for it always
    with redirect_stdout(io.StringIO()):
        BaseWebdatasetFactory.prepare_dataset(place, tars, split_parts_ratio=[("train", 1.0)], workers=1)
    (place / ".nv-meta" / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")

    @stateless
    def cook(sample: Any) -> dict[str, Any]:
        both = {"wave": decode(sample["flac"]), "json": json.loads(sample["json"])}
        return {**basic_sample_keys(sample), **both}

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers = [Cooker(cook)]  # noqa: RUF012 (its interface)

    def loader(workers: int) -> Any:
        data = get_train_dataset(
            EPath(place),
            worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
            batch_size=None,
            shuffle_buffer_size=None,
            max_samples_per_sequence=None,
            task_encoder=Encoder(),
            repeat=False,
        )
        return get_savable_loader(data, watchdog_timeout_seconds=None)

    def resume() -> Callable[[], Any]:
        first = loader(0)
        for number, _ in enumerate(first, 1):
            if number == int(0.9 * dataset.samples):
                break
        state = first.save_state_rank()

        def back() -> Any:
            again = loader(0)
            again.restore_state_rank(state)
            return next(iter(again))

        return back

    return Peer("megatron-energon", lambda w: (1 for _ in loader(w)), resume)


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
