"""Vectors made from a sample's own speech: the limit, and persons with another id in the enrolment manifests."""

import json
from dataclasses import replace

import numpy as np
import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.manifests.manifest import RECORDINGS, SPEAKERS, SpeakerInfo, read_manifest, write_manifest
from shards.packing import self_enrolment
from tests.support.extractors import add_extractor
from tests.support.manifests import make_manifest
from tests.support.speech import PitchExtractor


@pytest.fixture(autouse=True)
def extractor(monkeypatch, tmp_path):
    add_extractor(monkeypatch, tmp_path / "site", "pitch", PitchExtractor())


@pytest.fixture
def manifest(tmp_path):
    make_manifest(tmp_path / "m", 13)
    return tmp_path / "m"


def other_speech(folder, person=lambda number: None, *, name="other"):
    """Other speech of the same voices, by default prepared under another corpus name."""
    renamed = []
    for r in make_manifest(folder, 13):
        segments = tuple(replace(s, speaker=s.speaker.replace("synthetic", name)) for s in r.segments)
        renamed.append(replace(r, key=f"o-{r.key}", session=f"o-{r.session}", corpus=name, segments=segments))
    infos = [SpeakerInfo(f"{name}:S{i}", name, "zh", "female", person(i)) for i in range(5)]
    write_manifest(folder, renamed, infos, {})
    return folder


def pack(manifest, out, *options, code=0):
    assert main(["pack", str(manifest), str(out), "--samples-per-shard", "4", "--extractor", "pitch", *options]) == code


def test_enrolment_that_names_its_speakers_otherwise_stops_the_run(manifest, tmp_path, capsys):
    enrol = ("--enrol", str(other_speech(tmp_path / "other")))
    pack(manifest, tmp_path / "o", *enrol, code=1)
    err = capsys.readouterr().err
    assert "26 of 26 speaker vectors are made from the sample's own speech, 0.05 of them are allowed" in err
    ours, theirs = err.partition("the enrolment manifests have speech of ")[::2]
    assert all(f"synthetic:S{i}" in ours and f"other:S{i}" in theirs for i in range(5))
    assert not (tmp_path / "o/dataset.json").exists()
    pack(manifest, tmp_path / "o", *enrol, "--max-self-enrolled", "1")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["skipped"], summary["self_enrolled"], summary["merged"]) == (4, 26, True)
    pack(manifest, tmp_path / "plain", "--no-speakers")


