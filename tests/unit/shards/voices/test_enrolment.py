"""Enrolment clips of speakers, and the vectors of a recording's speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.errors import AudioError, ModelError, SpeakerError
from shards.manifests.manifest import Recording, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from shards.voices.enrolment import Enroller, load_clip
from shards.voices.network_extractor import NetworkExtractor
from tests.support.enrolment import Frames, conversation, speak, two_voices
from tests.support.speech import PitchExtractor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_voices(tmp_path)


def test_vectors_are_in_order_of_appearance_with_unit_norm(folder: Path) -> None:
    enroller = Enroller([folder], PitchExtractor())
    vectors = enroller.embed(conversation("c", "toy:b", "toy:a", "toy:b"))
    assert vectors.dtype == np.float16
    assert vectors.shape == (2, 8)
    assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx([1, 1], abs=1e-3)
    assert vectors.argmax(1).tolist() == [4, 1]  # bands of 900 and 200 Hz
    again = Enroller([folder], PitchExtractor()).embed(conversation("c", "toy:b", "toy:a", "toy:b"))
    assert np.array_equal(vectors, again)


def test_vectors_of_one_speaker_vary_and_clips_are_embedded_once(tmp_path: Path) -> None:
    records = [speak(tmp_path, f"a{i}", "toy:a", 2.5, 150 + 40 * i) for i in range(10)]
    write_manifest(tmp_path, records, [], {})
    enroller = Enroller([tmp_path], PitchExtractor())
    vectors = [enroller.embed(conversation(f"c{k}", "toy:a")) for k in range(30)]
    assert len({v.tobytes() for v in vectors}) > 10
    assert enroller.extractor.calls <= 10  # type: ignore[attr-defined]


def test_clips_are_two_to_ten_seconds(folder: Path) -> None:
    records = [speak(folder, "long", "toy:c", 25.0, 300)]
    write_manifest(folder / "more", records, [], {})
    enroller = Enroller([folder, folder / "more"], PitchExtractor())
    for speaker in enroller.heard():
        lengths = [sum(p.seconds for p in clip) for clip in enroller.clips(speaker)]
        assert lengths
        assert all(2.0 <= x <= 10.0 for x in lengths), speaker
    assert len(enroller.clips("toy:c")) == 3
    assert [len(c) for c in enroller.clips("toy:b")] == [4, 4]  # half-second words are joined


def test_clips_have_few_different_lengths(tmp_path: Path) -> None:
    """An accelerator batches clips of equal length: clips of 2 to 10 s have at most 33 lengths."""
    records = [speak(tmp_path, f"a{i}", f"toy:{i}", seconds, 200) for i, seconds in enumerate((1.3, 2.0, 2.07, 7.61))]
    write_manifest(tmp_path, records, [], {})
    enroller = Enroller([tmp_path], PitchExtractor())
    sizes = {s: load_clip(enroller.clips(s)[0]).size / SAMPLE_RATE for s in enroller.heard()}
    assert sizes == {"toy:0": pytest.approx(1.3), "toy:1": 2.0, "toy:2": 2.0, "toy:3": 7.5}


def used(enroller: Enroller, recording: Recording) -> set[str]:
    """Keys of the enrolment recordings that were embedded for a recording."""
    enroller.vectors.clear()
    enroller.embed(recording)
    return {p.key for clip in enroller.vectors for p in clip}


def test_recording_its_sources_and_its_span_are_never_used(folder: Path) -> None:
    enroller = Enroller([folder], PitchExtractor())
    assert used(enroller, conversation("c", "toy:a")) == {"a0", "a1", "a2", "a3"}
    assert used(enroller, conversation("c", "toy:a", sources=("a0", "a2"))) == {"a1", "a3"}
    assert used(enroller, conversation("a1", "toy:a")) == {"a0", "a2", "a3"}
    clip = replace(conversation("far-0001", "toy:a"), session="a3", start=2.0, duration=40.0)
    assert used(enroller, clip) == {"a0", "a1", "a2"}  # another track of the same session, same time
    assert used(enroller, replace(clip, start=100.0)) == {"a0", "a1", "a2", "a3"}
    assert enroller.own_speech == 0


def test_self_enrolment_without_other_speech_is_counted(folder: Path) -> None:
    own = speak(folder, "own", "toy:new", 4.0, 500)
    enroller = Enroller([folder], PitchExtractor())
    assert used(enroller, own) == {"own"}
    assert enroller.own_speech == 1
    tiny = replace(own, segments=(Segment("toy:new", 0.0, 0.05, "x"),))
    with pytest.raises(SpeakerError, match=r"own: toy:new has less than 0.1 s"):
        enroller.embed(tiny)


def test_overlapped_speech_is_not_used_for_enrolment(tmp_path: Path) -> None:
    mixed = speak(tmp_path, "m", "toy:a", 12.0, 200)
    segments = (Segment("toy:a", 0, 3, "x"), Segment("toy:b", 2, 6, "y"), Segment("toy:a", 7, 10, "z"))
    write_manifest(tmp_path, [replace(mixed, segments=segments)], [], {})
    enroller = Enroller([tmp_path], PitchExtractor())
    assert enroller.heard() == ["toy:a"]
    assert [(c[0].start, c[0].end) for c in enroller.clips("toy:a")] == [(7.0, 10.0)]


def test_memory_per_speaker_is_bounded(tmp_path: Path) -> None:
    """Some of hundreds of utterances are kept, independent of their order; the bank lists all sessions."""
    records = [speak(tmp_path, f"u{i:03d}", "toy:a", 0.5 if i % 2 else 2.5, 200) for i in range(300)]
    write_manifest(tmp_path, records, [], {})
    write_manifest(tmp_path / "reversed", records[::-1], [], {})
    enrollers = [Enroller([folder], PitchExtractor()) for folder in (tmp_path, tmp_path / "reversed")]
    kept = [{p.key for p in e.pieces("toy:a")} for e in enrollers]
    assert len(kept[0]) == 2 * 64
    assert kept[0] == kept[1] != {p.key for p in Enroller([tmp_path], seed=9)._voices["toy:a"].pieces()}
    assert len(enrollers[0].sessions()["toy:a"]) == 300


def test_batched_embedding_equals_embedding_one_by_one(folder: Path) -> None:
    recordings = [conversation(f"c{i}", "toy:a", "toy:b") for i in range(5)]
    one, together = Enroller([folder], Frames()), Enroller([folder], Frames())
    together.prepare(recordings)
    held = len(together.vectors)
    for r in recordings:
        assert np.array_equal(one.embed(r), together.embed(r))
    assert len(together.vectors) == held


def test_unreadable_clip_is_skipped_and_listed(folder: Path) -> None:
    """Other clips replace it, whatever was embedded before; of joined utterances only the missing one is skipped."""
    (folder / "b0.flac").unlink()
    (folder / "a2.flac").write_bytes(b"")
    recordings = [conversation(f"c{i}", "toy:a", "toy:b") for i in range(20)]
    enroller = Enroller([folder], Frames())
    enroller.prepare(recordings)
    for recording in recordings:
        enroller.embed(recording)
    used = {p.key for clip in enroller.vectors for p in clip}
    assert not used & {"a2", "b0"}
    assert len(used) == 3 + 7  # toy:b has nine words, in two clips of four
    skipped = enroller.take_skipped()
    assert sorted((x["file"], x["key"]) for x in skipped) == [(f"{folder}/{k}.flac", k) for k in ("a2", "b0")]
    assert any("b0.flac: no such file" in x["reason"] for x in skipped)
    assert enroller.take_skipped() == []
    assert (enroller.own_speech, enroller.unenrolled) == (0, 0)
    enroller.embed(recordings[7])
    assert enroller.take_skipped() == skipped  # for every shard that needs it


def test_draw_does_not_depend_on_damaged_clips_of_others(tmp_path: Path) -> None:
    """The draw is the same in a process that has seen a damaged clip and in one that has not."""
    records = [speak(tmp_path, f"a{i}", "toy:a", 2.5, 150 + 40 * i) for i in range(8)]
    write_manifest(tmp_path, records, [], {})
    (tmp_path / "a3.flac").write_bytes(b"")
    recordings = [conversation(f"c{k}", "toy:a") for k in range(12)]
    enroller = Enroller([tmp_path], PitchExtractor())
    together = [enroller.embed(r) for r in recordings]
    assert len(enroller.take_skipped()) == 1
    for r, vectors in zip(recordings, together, strict=True):
        assert np.array_equal(Enroller([tmp_path], PitchExtractor()).embed(r), vectors)


def test_wrong_weights_are_not_blamed_on_a_clip(folder: Path) -> None:
    """They stop the run at the first clip, instead of skipping every clip for hours."""
    (folder / "w.pt").write_bytes(b"no weights")
    extractor = NetworkExtractor("none", dict, folder / "w.pt", 8, folder / "cache")
    with pytest.raises(ModelError, match=r"w.pt: not weights of none"):
        Enroller([folder], extractor).embed(conversation("c", "toy:a"))


def test_self_enrolment_without_a_usable_clip_is_counted(folder: Path) -> None:
    """Also in a batch in which one clip gives a non-finite vector."""

    class Broken(Frames):
        def means(self, features: Sequence[np.ndarray]) -> np.ndarray:
            vectors = super().means(features)
            return np.where(np.array([len(f) < 250 for f in features])[:, None], np.nan, vectors)

    enroller = Enroller([folder], Broken())
    own = speak(folder / "more", "own", "toy:b", 4.0, 900)
    recordings = [conversation("c", "toy:a"), own]
    enroller.prepare(recordings)
    assert np.isfinite(enroller.embed(recordings[0])).all()
    assert enroller.unenrolled == 0
    assert np.isfinite(enroller.embed(own)).all()
    assert (enroller.own_speech, enroller.unenrolled) == (1, 1)
    reasons = [b["reason"] for b in enroller.take_skipped()]
    assert len(reasons) == 2
    assert all("an embedding is zero or not finite" in r for r in reasons)
    with pytest.raises(AudioError, match=r"/nowhere.flac: no such file"):
        enroller.embed(conversation("d", "toy:b"))
    assert (enroller.own_speech, enroller.unenrolled) == (1, 1)
