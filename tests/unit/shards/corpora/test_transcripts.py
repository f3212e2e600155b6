"""SegLST, STM, RTTM and TextGrid files with audio."""

import json
import shutil
from pathlib import Path

import pytest

from shards.cli import main
from shards.simulation.turn_statistics import estimate
from shards.weights.fetch import Wheel, fetch_wheel_member
from tests.support.corpora import audio, grid, prepare
from tests.support.speech import package_cache


def test_transcripts(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("s1", "s2", "s3", "s4"):
        audio(root / "wav" / f"{name}.wav", 10)
    seglst = [
        {"session_id": "s1", "speaker": "ann", "start_time": 0.5, "end_time": 2, "words": "hello you"},
        {"session_id": "gone", "speaker": "ann", "start_time": 0, "end_time": 1, "words": "x"},
    ]
    (root / "ref.json").write_bytes(json.dumps(seglst).encode("utf-8-sig"))
    stm = ";; a comment\ns2 1 bob 1.0 3.5 <o,f0,male> good day\r\ns2 1 cyd 3 4 <NA>\n"
    (root / "ref.stm").write_text(stm)
    lines = ["SPEAKER s2 1 0 9 <NA> <NA> bob <NA> <NA>", "SPKR-INFO s3 1 <NA> <NA> <NA> unknown ann <NA> <NA>"]
    lines += ["SPEAKER s3 1 1.5 2.0 <NA> <NA> ann <NA> <NA>"]
    (root / "ref.rttm").write_text("\n".join(lines) + "\n")
    (root / "bad.rttm").write_text("SPEAKER s3 1 x\n")
    grid(root / "s4.TextGrid", {"dan": [(1, 2, "eins"), (2, 3, "")], "noise": [(4, 5, "bang")]}, encoding="utf-16")
    made = prepare("transcripts", root, tmp_path / "out", "--name", "t")["all"]
    assert made.texts("s1") == [("t:ann", "hello you")]
    assert made.texts("s2") == [("t:bob", "good day")]
    assert [(s.start, s.end, s.text) for s in made.recordings["s3"].segments] == [(1.5, 3.5, "")]
    assert made.texts("s4") == [("t:dan", "eins")]
    assert made.audit["skipped"] == {
        "session of .rttm also in .stm": 1,
        "session without audio": 1,
        "speaker without speech": 1,
        "unreadable transcript": 1,
    }


@pytest.mark.parametrize("kind", ["TextGrid", "stm", "audio"])
def test_two_meetings_of_one_name_are_an_error(tmp_path: Path, kind: str, capsys) -> None:
    root = tmp_path / "in"
    for day in ("mon", "tue"):
        audio(root / day / "meeting.wav", 10)
        (root / day / "other.wav").touch()  # two of one name that no transcript asks for
        if kind == "TextGrid":
            grid(root / day / "meeting.TextGrid", {"ann": [(1, 2, day)]})
        elif kind == "stm" or day == "mon":
            (root / day / "all.stm").write_text(f"meeting 1 ann 1 2 {day}\n")
    assert main(["prepare", "transcripts", str(root), str(tmp_path / "out")]) == 1
    name = {"TextGrid": "meeting.TextGrid", "stm": "all.stm", "audio": "meeting.wav"}[kind]
    assert f"{root}/mon/{name} and {root}/tue/{name}: " in capsys.readouterr().err
    made = prepare("transcripts", root / "mon", tmp_path / "mon", "--name", "t")["all"]
    assert made.texts("meeting") == [("t:ann", "mon")]


PYANNOTE = Wheel(
    name="pyannote_audio",
    version="4.0.7",
    sha256="852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
    python="3.11",
    platform="manylinux_2_28_x86_64",
)

SAMPLE = {
    "wav": "c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e",
    "stm": "f861f3004927e1c4429199f9695bfd252def75d7d5e4bdf735d3d85fd4a667f7",
    "rttm": "d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87",
}


def test_real_telephone_conversation(tmp_path: Path) -> None:
    """Thirty seconds of a telephone call from a package, with words in STM and turns in RTTM."""
    for kind, digest in SAMPLE.items():
        path = fetch_wheel_member(PYANNOTE, f"pyannote/audio/sample/sample.{kind}", digest, package_cache())
        for folder in ("both", "turns"):
            if kind != "stm" or folder == "both":
                (tmp_path / folder).mkdir(exist_ok=True)
                shutil.copy(path, tmp_path / folder)
    words = prepare("transcripts", tmp_path / "both", tmp_path / "a", "--name", "p", "--language", "en")["all"]
    turns = prepare("transcripts", tmp_path / "turns", tmp_path / "b", "--name", "p", "--language", "en")["all"]
    assert words.texts("sample")[:3] == [("p:Diane", "Hello?"), ("p:Sheila", "Hello?"), ("p:Diane", "Oh, hello.")]
    assert words.recordings["sample"].duration == turns.recordings["sample"].duration == 30.0
    assert sorted(turns.speakers) == ["p:speaker90", "p:speaker91"]
    assert turns.audit["overlap"] > 0.02 > words.audit["overlap"]
    found = estimate(turns.recordings.values())
    assert found.transitions >= 8
    assert 0.2 < found.overlap < 0.8
