"""The speaker bank: one vector per speaker of a dataset, and who may be registered together with whom.

``speakers.npy`` is (n, dim) float16 of unit norm, row i belongs to row i of ``speakers.parquet``. Over-registration
draws distractors from it; :meth:`SpeakerBank.candidates` returns the allowed rows.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from shards.dataset import parquet
from shards.dataset.bank_hashes import ROWS_SHA256, VECTORS_SHA256, find_fault, rows_sha256, vectors_on_node
from shards.errors import SpeakerError, StorageError
from shards.storage.interface import Storage

_INPUTS = b"made_from"  # in the table's metadata
TABLE, VECTORS = "speakers.parquet", "speakers.npy"
SAME_PERSON_COSINE = 0.5  # two speakers of unknown identity below this count as different persons
SCHEMA = pa.schema(
    [
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("gender", pa.string()),
        pa.field("person", pa.string()),  # null: unknown
        pa.field("sessions", pa.list_(pa.string()), nullable=False),
        pa.field("num_clips", pa.int32(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),  # of enrolment speech in the vector
    ]
)


class SpeakerBank:
    """Speaker vectors (memory-mapped) and the metadata of their speakers."""

    def __init__(self, table: pa.Table, vectors: np.ndarray, where: str) -> None:
        if vectors.ndim != 2 or vectors.shape[0] != len(table):
            raise SpeakerError(f"{where}: {TABLE} has {len(table)} rows, {VECTORS} the shape {vectors.shape}")
        columns = table.to_pydict()
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        self.extractor, self.extractor_sha256 = metadata.get("extractor"), metadata.get("extractor_sha256")
        self._vectors_sha256 = metadata.get(VECTORS_SHA256.decode())
        self.vectors = vectors
        self.ids: list[str] = columns["speaker"]
        self.corpora: list[str] = columns["corpus"]
        self.languages: list[str] = columns["language"]
        self.persons: list[str | None] = columns["person"]
        self.sessions: list[list[str]] = columns["sessions"]
        self._rows = {speaker: row for row, speaker in enumerate(self.ids)}
        if len(self._rows) != len(self.ids):
            raise SpeakerError(f"{where}: a speaker id occurs twice")
        self._where = where
        self.rejected = 0  # candidates excluded because they may be a person of the clip, over all calls
        self._of_corpus = _rows_by_many([[c] for c in self.corpora])
        self._of_person = _rows_by(self.persons)
        self._of_session = _rows_by_many(self.sessions)
        self._unknown = np.array([p is None for p in self.persons], bool)

    @classmethod
    def open(cls, storage: Storage, table_file: str = TABLE, vector_file: str = VECTORS) -> SpeakerBank:
        """Open the bank of a dataset. Once per node, remote vectors are downloaded, and the hashes compared.

        Raises:
            SpeakerError: missing, damaged, or not the vectors that the table was written for.
        """
        where = f"{storage.url}/{vector_file}"
        try:
            data = storage.read(table_file)
            table = _parse(data)
            path = vectors_on_node(storage, vector_file, table, data)
            return cls(table, np.load(path, mmap_mode="r", allow_pickle=False), where)
        except SpeakerError as error:
            raise SpeakerError(f"{where}: {error}; {_again(table_file)}") from error
        except (pa.ArrowException, KeyError, ValueError, EOFError, OSError) as error:
            raise SpeakerError(f"{where}: not a speaker bank: {error}; {_again(table_file)}") from error

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Dimension of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the speakers and the vectors: all that :meth:`candidates` depends on."""
        who = [self.ids, self.corpora, self.persons, self.sessions, self._vectors_sha256]
        return hashlib.sha256(json.dumps(who).encode()).hexdigest()

    def row(self, speaker: str) -> int:
        """Return the row of a speaker id.

        Raises:
            SpeakerError: not in the bank.
        """
        try:
            return self._rows[speaker]
        except KeyError as error:
            raise SpeakerError(f"{self._where}: no speaker {speaker!r}") from error

    def candidates(
        self,
        exclude_speakers: Collection[str],
        exclude_sessions: Collection[str] = (),
        threshold: float = SAME_PERSON_COSINE,
    ) -> np.ndarray:
        """Return the rows, ascending, of speakers who may be registered as absent from a clip.

        Excluded are the clip's speakers, every other id of the same persons, and everyone heard in an excluded session.
        If the person of a row or of a speaker of the clip is unknown and both are of one corpus (which may reuse ids),
        the row is excluded too unless its cosine to every speaker of the clip is below `threshold`; such rows are
        counted in :attr:`rejected`.
        """
        _ = self._all_finite
        allowed = np.ones(len(self), bool)
        own = [self._rows[s] for s in exclude_speakers if s in self._rows]
        allowed[own] = False
        for row in own:
            allowed[self._of_person.get(self.persons[row], [])] = False
        for session in exclude_sessions:
            allowed[self._of_session.get(session, [])] = False
        doubtful = allowed & self._may_be_one_of(exclude_speakers)
        rows = np.flatnonzero(doubtful)
        if len(rows):
            if own:
                cosine = np.asarray(self.vectors[rows], np.float32) @ np.asarray(self.vectors[own], np.float32).T
                rows = rows[cosine.max(1) >= threshold]
            self.rejected += len(rows)
            allowed[rows] = False
        return np.flatnonzero(allowed)

    @cached_property
    def _all_finite(self) -> bool:
        """Check all vectors when a distractor is first drawn: a cosine with NaN would be below every threshold.

        Raises:
            SpeakerError: a vector is not finite.
        """
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(1))
        if len(bad):
            raise SpeakerError(
                f"{self._where}: {len(bad)} vectors are not finite, the first is row {bad[0]}; run pack again"
            )
        return True

    def _may_be_one_of(self, speakers: Collection[str]) -> np.ndarray:
        """Return a mask of rows that may be one of the speakers: same corpus, and a person is unknown."""
        doubtful = np.zeros(len(self), bool)
        for speaker in speakers:
            row = self._rows.get(speaker)
            known = row is not None and not self._unknown[row]
            same = self._of_corpus.get(speaker.partition(":")[0] if row is None else self.corpora[row], [])
            doubtful[same] |= self._unknown[same] if known else True
        return doubtful


