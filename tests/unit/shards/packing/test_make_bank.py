"""Making a speaker bank."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shards.dataset.speaker_bank import SpeakerBank
from shards.errors import SpeakerError
from shards.packing.make_bank import build_bank
from shards.storage.interface import open_storage
from shards.voices.enrolment import Enroller
from tests.support.enrolment import two_voices
from tests.support.speech import PitchExtractor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_voices(tmp_path)


def test_damaged_clip_removes_only_that_clip_from_the_bank(folder: Path, tmp_path: Path) -> None:
    (folder / "a1.flac").write_bytes(b"")
    storage = open_storage(tmp_path / "dataset")
    (skipped,) = build_bank(Enroller([folder], PitchExtractor()), storage)
    assert skipped["file"] == str(folder / "a1.flac")
    assert SpeakerBank.open(storage).ids == ["toy:a", "toy:b"]
    assert pq.read_table(tmp_path / "dataset" / "speakers.parquet")["num_clips"].to_pylist() == [3, 2]


def test_few_speakers_without_a_usable_clip_are_skipped_and_listed(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("b*.flac"):
        path.unlink()
    storage = open_storage(tmp_path / "dataset")
    skipped = build_bank(Enroller([folder], PitchExtractor()), storage)
    assert SpeakerBank.open(storage).ids == ["toy:a"]
    assert skipped[-1]["key"] == "toy:b"
    assert "is not in speakers.parquet" in skipped[-1]["reason"]
    for path in folder.glob("a*.flac"):
        path.unlink()
    other = open_storage(tmp_path / "other")
    with pytest.raises(SpeakerError, match=r"2 of 2 speakers .*, 1 are allowed.*: no such file.*--max-bad-share"):
        build_bank(Enroller([folder], PitchExtractor()), other)
    with pytest.raises(SpeakerError, match=r"no speaker can be enrolled .*: no such file"):
        build_bank(Enroller([folder], PitchExtractor()), other, max_bad_share=1)
    assert not (tmp_path / "other").exists()