def test_a_few_speakers_without_other_speech_are_allowed(manifest, tmp_path, capsys):
    """One of 26 vectors."""
    lines = [json.loads(line) for line in (manifest / RECORDINGS).read_text().splitlines()]
    lines[12]["segments"][0]["speaker"] = "synthetic:once"
    (manifest / RECORDINGS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    enrol = ("--enrol", str(other_speech(tmp_path / "enrol", name="synthetic")))
    pack(manifest, tmp_path / "o", *enrol)
    assert json.loads(capsys.readouterr().out)["self_enrolled"] == 1
    none = (*enrol, "--max-self-enrolled", "0")
    pack(manifest, tmp_path / "none", *none, code=1)
    assert "1 of 26 speaker vectors" in (err := capsys.readouterr().err)
    assert "speakers without enrolment speech: synthetic:once …" in err
    pack(manifest, tmp_path / "tasks", *none, "--part", "0/2")  # its share of all is unknown
    pack(manifest, tmp_path / "tasks", *none, "--part", "1/2", code=1)


def test_speakers_who_speak_in_one_sample_only_are_named(manifest, tmp_path, capsys):
    """Enrolled from the packed manifest itself, and each session is one sample or two."""
    pack(manifest, tmp_path / "o", code=1)
    assert "the enrolment manifests have no other speech of these speakers" in capsys.readouterr().err


def test_a_long_run_stops_early(manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(self_enrolment, "EARLY", 6)
    pack(manifest, tmp_path / "o", "--enrol", str(other_speech(tmp_path / "other")), code=1)
    assert "6 of 6 speaker vectors are made from the sample's own speech" in capsys.readouterr().err
    assert not list((tmp_path / "o").rglob("*.tar"))
    monkeypatch.setattr(self_enrolment, "EARLY", 10)  # more than a shard has
    pack(manifest, tmp_path / "o", "--enrol", str(tmp_path / "other"), code=1)
    assert "12 of 12 speaker vectors" in capsys.readouterr().err
    assert len(list((tmp_path / "o").rglob("*.tar"))) == 2


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan", "x"])
def test_a_share_is_from_0_to_1(manifest, tmp_path, share, capsys):
    with pytest.raises(SystemExit):
        pack(manifest, tmp_path / "o", f"--max-self-enrolled={share}")
    assert f"'{share}' is not a share from 0 to 1" in capsys.readouterr().err


def test_one_person_is_enrolled_across_corpora(manifest, tmp_path, capsys):
    """The bank has both ids, so that neither is a distractor of the other."""
    other = other_speech(tmp_path / "other", lambda number: f"person-{number}" if number else None)
    enrol = ("--enrol", str(other), "--max-self-enrolled", "0.5")
    pack(manifest, tmp_path / "o", *enrol)
    spoken_by_0 = sum("synthetic:S0" in r.speakers for r in read_manifest(manifest))
    assert json.loads(capsys.readouterr().out)["self_enrolled"] == spoken_by_0
    dataset = open_dataset(tmp_path / "o")
    bank = dataset.speakers
    assert sorted(bank.ids) == sorted([*(f"other:S{i}" for i in range(5)), *(f"synthetic:S{i}" for i in range(1, 5))])
    rows = {bank.ids[row] for row in bank.candidates(["synthetic:S1"], threshold=2.0)}
    assert rows == set(bank.ids) - {"synthetic:S1", "other:S1"}
    assert bank.sessions[bank.row("synthetic:S1")] == bank.sessions[bank.row("other:S1")]
    pack(manifest, tmp_path / "same", "--enrol", str(other_speech(tmp_path / "named", name="synthetic")))
    same = open_dataset(tmp_path / "same")
    for shard, row in ((s, r) for s in range(4) for r in range(dataset.shards[s].samples)):
        ours, theirs = read_sample(dataset, shard, row), read_sample(same, shard, row)
        assert ours.key == theirs.key
        for speaker, a, b in zip(ours.speakers, ours.embeddings, theirs.embeddings, strict=True):
            assert np.array_equal(a, b) == (speaker != "synthetic:S0")  # as if the ids were the same
    assert main(["verify", str(tmp_path / "o")]) == 0
    pack(manifest, tmp_path / "o", *enrol)
    infos = (other / SPEAKERS).read_text()
    (other / SPEAKERS).write_text(infos.replace("person-1", "person-9"))
    pack(manifest, tmp_path / "o", *enrol, code=1)  # other speech, other vectors
    assert "packed from another manifest, seed or configuration" in capsys.readouterr().err


def test_the_same_audio_under_another_name_is_no_enrolment(manifest, tmp_path, capsys):
    """Persons match, but the only speech of the other corpus is that of the samples themselves, in the same files."""
    records = list(read_manifest(manifest))[:1]
    write_manifest(tmp_path / "one", records, [SpeakerInfo("synthetic:S0", "synthetic", "zh", None, "p")], {})
    segments = tuple(replace(s, speaker=s.speaker.replace("synthetic", "other")) for s in records[0].segments)
    same = replace(records[0], key="other", session="other", corpus="other", segments=segments)
    write_manifest(tmp_path / "other", [same], [SpeakerInfo("other:S0", "other", "zh", None, "p")], {})
    pack(tmp_path / "one", tmp_path / "o", "--enrol", str(tmp_path / "other"), "--max-self-enrolled", "1")
    assert json.loads(capsys.readouterr().out)["self_enrolled"] == 2


def test_embed_enrols_the_same_persons(manifest, tmp_path, monkeypatch):
    other = other_speech(tmp_path / "other", lambda number: f"person-{number}")
    pack(manifest, tmp_path / "o", "--enrol", str(other))
    add_extractor(monkeypatch, tmp_path / "site2", "second", PitchExtractor())
    command = ["embed", str(tmp_path / "o"), "--manifest", str(manifest), "--extractor", "second"]
    monkeypatch.setattr("shards.voices.enrolment.Enroller.prepare", lambda *_: None)  # this stand-in takes waves only
    monkeypatch.setattr("shards.voices.enrolment.Enroller.prepare_clips", lambda *_: None)
    assert main([*command, "--enrol", str(other)]) == 0
    ours, packed = (open_dataset(tmp_path / "o", extractor=name) for name in ("second", None))
    assert ours.speakers.ids == packed.speakers.ids
    for shard in range(4):
        for row in range(ours.shards[shard].samples):
            assert np.array_equal(read_sample(ours, shard, row).embeddings, read_sample(packed, shard, row).embeddings)
    (manifest / SPEAKERS).write_text((manifest / SPEAKERS).read_text().replace("person-1", "person-9"))
    assert main([*command, "--enrol", str(other)]) == 1