def write_bank(
    storage: Storage,
    rows: list[dict[str, Any]],
    vectors: Sequence[np.ndarray],
    extractor: tuple[str, str],
    *,
    table_file: str = TABLE,
    vector_file: str = VECTORS,
    inputs: dict[str, Any] | None = None,
) -> None:
    """Write the vectors, then the table with their hash.

    Args:
        rows: :data:`SCHEMA`, one per vector.
        extractor: id, and sha256 of its weights.
        inputs: what the bank was made from, for :func:`read_bank_inputs`.
    """
    buffer = io.BytesIO()
    np.save(buffer, np.stack(vectors).astype(np.float16))
    storage.write_atomic(vector_file, buffer.getvalue())
    metadata = {"extractor": extractor[0], "extractor_sha256": extractor[1]}
    metadata[VECTORS_SHA256.decode()] = hashlib.sha256(buffer.getbuffer()).hexdigest()
    if inputs is not None:
        metadata[_INPUTS.decode()] = json.dumps(inputs, sort_keys=True)
    table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata)
    metadata[ROWS_SHA256.decode()] = rows_sha256(table)
    table = table.replace_schema_metadata(metadata)
    storage.write_atomic(table_file, parquet.to_bytes(table))


def bank_fault(storage: Storage, table_file: str = TABLE, vector_file: str = VECTORS) -> str | None:
    """Read a whole bank and compare it with its hashes; None if it agrees, else what is wrong, where, what to do."""
    try:
        table = _parse(storage.read(table_file))
        with storage.stream(vector_file) as vectors:
            fault = find_fault(table, vectors)
    except (pa.ArrowException, KeyError, ValueError, EOFError, OSError) as error:
        fault = f"not a speaker bank: {error}"
    except StorageError as error:
        return str(error)
    return None if fault is None else f"{storage.url}/{table_file}: {fault}; {_again(table_file)}"


def _parse(data: bytes) -> pa.Table:
    table = parquet.from_bytes(data)
    return table.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(table.schema.metadata)


def _again(table_file: str) -> str:
    return f"run {'pack' if table_file == TABLE else 'embed'} again"


def read_bank_inputs(storage: Storage, table_file: str) -> dict[str, Any] | None:
    """Return what a bank was made from; None if there is no bank, or its table does not say."""
    if not storage.exists(table_file):
        return None
    try:
        found: dict[str, Any] = json.loads(parquet.metadata(storage.read(table_file))[_INPUTS])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return found


def _rows_by(values: list[str | None]) -> dict[str | None, list[int]]:
    """Map each value to its rows; None is skipped."""
    return _rows_by_many([[v] if v is not None else [] for v in values])  # type: ignore[return-value]


def _rows_by_many(values: list[list[str]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, several in enumerate(values):
        for value in several:
            found.setdefault(value, []).append(row)
    return found
