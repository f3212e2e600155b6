"""The speaker bank: one vector per speaker of a dataset, and candidates for distractors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.dataset import bank_hashes
from shards.dataset.dataset import open_dataset
from shards.dataset.speaker_bank import SCHEMA, SpeakerBank, bank_fault, write_bank
from shards.dataset.verify import dataset_faults
from shards.errors import SpeakerError
from shards.packing.make_bank import build_bank
from shards.storage.interface import open_storage
from shards.voices.enrolment import Enroller
from shards.voices.features import unit_norm
from tests.support.datasets import make_dataset
from tests.support.enrolment import two_voices
from tests.support.speech import PitchExtractor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_voices(tmp_path)


def test_bank_round_trip(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    bank = SpeakerBank.open(storage)
    assert bank.ids == ["toy:a", "toy:b"]
    assert (len(bank), bank.dim, bank.row("toy:b")) == (2, 8, 1)
    assert isinstance(bank.vectors, np.memmap)
    assert bank.vectors.dtype == np.float16
    assert bank.vectors.argmax(1).tolist() == [1, 4]
    assert bank.sessions[0] == ["a0", "a1", "a2", "a3"]
    table = pq.read_table(tmp_path / "dataset" / "speakers.parquet")
    assert table["num_clips"].to_pylist() == [4, 2]
    assert table.schema.metadata[b"extractor"] == b"pitch"
    with pytest.raises(SpeakerError, match="no speaker 'toy:z'"):
        bank.row("toy:z")


def test_damaged_bank_is_an_error_with_its_path(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    whole = (tmp_path / "dataset/speakers.npy").read_bytes()
    for damaged in (whole[:-7], b"nonsense", b""):
        (tmp_path / "dataset/speakers.npy").write_bytes(damaged)
        with pytest.raises(SpeakerError, match=r"speakers.npy"):
            SpeakerBank.open(storage)


def rows_and_vectors(folder: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    return pq.read_table(folder / "speakers.parquet").to_pylist(), np.load(folder / "speakers.npy")


def test_bank_with_a_non_finite_vector_is_rejected(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    rows, vectors = rows_and_vectors(tmp_path / "dataset")
    vectors[1, 3] = np.nan
    write_bank(storage, rows, list(vectors), ("pitch", "0"))
    bank = SpeakerBank.open(storage)  # so that verify can list all of them
    with pytest.raises(SpeakerError, match=r"speakers.npy: 1 vectors are not finite, the first is row 1"):
        bank.candidates(["toy:a"])


def exchange_vectors(dataset: Path) -> None:
    vectors = np.load(dataset / "speakers.npy")
    np.save(dataset / "speakers.npy", vectors[::-1])


def flip_a_bit_of_a_vector(dataset: Path) -> None:
    data = bytearray((dataset / "speakers.npy").read_bytes())
    data[-5] ^= 1
    (dataset / "speakers.npy").write_bytes(data)


def exchange_rows(dataset: Path) -> None:
    table = pq.read_table(dataset / "speakers.parquet")
    pq.write_table(table.take([1, 0]), dataset / "speakers.parquet")


def change_a_person(dataset: Path) -> None:
    table = pq.read_table(dataset / "speakers.parquet")
    rows = [row | {"person": "toy:a"} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), dataset / "speakers.parquet")


@pytest.mark.parametrize("damage", [exchange_vectors, flip_a_bit_of_a_vector, exchange_rows, change_a_person])
def test_damage_that_keeps_the_form_of_a_bank_is_found(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """At opening, also after the whole bank was opened on this node, and by ``verify``, which compares every time."""
    dataset = make_dataset(tmp_path / "dataset", samples=4)
    build_bank(Enroller([folder], PitchExtractor()), dataset.storage)
    SpeakerBank.open(dataset.storage)
    assert list(dataset_faults(open_dataset(dataset.url))) == []
    damage(tmp_path / "dataset")
    with pytest.raises(SpeakerError, match=r"speakers\.npy: (was not written|has other rows).*; run pack again"):
        SpeakerBank.open(dataset.storage)
    (fault,) = dataset_faults(open_dataset(dataset.url))
    assert "run pack again" in fault


def test_any_byte_of_a_bank_may_be_damaged(folder: Path, tmp_path: Path) -> None:
    """An error of one type that names the bank, or the bank as it was: nothing else."""
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    bank = SpeakerBank.open(storage)
    whole = (bank.fingerprint, bank.extractor, bank.vectors.tobytes())
    rng = np.random.default_rng(1)
    for name in ("speakers.parquet", "speakers.npy"):
        data = (tmp_path / "dataset" / name).read_bytes()
        for place in rng.choice(len(data) * 8, 300, replace=False):
            damaged = bytearray(data)
            damaged[place // 8] ^= 1 << place % 8
            (tmp_path / "dataset" / name).write_bytes(damaged)
            if bank_fault(storage) is not None:
                with pytest.raises(SpeakerError, match="run pack again"):
                    SpeakerBank.open(storage)
            else:
                found = SpeakerBank.open(storage)
                assert (found.fingerprint, found.extractor, found.vectors.tobytes()) == whole
        (tmp_path / "dataset" / name).write_bytes(data)


def test_bank_is_compared_once_per_node(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    compared = []
    real = bank_hashes.find_fault
    monkeypatch.setattr(bank_hashes, "find_fault", lambda *a: compared.append(1) or real(*a))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: SpeakerBank.open(storage), range(8)))
    assert len(compared) == 1
    (tmp_path / "dataset/speakers.npy").touch()
    SpeakerBank.open(storage)
    assert len(compared) == 2
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))  # no folder can be made there
    assert SpeakerBank.open(storage).ids == ["toy:a", "toy:b"]


def test_bank_of_a_version_without_hashes_is_opened(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    path = tmp_path / "dataset/speakers.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert SpeakerBank.open(storage).ids == ["toy:a", "toy:b"]
    assert bank_fault(storage) is None


class Remote:
    """A storage that is not on this machine and counts what is read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url, self.reads = folder, "s3://bucket/data", list[str]()

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return (self.folder / path).read_bytes()

    def local_path(self, path: str) -> None:
        return None


