"""SegLST, STM, RTTM and TextGrid files with audio."""

import json
import shutil
from pathlib import Path

import pytest

from shards.cli import main
from shards.simulation.turn_statistics import estimate
from shards.weights.fetch import Wheel, fetch_wheel_member
from tests.support.corpora import audio, grid, long_grid, prepare
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
    assert (made.speakers["t:bob"].gender, made.speakers["t:ann"].gender) == ("m", None)
    assert [(s.start, s.end, s.text) for s in made.recordings["s3"].segments] == [(1.5, 3.5, "")]
    assert made.texts("s4") == [("t:dan", "eins")]
    assert made.audit["skipped"] == {
        "session of .rttm also in .stm": 1,
        "session without audio": 1,
        "segment without words": 1,  # <NA> of cyd
        "speaker without speech": 1,
        "invalid line": 1,
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


def test_what_is_no_speech_is_not_spoken(tmp_path: Path) -> None:
    """Gaps of STM, null and NaN of SegLST, turns without a name; integer times beside any channel."""
    for name in ("s1", "s2", "s3", "s4"):
        audio(tmp_path / f"{name}.wav", 10)
    stm = ["s1 A ann 1 2 <o,f0,> hello", "s1 A inter_segment_gap 2 3 <o,,unknown> IGNORE_TIME_SEGMENT_IN_SCORING"]
    stm += ["s1 <NA> bob 3 4 <o,,unknown> Ignore_time_segment_in_scoring", "s1 A bob 4 5 hey", "s1 A bob five 6 x"]
    (tmp_path / "a.stm").write_text("\n".join(stm))
    (tmp_path / "b.rttm").write_text(
        "SPEAKER s2 <NA> 1 2 <NA> <NA> ann <NA> <NA>\nSPEAKER s2 A 4 2 <NA> <NA> <NA> <NA>\n"
    )
    said = {"session_id": "s3", "speaker": "ann", "start_time": 0, "end_time": 1, "words": "yes"}
    rows = [said, said | {"words": None}, said | {"words": float("nan")}, said | {"words": ["no"]}]
    rows += [said | {"start_time": 1, "end_time": 2, "speaker": x} for x in (None, float("nan"), "<NA>", ["ann"])]
    rows += [said | {"start_time": 3, "end_time": 4, "words": ""}, said | {"end_time": float("inf")}, ["s3"]]
    turns = {"session_id": "s4", "speaker": 1, "start_time": 0, "end_time": 1, "side": "left"}
    (tmp_path / "c.json").write_text(json.dumps([*rows, turns]))
    (tmp_path / "d.json").write_text("[" * 100_000)
    made = prepare("transcripts", tmp_path, tmp_path / "out", "--name", "t")["all"]
    assert {key: made.texts(key) for key in made.recordings} == {
        "s1": [("t:ann", "hello"), ("t:bob", "hey")],
        "s2": [("t:ann", ""), ("t:unknown", "")],
        "s3": [("t:ann", "yes"), ("t:unknown", "yes")],
        "s4": [("t:1", "")],
    }
    assert sorted(made.speakers) == ["t:1", "t:ann", "t:bob"]
    assert made.audit["skipped"] == {
        "time that STM excludes from scoring": 2,
        "invalid line": 1,
        "invalid segment": 6,
        "duplicate segment": 2,
        "segment without words": 1,
        "unknown key 'side'": 1,
        "unreadable transcript": 1,
    }
    assert made.audit["examples"]["invalid line"][0].startswith(f"{tmp_path}/a.stm:5: not an STM line")


def test_textgrid_with_quotes_that_are_not_doubled(tmp_path: Path) -> None:
    audio(tmp_path / "s.wav", 10)
    content = long_grid({"ann": [(1, 2, "she said @hi@ to me"), (2, 3, "他说@好@吧"), (3, 4, "next")]})
    (tmp_path / "s.TextGrid").write_text(content.replace("@", '"'))
    made = prepare("transcripts", tmp_path, tmp_path / "out", "--name", "t")["all"]
    assert made.texts("s") == [("t:ann", 'she said "hi" to me'), ("t:ann", '他说"好"吧'), ("t:ann", "next")]


def test_linked_session_and_audio_in_two_formats(tmp_path: Path) -> None:
    audio(tmp_path / "pool/s1.wav", 3)
    (tmp_path / "pool/s1.stm").write_text("s1 1 ann 0.5 1.5 hello\n")
    audio(tmp_path / "pool/s1.flac", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "pool")
    made = prepare("transcripts", tmp_path / "in", tmp_path / "out", "--name", "t")["all"]
    assert made.recordings["s1"].duration == 2.0
    assert made.audit["skipped"] == {"audio in a second format": 1}


@pytest.mark.parametrize("form", ["stm", "rttm"])
def test_both_channels_of_a_call_are_heard(tmp_path: Path, form: str) -> None:
    """Of a file with several channels the first was read, with the words of all."""
    for name in ("call", "array"):
        audio(tmp_path / f"{name}.wav", 10, channels=2)
    lines = {
        "stm": "{0} {1} ann 0 2 left\n{0} {2} bob 3 5 right\n",
        "rttm": "SPEAKER {0} {1} 0 2 <NA> <NA> ann <NA> <NA>\nSPEAKER {0} {2} 3 2 <NA> <NA> bob <NA> <NA>\n",
    }[form]
    (tmp_path / f"a.{form}").write_text(lines.format("call", "A", "B") + lines.format("array", "1", "<NA>"))
    made = prepare("transcripts", tmp_path, tmp_path / "out", "--name", "t")["all"]
    assert {k: r.channel for k, r in made.recordings.items()} == {"call": None, "array": 0}
    assert made.audit["changed"] == {"speech on several channels: all are mixed": 1}


def test_name_of_a_file_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    for name in ("ok", "\udcff"):
        shutil.copy(audio(tmp_path / "audio.wav", 4), tmp_path / f"{name}.wav")
        grid(tmp_path / f"{name}.TextGrid", {"ann": [(1, 2, "words")]})
    (tmp_path / "more.stm.gz").write_bytes(b"")
    made = prepare("transcripts", tmp_path, tmp_path / "out", "--name", "t")["all"]
    assert list(made.recordings) == ["ok"]
    assert made.audit["skipped"] == {"recording with unreadable audio": 1, "compressed transcript: unpack it": 1}
