"""The speaker bank: one vector per speaker of a dataset, and who may be registered beside whom.

``speakers.npy`` is (n, dim) float16 of unit norm, row i belongs to row i of ``speakers.parquet``. Over-registration
draws distractors from it; :meth:`SpeakerBank.candidates` says which are allowed.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.dataset import parquet
from shards.errors import SpeakerError
from shards.storage.interface import Storage
from shards.storage.local import LocalStorage
from shards.voices.enrolment import CLIPS_PER_SPEAKER, Enroller, Features
from shards.voices.extractors import Extractor, load_extractor

__all__ = ["Enroller", "Extractor", "SpeakerBank", "build_bank", "load_extractor"]

_SHA256, _MADE = b"vectors_sha256", b"made_from"  # in the table's metadata
TABLE, VECTORS = "speakers.parquet", "speakers.npy"
SAME_PERSON_COSINE = 0.5  # two speakers of unknown identity below this are taken for different persons
SPEAKERS_AT_ONCE = 128
SCHEMA = pa.schema(
    [
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("gender", pa.string()),
        pa.field("person", pa.string()),  # null: nobody knows who it is
        pa.field("sessions", pa.list_(pa.string()), nullable=False),
        pa.field("num_clips", pa.int32(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),  # of enrolment speech in the vector
    ]
)


class SpeakerBank:
    """Vectors (memory-mapped) and what is known about their speakers."""

    def __init__(self, table: pa.Table, vectors: np.ndarray, where: str) -> None:
        if vectors.ndim != 2 or vectors.shape[0] != len(table):
            raise SpeakerError(f"{where}: {TABLE} has {len(table)} rows, {VECTORS} the shape {vectors.shape}")
        columns = table.to_pydict()
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        self.extractor, self.extractor_sha256 = metadata.get("extractor"), metadata.get("extractor_sha256")
        self._vectors_sha256 = metadata.get(_SHA256.decode())
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
        self.rejected = 0  # candidates left out because they may be a person of the clip, over all calls
        self._of_corpus = _rows_by_many([[c] for c in self.corpora])
        self._of_person = _rows_by(self.persons)
        self._of_session = _rows_by_many(self.sessions)
        self._unknown = np.array([p is None for p in self.persons], bool)

    @classmethod
    def open(cls, storage: Storage, table_file: str = TABLE, vector_file: str = VECTORS) -> SpeakerBank:
        """The bank of a dataset. Vectors that are not on this machine are fetched once per node, by their hash."""
        where = f"{storage.url}/{vector_file}"
        try:
            data = storage.read(table_file)
            table = parquet.from_bytes(data)
            metadata = table.schema.metadata
            table = table.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(metadata)
            path = storage.local_path(vector_file) or _on_node(storage, vector_file, (metadata or {}).get(_SHA256))
            return cls(table, np.load(path, mmap_mode="r", allow_pickle=False), where)
        except (pa.ArrowException, KeyError, ValueError, EOFError, OSError) as error:
            raise SpeakerError(f"{where}: not a speaker bank: {error}") from error

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash over who is in it and the vectors: all that :meth:`candidates` goes by."""
        who = [self.ids, self.corpora, self.persons, self.sessions, self._vectors_sha256]
        return hashlib.sha256(json.dumps(who).encode()).hexdigest()

    def row(self, speaker: str) -> int:
        """Row of a speaker id.

        Raises:
            SpeakerError: the bank does not know it.
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
        """Rows, ascending, of speakers who may be registered as absent beside the speakers of a clip.

        Left out: the clip's speakers and every other id of the same persons; everyone heard in an excluded session.
        Where the person of a row or of a clip's speaker is unknown, both being of one corpus (a corpus that reuses
        ids), the row is left out as well unless its cosine to every speaker of the clip is below `threshold`; such rows
        are counted in :attr:`rejected`.
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
        """Looked at when a distractor is first drawn: a cosine with NaN would be below every threshold.

        Raises:
            SpeakerError: a vector is not finite.
        """
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(1))
        if len(bad):
            raise SpeakerError(
                f"{self._where}: {len(bad)} vectors are not finite, the first is row {bad[0]}; pack again"
            )
        return True

    def _may_be_one_of(self, speakers: Collection[str]) -> np.ndarray:
        """Rows of which nobody knows whether they are one of the speakers: same corpus, and a person unknown."""
        doubtful = np.zeros(len(self), bool)
        for speaker in speakers:
            row = self._rows.get(speaker)
            known = row is not None and not self._unknown[row]
            same = self._of_corpus.get(speaker.partition(":")[0] if row is None else self.corpora[row], [])
            doubtful[same] |= self._unknown[same] if known else True
        return doubtful


