import json

import numpy as np
import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.errors import ShardError, SpeakerError
from shards.manifests.manifest import SPEAKERS, read_manifest
from shards.voices.enrolment import Enroller
from shards.voices.features import log_mel, unit_norm
from tests.support.extractors import add_extractor
from tests.support.manifests import make_manifest
from tests.support.speech import PitchExtractor


class FrameExtractor:
    """The mean spectrum of a clip, from features like a network."""

    id, sha256, dim = "frames", "1" * 64, 80

    def __init__(self):
        self.batches = []

    def embed(self, waves):
        return unit_norm(self.embed_features([log_mel(w) for w in waves]))

    def embed_features(self, features):
        self.batches.append(len(features))
        return np.stack([np.exp(f).mean(0) for f in features])


@pytest.fixture
def frames(monkeypatch, tmp_path):
    made = FrameExtractor()
    add_extractor(monkeypatch, tmp_path / "site/pitch", "pitch", PitchExtractor())
    add_extractor(monkeypatch, tmp_path / "site/frames", "frames", made)
    return made


@pytest.fixture
def dataset(tmp_path, frames):
    make_manifest(tmp_path / "m", 13, seconds=1.5)
    out = tmp_path / "o"
    command = ["pack", str(tmp_path / "m"), str(out), "--samples-per-shard", "4", "--extractor", "pitch"]
    assert main([*command, "--max-self-enrolled", "1"]) == 0
    return out


def embed(dataset, *options, code=0):
    manifest = dataset.parent / ("n" if dataset.name == "long" else "m")
    command = ["embed", str(dataset), "--manifest", str(manifest), "--extractor", "frames", *options]
    assert main(command) == code


def sidecars(dataset):
    return {p.name: p.read_bytes() for p in sorted(dataset.rglob("*frames*"))}


def test_vectors_are_written_to_sidecars(dataset, capsys):
    tars = {p.name: p.read_bytes() for p in dataset.rglob("*.tar")}
    embed(dataset)
    assert {p.name: p.read_bytes() for p in dataset.rglob("*.tar")} == tars
    packed, other = open_dataset(dataset), open_dataset(dataset, extractor="frames")
    assert (packed.speakers.dim, other.speakers.dim) == (8, 80)
    for shard, info in enumerate(packed.shards):
        for row in range(info.samples):
            a, b = read_sample(packed, shard, row), read_sample(other, shard, row)
            assert b.embeddings.shape == (len(a.speakers), 80)
            assert b.with_embeddings(None).members() == a.with_embeddings(None).members()
            norms = np.linalg.norm(b.embeddings.astype(np.float32), axis=1)
            assert norms == pytest.approx(np.ones(len(norms)), abs=1e-3)
    assert main(["verify", str(dataset)]) == 0


def test_clips_are_the_same_as_in_packing(dataset, frames):
    """Embedding one recording at a time, as in packing, and a shard at a time give the same vectors."""
    embed(dataset)
    data = open_dataset(dataset, extractor="frames")
    manifest = dataset.parent / "m"
    enroller = Enroller([manifest], frames, data.info["provenance"]["seed"])
    recordings = {r.key: r for r in read_manifest(manifest)}
    for shard, info in enumerate(data.shards):
        for row in range(info.samples):
            sample = read_sample(data, shard, row)
            assert np.array_equal(sample.embeddings, enroller.embed(recordings[sample.key]))


def test_rerun_embeds_only_missing_shards(dataset, frames, capsys):
    embed(dataset)
    whole = sidecars(dataset)
    assert len(whole) == 4 + 3
    capsys.readouterr()
    embed(dataset)
    assert json.loads(capsys.readouterr().out)["skipped"] == 4
    damaged = dataset / "shards/m-000001.embeddings-frames.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    (dataset / "shards/m-000002.embeddings-frames.parquet").unlink()
    frames.batches.clear()
    embed(dataset)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == 2
    assert sidecars(dataset) == whole
    assert max(frames.batches) > 1  # the clips of a shard are batched


