"""Kaldi data folders."""

from pathlib import Path

from shards.cli import main
from tests.support.corpora import audio, prepare


def kaldi(root: Path) -> None:
    audio(root / "wav/rec1.wav", 10)
    audio(root / "wav/rec2.wav", 2)
    (root / "wav.scp").write_text(f"rec1 {root}/wav/rec1.wav\nrec2 {root}/wav/rec2.wav\nrec3 sph2pipe x.sph |\n")
    (root / "segments").write_text("u1 rec1 0.5 2.5\nu2 rec1 2 4\nu3 rec2 0 -1\nu4 rec3 0 1\nu5 rec1 five 6\n")
    (root / "text").write_text("u1 Hello\nu2 WORLD\nu3 三\nu4 four\nu5 five\nu6 nowhere\n")
    (root / "utt2spk").write_text("u1 ann\nu2 bob\nu3 ann\nu4 cyd\nu5 ann\n")
    (root / "spk2gender").write_text("ann f\nbob M\n")


def test_kaldi(tmp_path: Path) -> None:
    kaldi(tmp_path / "data/train")
    made = prepare("kaldi", tmp_path / "data", tmp_path / "out", "--name", "k", "--text", "plain")["train"]
    assert made.texts("rec1") == [("k:ann", "HELLO"), ("k:bob", "WORLD")]
    assert made.recordings["rec2"].segments[0].end == 2.0  # -1 is the end of the recording
    assert {s.speaker: s.gender for s in made.speakers.values()} == {"k:ann": "f", "k:bob": "m"}
    assert made.audit["skipped"] == {
        "wav.scp entry that is a command": 1,
        "invalid line in segments": 1,
        "text without an entry in segments": 1,
        "utterances without audio in wav.scp": 1,
    }


def test_kaldi_without_segments(tmp_path: Path) -> None:
    audio(tmp_path / "u1.wav", 2)
    (tmp_path / "wav.scp").write_text(f"u1 {tmp_path}/u1.wav\nu3 {tmp_path}/u1.wav\n")
    (tmp_path / "text").write_text("u1 hello\nu2 gone\n")
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 ann\n")
    made = prepare("kaldi", tmp_path, tmp_path / "out", "--name", "k")
    (manifest,) = made.values()
    assert manifest.texts("u1") == [("k:ann", "hello")]
    assert manifest.recordings["u1"].duration == 2.0
    assert manifest.audit["skipped"] == {
        "audio without usable utterances": 1,
        "utterances without audio in wav.scp": 1,
    }
    assert manifest.audit["examples"]["audio without usable utterances"] == ["u3"]


def test_empty_texts_and_unknown_speakers(tmp_path: Path) -> None:
    for name in ("u1", "u2", "u3"):
        audio(tmp_path / f"{name}.wav", 2)
    (tmp_path / "wav.scp").write_text("".join(f"u{i} {tmp_path}/u{i}.wav\n" for i in (1, 2, 3)))
    (tmp_path / "text").write_text("u1 hello\nu2\nu3 <NA>\n")
    (tmp_path / "utt2spk").write_text("u1 <NA>\nu2 ann\nu3 ann\n")
    (manifest,) = prepare("kaldi", tmp_path, tmp_path / "out", "--name", "k").values()
    assert {key: manifest.texts(key) for key in manifest.recordings} == {"u1": [("k:unknown", "hello")]}
    assert manifest.speakers == {}
    assert manifest.audit["skipped"] == {"recording without speech": 2, "segment without words": 2}


def test_keys_that_differ_in_reserved_characters_are_both_kept(tmp_path: Path) -> None:
    for seconds, name in enumerate(("a_b", "a.b", "a/b"), 1):
        audio(tmp_path / f"{seconds}.wav", seconds)
        for file, value in (("wav.scp", f"{tmp_path}/{seconds}.wav"), ("text", name), ("utt2spk", "ann")):
            with (tmp_path / file).open("a") as table:
                table.write(f"{name} {value}\n")
    (manifest,) = prepare("kaldi", tmp_path, tmp_path / "out", "--name", "k").values()
    kept = [(manifest.texts(k)[0][1], r.session, r.duration) for k, r in manifest.recordings.items()]
    assert kept == [("a_b", "a_b", 1.0), ("a.b", "a.b", 2.0), ("a/b", "a/b", 3.0)]
    assert [k[:4] for k in manifest.recordings] == ["a_b", "a_b-", "a_b-"]
    assert manifest.audit["changed"] == {"key of another recording: a longer one": 2}


def test_clips_for_enrolment_need_no_text(tmp_path: Path, capsys) -> None:
    audio(tmp_path / "voices/u1.wav", 2)
    (tmp_path / "voices/wav.scp").write_text(f"u1 {tmp_path}/voices/u1.wav\n")
    (tmp_path / "voices/utt2spk").write_text("u1 ann\n")
    made = prepare("kaldi", tmp_path, tmp_path / "out", "--name", "k", "--untranscribed", "voices")["voices"]
    assert made.texts("u1") == [("k:ann", "")]
    assert main(["prepare", "kaldi", str(tmp_path), str(tmp_path / "other")]) == 1
    assert "text: no such file; for speech without words, such as enrolment clips, add --untranscribed voices" in (
        capsys.readouterr().err
    )