def build_bank(
    enroller: Enroller,
    storage: Storage,
    table: str = TABLE,
    vector_file: str = VECTORS,
    *,
    batched: bool = False,
    features: Features | None = None,
    max_bad_share: float = 0.01,
    made_from: dict[str, Any] | None = None,
) -> list[dict[str, str]]:
    """Write ``speakers.npy`` and ``speakers.parquet`` (last) for all speakers with enrolment speech.

    Returns the clips that were passed over and the speakers that were left out for want of others: file, key, reason.

    Args:
        batched: embed the clips of some speakers together, as an accelerator wants it.
        features: reads them then; None reads them here.
        max_bad_share: of the speakers, how many may be left out; one always may.
        made_from: what :func:`made_from` is to tell of this bank.

    Raises:
        SpeakerError: nobody can be enrolled, or too many cannot. Nothing is written.
    """
    sessions = enroller.sessions()
    rows: list[dict[str, Any]] = []
    vectors = []
    heard = enroller.heard()
    left_out: list[dict[str, str]] = []
    allowed = max(1, int(max_bad_share * len(heard)))
    enroller.passed_over()  # what is listed here is of the bank
    for number, speaker in enumerate(heard):
        if batched and number % SPEAKERS_AT_ONCE == 0:
            some = heard[number : number + SPEAKERS_AT_ONCE]
            enroller.prepare_clips((c for s in some for c in enroller.clips(s)[:CLIPS_PER_SPEAKER]), features)
        clips = enroller.usable(enroller.clips(speaker), CLIPS_PER_SPEAKER)
        if not clips:
            reason = f"{speaker} is left out of {table}: not one enrolment clip can be used"
            left_out.append({"file": enroller.clips(speaker)[0][0].audio, "key": speaker, "reason": reason})
            if len(left_out) > allowed:
                raise SpeakerError(
                    f"{len(left_out)} of {len(heard)} speakers have no enrolment clip that can be used, {allowed} may "
                    f"lack one: {speaker}: {enroller.passed_over()[-1]['reason']}; mend the audio, or raise "
                    "--max-bad-share, and run again: whole shards are kept"
                )
            continue
        vectors.append(enroller.mean(clips))
        info = enroller.speakers.get(speaker)
        rows.append(
            {
                "speaker": speaker,
                "corpus": info.corpus if info else speaker.partition(":")[0],
                "language": info.language if info else "und",
                "gender": info.gender if info else None,
                "person": info.person if info else None,
                "sessions": sessions[speaker],
                "num_clips": len(clips),
                "seconds": sum(p.seconds for clip in clips for p in clip),
            }
        )
    if not rows:
        why = "; ".join(b["reason"] for b in enroller.passed_over()[:3]) or "no speech of a single speaker"
        raise SpeakerError(f"nobody can be enrolled from the enrolment manifests: {why}; name others with --enrol")
    buffer = io.BytesIO()
    np.save(buffer, np.stack(vectors).astype(np.float16))
    storage.write_atomic(vector_file, buffer.getvalue())
    metadata = {"extractor": enroller.extractor.id, "extractor_sha256": enroller.extractor.sha256}
    metadata[_SHA256.decode()] = hashlib.sha256(buffer.getbuffer()).hexdigest()
    if made_from is not None:
        metadata[_MADE.decode()] = json.dumps(made_from, sort_keys=True)
    storage.write_atomic(table, parquet.to_bytes(pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata)))
    return enroller.passed_over() + left_out


def made_from(storage: Storage, table: str) -> dict[str, Any] | None:
    """What a bank's maker told of it; None where there is no bank, or it does not say."""
    if not storage.exists(table):
        return None
    try:
        found: dict[str, Any] = json.loads(parquet.metadata(storage.read(table))[_MADE])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return found


def node_folder() -> Path:
    """Where this user's processes on this machine share what they fetched."""
    return Path(tempfile.gettempdir()) / f"speakerlm-{os.getuid()}" / "banks"


def _on_node(storage: Storage, vector_file: str, sha256: bytes | None) -> Path:
    """The vectors as a file on this machine. The first process fetches them, others wait for it.

    Raises:
        SpeakerError: what was fetched is not what the table was written for.
    """
    where = f"{storage.url}/{vector_file}"
    if sha256 is None:
        raise SpeakerError(f"{where}: its table does not say their hash; write the bank again with this version")
    folder, name = node_folder(), f"{sha256.decode()}.npy"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).is_file():
            data = storage.read(vector_file)
            if hashlib.sha256(data).hexdigest().encode() != sha256:
                raise SpeakerError(f"{where}: not the vectors that {TABLE} was written for; run pack again")
            LocalStorage(folder).write_atomic(name, data)
    return folder / name


def _rows_by(values: list[str | None]) -> dict[str | None, list[int]]:
    """Value → rows that have it; None has none."""
    return _rows_by_many([[v] if v is not None else [] for v in values])  # type: ignore[return-value]


def _rows_by_many(values: list[list[str]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, several in enumerate(values):
        for value in several:
            found.setdefault(value, []).append(row)
    return found