def test_damaged_enrolment_clip_is_skipped_and_listed(tmp_path, frames, capsys):
    make_manifest(tmp_path / "n", 13, seconds=2.5)
    dataset = tmp_path / "long"
    command = ["pack", str(tmp_path / "n"), str(dataset), "--samples-per-shard", "4", "--extractor", "pitch"]
    command += ["--max-self-enrolled", "1"]
    assert main(command) == 0
    (tmp_path / "n" / "audio-006.wav").write_bytes(b"")
    capsys.readouterr()
    embed(dataset)
    summary = json.loads(capsys.readouterr().out)
    listed = (dataset / "skipped-clips-frames.jsonl").read_text().splitlines()
    assert summary["skipped_clips"] == len(listed) >= 1
    assert all("audio-006.wav" in line for line in listed)
    whole = sidecars(dataset)
    (dataset / "shards/n-000002.embeddings-frames.parquet").unlink()
    embed(dataset)  # the list includes the clips skipped by finished shards
    assert sidecars(dataset) == whole
    assert (dataset / "skipped-clips-frames.jsonl").read_text().splitlines() == listed


def test_bank_of_other_weights_or_persons_is_rewritten(dataset, frames, monkeypatch):
    """A run with other weights that is killed before it writes the bank leaves the old bank."""
    embed(dataset)
    frames.sha256 = "2" * 64
    with monkeypatch.context() as patch:
        patch.setattr("shards.packing.embed.EmbedWorker.make_bank", lambda *_: [])
        embed(dataset)
    with pytest.raises(SpeakerError, match=r"are of frames \(222222222222\).*bank's of frames \(111.*run embed again"):
        open_dataset(dataset, extractor="frames").speakers  # noqa: B018
    embed(dataset)
    assert open_dataset(dataset, extractor="frames").speakers.extractor_sha256 == "2" * 64
    speakers = dataset.parent / "m" / SPEAKERS
    speakers.write_text(speakers.read_text().replace("person-3", "person-2"))
    embed(dataset)
    assert open_dataset(dataset, extractor="frames").speakers.persons.count("person-2") == 2
    whole = (dataset / "speakers-frames.npy").read_bytes()
    (dataset / "speakers-frames.npy").write_bytes(whole[:-2] + b"xx")
    assert main(["verify", str(dataset)]) == 1
    with pytest.raises(SpeakerError, match=r"speakers-frames\.npy: was not written for these vectors; run embed again"):
        open_dataset(dataset, extractor="frames").speakers  # noqa: B018
    embed(dataset)
    assert (dataset / "speakers-frames.npy").read_bytes() == whole
    assert main(["verify", str(dataset)]) == 0
    bank = dataset / "speakers-frames.parquet"
    written = bank.stat().st_mtime_ns
    embed(dataset)
    assert bank.stat().st_mtime_ns == written


def test_shards_of_different_weights_are_rejected(dataset, frames):
    """An unfinished embed leaves sidecars of different weights."""
    embed(dataset)
    before = {p: p.read_bytes() for p in dataset.rglob("m-000001.embeddings-frames*")}
    frames.sha256 = "2" * 64
    embed(dataset)
    for path, content in before.items():
        path.write_bytes(content)
    opened = open_dataset(dataset, extractor="frames")
    read_sample(opened, 0, 0)
    with pytest.raises(SpeakerError, match=r"m-000001\.embeddings-frames\.parquet: vectors made with other weights"):
        read_sample(opened, 1, 0)


def test_each_process_on_the_cpu_uses_one_core(dataset, monkeypatch):
    import torch

    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    embed(dataset)
    assert set(taken) == {1}


def test_reader_processes_do_not_change_the_output(dataset):
    embed(dataset)
    whole = sidecars(dataset)
    for path in dataset.rglob("*frames*"):
        path.unlink()
    embed(dataset, "--readers", "2")
    assert sidecars(dataset) == whole


def test_vectors_of_another_shard_are_rejected(dataset):
    embed(dataset)
    shards = dataset / "shards"
    (shards / "m-000001.embeddings-frames.parquet").rename(shards / "m-000000.embeddings-frames.parquet")
    with pytest.raises(ShardError, match=r"m-000000.embeddings-frames.parquet: made for another shard"):
        read_sample(open_dataset(dataset, extractor="frames"), 0, 0)


def test_other_manifests_are_rejected(dataset, tmp_path, capsys):
    make_manifest(tmp_path / "n", 5)
    embed(dataset, "--enrol", str(tmp_path / "n"), code=1)
    assert "differs from the enrolment" in capsys.readouterr().err
    make_manifest(tmp_path / "m", 12)
    embed(dataset, code=1)
    assert "not the manifest" in capsys.readouterr().err
