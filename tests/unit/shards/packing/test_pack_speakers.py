"""Speaker vectors of samples, and the speaker bank."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.manifests.manifest import RECORDINGS, SPEAKERS
from tests.support.extractors import add_extractor
from tests.support.manifests import make_manifest


@pytest.fixture
def manifest(tmp_path):
    make_manifest(tmp_path / "m", 13)
    return tmp_path / "m"


def pack(manifest, out, *options, code=0):
    extra = ("--extractor", "synthetic", "--max-self-enrolled", "1")
    assert main(["pack", str(manifest), str(out), "--samples-per-shard", "4", *extra, *options]) == code


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit(manifest, change):
    lines = [json.loads(line) for line in (manifest / RECORDINGS).read_text().splitlines()]
    lines = change(lines) or lines
    (manifest / RECORDINGS).write_text("".join(json.dumps(line) + "\n" for line in lines))


class SyntheticExtractor:
    """The lowest bins of a waveform's spectrum as a speaker vector."""

    id, sha256, dim = "synthetic", hashlib.sha256(b"").hexdigest(), 16

    def embed(self, waves):
        rows = np.stack([np.abs(np.fft.rfft(w[:1600], 400))[:16] for w in waves])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_speaker_vectors_and_bank(manifest, tmp_path, monkeypatch):
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", SyntheticExtractor())
    pack(manifest, tmp_path / "o")
    dataset = open_dataset(tmp_path / "o")
    sample = read_sample(dataset, 0, 0)
    assert sample.embeddings.shape == (2, 16)
    assert sample.embeddings.dtype == np.float16
    assert set(dataset.speakers.ids) == {f"synthetic:S{i}" for i in range(5)}
    provenance = dataset.info["provenance"]
    assert (provenance["extractor"], provenance["extractor_dim"], provenance["clip_rule"]) == ("synthetic", 16, "none")
    assert main(["verify", str(tmp_path / "o")]) == 0
    for task in (1, 0):
        pack(manifest, tmp_path / "tasks", "--part", f"{task}/2")
    assert content(tmp_path / "tasks") == content(tmp_path / "o")


def test_damaged_recording_quarantines_no_other_recording(manifest, tmp_path, monkeypatch, capsys):
    """It is also enrolment speech of two speakers: other clips replace it, and the bank is complete."""
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", SyntheticExtractor())
    make_manifest(manifest, 13, seconds=2.5)
    (manifest / "audio-006.wav").write_bytes(b"")
    pack(manifest, tmp_path / "o", "--max-bad-share", "0.1")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["quarantined"]) == (12, 1)
    listed = [json.loads(line) for line in (tmp_path / "o/skipped-clips.jsonl").read_text().splitlines()]
    assert summary["skipped_clips"] >= 1
    assert all("audio-006.wav" in clip["reason"] for clip in listed)
    assert len(open_dataset(tmp_path / "o").speakers) == 5
    for task in (1, 0):
        pack(manifest, tmp_path / "tasks", "--part", f"{task}/2", "--max-bad-share", "0.2")
    assert content(tmp_path / "tasks") == content(tmp_path / "o")


def test_missing_enrolment_audio_stops_the_run(manifest, tmp_path, monkeypatch, capsys):
    """Otherwise an unmounted folder would give every sample vectors of its own speech."""
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", SyntheticExtractor())
    shutil.copytree(manifest, tmp_path / "enrol")
    edit(tmp_path / "enrol", lambda rows: [r | {"key": f"e-{r['key']}", "session": r["key"]} for r in rows])
    for path in (tmp_path / "enrol").glob("audio-*"):
        path.unlink()
    pack(manifest, tmp_path / "o", "--enrol", str(tmp_path / "enrol"), "--max-bad-share", "0.2", code=1)
    err = capsys.readouterr().err
    assert "3 recordings cannot be used or enrolled, 2 are allowed" in err
    assert "no such file" in err
    assert not list((tmp_path / "o").rglob("*.tar"))


def test_recording_without_speech_has_no_vectors(manifest, tmp_path, monkeypatch):
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", SyntheticExtractor())
    edit(manifest, lambda rows: [r | {"segments": []} if r["key"] == "synthetic-004" else r for r in rows])
    pack(manifest, tmp_path / "o")
    dataset = open_dataset(tmp_path / "o")
    keys = [(shard, key) for shard in range(4) for key in dataset.index(shard)["key"].to_pylist()]
    (shard,) = (s for s, key in keys if key == "synthetic-004")
    sample = read_sample(dataset, shard, [k for s, k in keys if s == shard].index("synthetic-004"))
    assert (sample.segments, sample.embeddings.shape) == ((), (0, 16))
    assert main(["verify", str(tmp_path / "o")]) == 0


def test_other_enrolment_is_rejected(manifest, tmp_path, monkeypatch):
    shutil.copytree(manifest, tmp_path / "enrol")
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", SyntheticExtractor())
    pack(manifest, tmp_path / "o", "--enrol", str(tmp_path / "enrol"))
    edit(tmp_path / "enrol", lambda lines: lines[:-1])
    pack(manifest, tmp_path / "o", "--enrol", str(tmp_path / "enrol"), code=1)
    pack(manifest, tmp_path / "o2", "--enrol", str(tmp_path / "nowhere"), code=1)


def test_changed_persons_rewrite_the_bank_and_no_shard(manifest, tmp_path, monkeypatch, capsys):
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", SyntheticExtractor())
    pack(manifest, tmp_path / "o")
    before = content(tmp_path / "o")
    speakers = (manifest / SPEAKERS).read_text()
    (manifest / SPEAKERS).write_text(speakers.replace("person-3", "person-2"))
    capsys.readouterr()
    pack(manifest, tmp_path / "o")
    assert json.loads(capsys.readouterr().out)["skipped"] == 4
    assert open_dataset(tmp_path / "o").speakers.persons.count("person-2") == 2
    (manifest / SPEAKERS).write_text(speakers)
    pack(manifest, tmp_path / "o")
    assert content(tmp_path / "o") == before


@pytest.mark.parametrize("name", ["speakers.npy", "speakers.parquet"])
def test_rerun_repairs_a_damaged_bank(manifest, tmp_path, monkeypatch, capsys, name):
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", SyntheticExtractor())
    pack(manifest, tmp_path / "o")
    before = content(tmp_path / "o")
    damaged = bytearray(before[name])
    damaged[-3] ^= 4  # of the last vector; of the table's end
    for data in (bytes(damaged), None):
        (tmp_path / "o" / name).write_bytes(data) if data else (tmp_path / "o" / name).unlink()
        assert main(["verify", str(tmp_path / "o")]) == 1
        capsys.readouterr()
        pack(manifest, tmp_path / "o")
        captured = capsys.readouterr()
        assert json.loads(captured.out)["skipped"] == 4
        assert "it is written again now" in captured.err
        assert content(tmp_path / "o") == before


def test_weights_changed_under_the_same_name_are_rejected(manifest, tmp_path, monkeypatch):
    """Resuming with other weights would mix vectors of two models in one dataset."""
    made = SyntheticExtractor()
    add_extractor(monkeypatch, tmp_path / "site", "synthetic", made)
    pack(manifest, tmp_path / "o", "--part", "0/2")
    made.sha256 = "0" * 64
    pack(manifest, tmp_path / "o", code=1)
