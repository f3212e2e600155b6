"""Exact token lengths of a dataset's samples, without reading audio.

Text: tokens of every piece of prompt and target. The tokens of a sample's own text are counted once for a dataset and
tokenizer and are stored with its shards, in ``shards/NAME-000000.lengths-<tokenizer hash>-<shard hash>-2.parquet``.
Positions of the audio come from its number of samples: :mod:`pipeline.frames`, which the model uses too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.prompts import Mode, target_pieces, turn_text
from shards.errors import PlanError, StorageError
from shards.sample import Segment

if TYPE_CHECKING:
    import pyarrow as pa

    from shards.dataset.dataset import Dataset
    from shards.dataset.index import ShardInfo
    from shards.storage.interface import Storage

LENGTHS_VERSION = "2"


@dataclass(frozen=True)
class Kind:
    """A kind of table that is stored with each shard: what is counted in its samples."""

    name: str  # in the file's name
    version: str
    count: Callable[
        [list[dict[str, Any]], Tokenizer], pa.Table
    ]  # from KEY.json of the samples, in order; has their keys
    schema: Callable[[], pa.Schema]  # of the table


_SHARDS_PER_PROCESS = 8  # fewer are not worth the start of a process


class Tokenizer(Protocol):
    """Part of PromptTokenizer that counting needs."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def between(self) -> tuple[int, ...]:
        """Ids between an answer's end token and the user's next turn."""
        ...

    @property
    def hash(self) -> str:
        """Hash that changes when the tokens change."""
        ...

    def encode_piece(self, text: str) -> tuple[int, ...]:
        """Ids of a piece of text, tokenised alone."""
        ...

    def encode_common(self, text: str) -> tuple[int, ...]:
        """Ids of a piece of text, from a cache."""
        ...


def lengths_path(shard: ShardInfo, tokenizer_hash: str, kind: Kind | None = None) -> str:
    """Path of a shard's lengths in its dataset; a shard that is packed again gets another one."""
    kind = kind or LENGTHS
    return f"shards/{shard.name}.{kind.name}-{tokenizer_hash[:12]}-{shard.sha256[:8]}-{kind.version}.parquet"


def missing_lengths(
    dataset: Dataset, tokenizer_hash: str, cache: Path | None = None, kind: Kind | None = None
) -> list[int]:
    """Numbers of the shards without lengths. Remote files are listed; local ones are also read, as a disk may fail."""
    kind = kind or LENGTHS
    storage = lengths_storage(dataset, cache)
    there = frozenset(storage.list("shards/")) if cache is None or cache.exists() else frozenset()
    paths = [lengths_path(shard, tokenizer_hash, kind) for shard in dataset.shards]
    local = storage.local_path("") is not None
    return [
        number
        for number, (shard, path) in enumerate(zip(dataset.shards, paths, strict=True))
        if path not in there or (local and _read(storage, path, shard, kind) is None)
    ]