def test_remote_bank_is_downloaded_once_per_node(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    build_bank(Enroller([folder], PitchExtractor()), open_storage(tmp_path / "dataset"))
    remote = Remote(tmp_path / "dataset")
    with ThreadPoolExecutor(4) as pool:
        banks = list(pool.map(lambda _: SpeakerBank.open(remote), range(8)))  # type: ignore[arg-type]
    assert remote.reads.count("speakers.npy") == 1
    assert all(isinstance(b.vectors, np.memmap) and np.array_equal(b.vectors, banks[0].vectors) for b in banks)
    assert banks[0].extractor == "pitch"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "another node"))
    (tmp_path / "dataset/speakers.npy").write_bytes(b"of a write that was cut off")
    with pytest.raises(SpeakerError, match=r"speakers\.npy: was not written for these vectors; run pack again"):
        SpeakerBank.open(Remote(tmp_path / "dataset"))  # type: ignore[arg-type]
    assert not list((tmp_path / "another node").rglob("*.npy"))


def test_damaged_copy_on_the_node_is_downloaded_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    build_bank(Enroller([folder], PitchExtractor()), open_storage(tmp_path / "dataset"))
    remote = Remote(tmp_path / "dataset")
    whole = np.array(SpeakerBank.open(remote).vectors)  # type: ignore[arg-type]
    (copy,) = (tmp_path / "node").rglob("*.npy")
    copy.write_bytes(copy.read_bytes()[:-2] + b"xx")
    assert np.array_equal(SpeakerBank.open(remote).vectors, whole)  # type: ignore[arg-type]
    assert remote.reads.count("speakers.npy") == 2


