"""Ordinary inputs give the recordings of 0.1.0: the same keys and sessions, so packed datasets can be continued."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import soundfile

from shards.cli import main
from tests.support.corpora import audio

BEFORE = {  # what commit 22def17 wrote: key, session, start, channel
    "jsonl": [
        ("a_m-000010000", "s1", 10.0, 1),
        ("b_n", "n", 0.0, None),
        ("b_n-000001000", "b/n", 1.0, None),
        ("my_own_key", "n", 1.5, None),
    ],
    "kaldi": [("rec_1", "rec.1", 0.0, None), ("rec-2", "rec-2", 0.0, None)],
    "tars": [("DE_x_W000001", "DE_x", 0.0, None), ("u2", "u2", 0.0, None)],
    "transcripts": [("meet_1", "meet.1", 0.0, None)],
}


def jsonl(root: Path) -> None:
    audio(root / "a/m.wav", 20, channels=2)
    audio(root / "b/n.wav", 3)
    segment = {"speaker": "ann", "start": 0, "end": 1, "text": "x"}
    rows = [
        {"audio": "a/m.wav", "segments": [segment], "session": "s1", "start": 10.0, "channel": 1},
        {"audio": "b/n.wav", "segments": [segment]},
        {"audio_filepath": "b/n.wav", "text": "nemo", "offset": 1.0, "duration": 1.5},
        {"audio": "b/n.wav", "segments": [segment], "start": 1.5, "key": "my.own key"},
    ]
    (root / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))


def kaldi(root: Path) -> None:
    for name in ("rec.1", "rec-2"):
        audio(root / f"{name}.wav", 2)
    (root / "wav.scp").write_text(f"rec.1 {root}/rec.1.wav\nrec-2 {root}/rec-2.wav\n")
    (root / "text").write_text("rec.1 one\nrec-2 two\n")
    (root / "utt2spk").write_text("rec.1 ann\nrec-2 ann\n")


def tars(root: Path) -> None:
    data = io.BytesIO()
    soundfile.write(data, [0.1, -0.1] * 4000, 16_000, format="WAV")
    root.mkdir()
    with tarfile.open(root / "w.tar", "w") as archive:
        for name in ("DE/DE_x_W000001", "./u2"):
            for end, content in (("txt", b"x"), ("wav", data.getvalue())):
                info = tarfile.TarInfo(f"{name}.{end}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def transcripts(root: Path) -> None:
    audio(root / "meet.1.wav", 3)
    (root / "meet.1.stm").write_text("meet.1 1 ann 0.5 1.5 hello\n")


@pytest.mark.parametrize("corpus", BEFORE)
def test_keys_and_sessions_are_those_of_before(tmp_path: Path, corpus: str) -> None:
    {"jsonl": jsonl, "kaldi": kaldi, "tars": tars, "transcripts": transcripts}[corpus](tmp_path / "in")
    assert main(["prepare", corpus, str(tmp_path / "in"), str(tmp_path / "out"), "--name", "c"]) == 0
    (path,) = (tmp_path / "out").glob("*/recordings.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["key"], r["session"], r.get("start", 0.0), r.get("channel")) for r in rows] == BEFORE[corpus]
