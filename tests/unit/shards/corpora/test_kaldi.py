"""Kaldi data folders."""

from pathlib import Path

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