def test_bank_of_another_extractor_is_rejected(folder: Path, tmp_path: Path) -> None:
    """Packed with one extractor, and its bank written again with other weights."""
    dataset = make_dataset(tmp_path / "dataset", samples=4)
    path = tmp_path / "dataset/dataset.json"
    path.write_text(path.read_text().replace('"extractor_sha256": null', f'"extractor_sha256": "{"0" * 64}"'))
    build_bank(Enroller([folder], PitchExtractor()), dataset.storage)
    assert open_dataset(dataset.url).speakers is not None

    class Other(PitchExtractor):
        id, sha256 = "other", "1" * 64

    build_bank(Enroller([folder], Other()), dataset.storage)
    with pytest.raises(SpeakerError, match="vectors of two extractors cannot be mixed"):
        _ = open_dataset(dataset.url).speakers


def bank_of(*rows: tuple[str, str | None, list[str], list[float]]) -> SpeakerBank:
    same = {"language": "zh", "num_clips": 1, "seconds": 2.0}
    table = pa.Table.from_pylist(
        [same | {"speaker": s, "corpus": s.split(":")[0], "person": p, "sessions": ss} for s, p, ss, _ in rows], SCHEMA
    )
    return SpeakerBank(table, unit_norm(np.array([v for *_, v in rows])).astype(np.float16), "test")


def test_distractors_are_never_a_person_of_the_clip() -> None:
    bank = bank_of(
        ("p:en-ann", "ann", ["s1"], [1, 0]),
        ("p:es-ann", "ann", ["s2"], [0, 1]),
        ("p:bob", "bob", ["s3"], [1, 0]),
        ("p:cyd", "cyd", ["s1", "s4"], [1, 0]),
    )
    assert bank.candidates(["p:en-ann"]).tolist() == [2, 3]
    assert bank.candidates(["p:en-ann"], ["s1"]).tolist() == [2]
    assert bank.candidates(["p:bob"], ["none"]).tolist() == [0, 1, 3]


def test_fingerprint_depends_on_the_candidates() -> None:
    one = ("p:ann", "ann", ["s1"], [1.0, 0.0])
    changed = [("p:bob", *one[1:]), (one[0], None, *one[2:]), (*one[:2], ["s2"], one[3])]
    found = [bank_of(row).fingerprint for row in (one, one, *changed)]
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_fingerprint_depends_on_the_vectors(folder: Path, tmp_path: Path) -> None:
    """A threshold on their cosine decides who may be the same person."""

    class Rolled(PitchExtractor):
        def embed(self, waves):
            return np.roll(super().embed(waves), 1, axis=1)

    banks = []
    for name, extractor in (("one", PitchExtractor()), ("same", PitchExtractor()), ("rolled", Rolled())):
        build_bank(Enroller([folder], extractor), open_storage(tmp_path / name))
        banks.append(SpeakerBank.open(open_storage(tmp_path / name)))
    one, same, rolled = banks
    assert one.ids == rolled.ids
    assert (one.vectors != rolled.vectors).any()
    assert one.fingerprint == same.fingerprint != rolled.fingerprint


def test_unknown_persons_are_of_another_corpus_or_below_the_cosine_threshold() -> None:
    bank = bank_of(
        ("four:m1:1", None, ["m1"], [1, 0]),
        ("four:m2:1", None, ["m2"], [0.9, 0.1]),  # may well be the same person
        ("four:m3:1", None, ["m3"], [0, 1]),
        ("four:m4:known", "kim", ["m4"], [1, 0]),  # known, but m1:1 is unknown
        ("ali:x", "x", ["a"], [1, 0]),  # another corpus
    )
    assert bank.candidates(["four:m1:1"], ["m1"]).tolist() == [2, 4]
    assert bank.rejected == 2
    assert bank.candidates(["four:m1:1"], threshold=1.1).tolist() == [1, 2, 3, 4]
    assert bank.candidates(["ali:x"]).tolist() == [0, 1, 2, 3]
    assert bank.candidates(["four:m4:known"]).tolist() == [2, 4]
    assert bank.candidates(["four:m9:1"]).tolist() == [4]  # not in the bank: no cosine, so only other corpora