def build_lengths(
    dataset: Dataset,
    tokenizer: Tokenizer,
    cache: Path | None = None,
    *,
    workers: int = 1,
    begin_at: float = 0.0,
    kind: Kind | None = None,
) -> int:
    """Write the missing lengths of a dataset's shards. Returns the number of files written.

    Files are written atomically and their content does not depend on the writer, so several runs and nodes may do this
    at the same time. Each checks again before it counts a shard, so processes that begin at different places
    share the work.

    Args:
        cache: local folder to use instead of the dataset's own, for a dataset that cannot be written to.
        workers: processes at most.
        begin_at: share of the missing shards after which to begin; those before it come last.
        kind: what to count; None: :data:`LENGTHS`.

    Raises:
        ShardError, StorageError: a shard cannot be read, or its lengths cannot be written.
        ConfigError: a process was killed.
    """
    from shards.workers import progress, run_jobs

    kind = kind or LENGTHS
    missing = missing_lengths(dataset, tokenizer.hash, cache, kind)
    if not missing:
        return 0
    turn = int(begin_at * len(missing))
    jobs = ((number,) for number in missing[turn:] + missing[:turn])
    places = [""] * max(1, min(workers, len(missing) // _SHARDS_PER_PROCESS))
    written = 0
    name = f"counting tokens of {dataset.name}"
    with (
        progress(total=len(missing), desc=name, unit="shard", delay=2) as bar,
        closing(run_jobs(partial(_builder, dataset, tokenizer, cache, kind), places, jobs)) as results,
    ):
        for wrote in results:
            written += wrote
            bar.update()
    return written


@contextmanager
def _builder(
    dataset: Dataset, tokenizer: Tokenizer, cache: Path | None, kind: Kind, _: str
) -> Iterator[Callable[[int], bool]]:
    """A function of a worker process: build the lengths of a shard by number; True: they were written."""
    yield partial(_build, dataset, lengths_storage(dataset, cache), tokenizer, kind)


def _build(dataset: Dataset, storage: Storage, tokenizer: Tokenizer, kind: Kind, number: int) -> bool:
    from shards.dataset.reader import read_meta

    shard = dataset.shards[number]
    path = lengths_path(shard, tokenizer.hash, kind)
    if storage.exists(path) and _read(storage, path, shard, kind) is not None:
        return False  # another run was faster
    table = kind.count(read_meta(dataset, number), tokenizer)
    try:
        storage.write_atomic(path, _to_bytes(table, shard, kind))
    except StorageError as e:
        raise StorageError(f"{e}; if the dataset is read-only, give a local folder for the lengths") from e
    return True


def read_lengths(
    dataset: Dataset, shard: int, tokenizer_hash: str, cache: Path | None = None, kind: Kind | None = None
) -> pa.Table:
    """Read the lengths of a shard: one row per sample in the index's order. By default those of SpeakerLM's prompts.

    Columns: ``key``; ``text_tokens`` list<int32>, of each segment's text as its turn holds it, line end included;
    ``turn_speakers`` list<int16>, the place of each segment's speaker in the sample's speakers; ``asr_tokens`` int32,
    of the bare transcript.

    Raises:
        PlanError: they were not built, or are of another state of the shard.
    """
    info = dataset.shards[shard]
    storage = lengths_storage(dataset, cache)
    kind = kind or LENGTHS
    path = lengths_path(info, tokenizer_hash, kind)
    table = _read(storage, path, info, kind) if storage.exists(path) else None
    if table is None:
        raise PlanError(f"{storage.url}/{path}: no token lengths of this shard; build_lengths has not run for it")
    return table


def lengths_storage(dataset: Dataset, cache: Path | None) -> Storage:
    """Storage of a dataset's lengths."""
    from shards.storage.interface import open_storage

    return dataset.storage if cache is None else open_storage(cache / dataset.fingerprint()[:12])


def _count(metas: list[dict[str, Any]], tokenizer: Tokenizer) -> pa.Table:
    """Token counts of the samples of a shard, from their ``KEY.json``."""
    import pyarrow as pa

    rows = []
    for meta in metas:
        segments = [Segment(**s) for s in meta["segments"]]
        place = {s: i for i, s in enumerate(meta["speakers"])}
        transcript = target_pieces(Mode.ASR, segments, {})
        rows.append(
            {
                "key": meta["key"],
                "text_tokens": [
                    len(tokenizer.encode_piece(turn_text(s.text, last=i == len(segments) - 1)))
                    for i, s in enumerate(segments)
                ],
                "turn_speakers": [place[s.speaker] for s in segments],
                "asr_tokens": sum(len(tokenizer.encode_piece(text)) for text in transcript),
            }
        )
    return pa.Table.from_pylist(rows, schema=_schema())


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("text_tokens", pa.list_(pa.int32()), nullable=False),
            pa.field("turn_speakers", pa.list_(pa.int16()), nullable=False),
            pa.field("asr_tokens", pa.int32(), nullable=False),
        ]
    )


def _to_bytes(table: pa.Table, shard: ShardInfo, kind: Kind) -> bytes:
    from shards.dataset import parquet

    metadata = {"shard_sha256": shard.sha256, "version": kind.version}
    return parquet.to_bytes(table.replace_schema_metadata(metadata))


def _read(storage: Storage, path: str, shard: ShardInfo, kind: Kind) -> pa.Table | None:
    """The table; None if it is damaged, or of another version or state of the shard: it is built again."""
    import pyarrow as pa

    from shards.dataset import parquet

    try:
        table = parquet.from_bytes(storage.read(path))
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        return None
    metadata = table.schema.metadata or {}
    fits = metadata.get(b"shard_sha256") == shard.sha256.encode() and metadata.get(b"version") == kind.version.encode()
    fits = fits and table.schema.equals(kind.schema()) and not any(column.null_count for column in table.columns)
    return table if fits and table.num_rows == shard.samples else None


LENGTHS = Kind("lengths", LENGTHS_VERSION, _count, _schema)
