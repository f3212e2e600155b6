"""JSON Lines: this project's form and NeMo's."""

import json
from pathlib import Path

from shards.cli import main
from tests.support.corpora import audio, prepare


def test_jsonl(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    audio(root / "a/m.wav", 20, channels=2)
    audio(root / "b/m.wav", 3)
    segments = [
        {"speaker": "ann", "start": 0.5, "end": 2.5, "text": "Hello, you."},
        {"speaker": 7, "start": 2, "end": 4, "text": "hi"},
        {"start": 5, "end": 6, "text": "somebody"},
    ]
    rows = [
        {"audio": "a/m.wav", "segments": segments, "session": "s1", "start": 10.0, "channel": 1, "language": "en"},
        {"audio": "b/m.wav", "segments": [{"speaker": "ann", "start": 1, "end": 2, "text": "again"}]},
        {"audio_filepath": "b/m.wav", "text": "nemo", "offset": 1.0, "duration": 1.5, "speaker": "bob"},
    ]
    text = "\r\n".join([*map(json.dumps, rows), "{not json", '{"audio": "b/m.wav"}', ""])
    (root / "train.jsonl").write_bytes(text.encode("utf-8-sig"))
    made = prepare("jsonl", root, tmp_path / "out", "--name", "our corpus", "--language", "zh")["train"]
    assert list(made.recordings) == ["a_m-000010000", "b_m", "b_m-000001000"]
    first = made.recordings["a_m-000010000"]
    assert (first.corpus, first.session, first.start, first.duration, first.channel) == ("our-corpus", "s1", 10, 10, 1)
    assert made.texts("a_m-000010000") == [
        ("our-corpus:ann", "Hello, you."),
        ("our-corpus:7", "hi"),
        ("our-corpus:unknown", "somebody"),
    ]
    assert [r.language for r in made.recordings.values()] == ["en", "zh", "zh"]
    assert made.recordings["b_m-000001000"].segments[0].end == 1.5
    assert {s.speaker: s.person for s in made.speakers.values()} == {
        s: s for s in ("our-corpus:ann", "our-corpus:7", "our-corpus:bob")
    }
    assert made.audit["skipped"] == {"invalid line": 2}
    assert "train.jsonl:5" in made.audit["examples"]["invalid line"][1]
    assert made.audit["text"]["with_punctuation"] == 1


def test_session_speakers_are_unknown_persons(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 3)
    audio(tmp_path / "b.wav", 3)
    segment = {"speaker": "1", "start": 0, "end": 2, "text": "x"}
    rows = [{"audio": f"{n}.wav", "segments": [segment]} for n in "ab"]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "m.jsonl"
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c", "--session-speakers")["m"]
    assert {s.speaker: s.person for s in made.speakers.values()} == {"c:a:1": None, "c:b:1": None}


def test_audio_files_of_one_name_are_not_merged_into_one_session(tmp_path: Path, capsys) -> None:
    segments = [{"speaker": "1", "start": 0, "end": 2, "text": "x"}]
    for day in ("mon", "tue"):
        audio(tmp_path / day / "m.wav", 3)
    own = [{"audio": f"{day}/m.wav", "segments": segments} for day in ("mon", "tue")]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, own)))
    assert main(["prepare", "jsonl", str(file), str(tmp_path / "out"), "--session-speakers"]) == 1
    assert "m.jsonl:2: mon/m.wav and tue/m.wav would both be session m" in capsys.readouterr().err
    file.write_text("\n".join(json.dumps(row | {"session": "m"}) for row in own))
    made = prepare("jsonl", file, tmp_path / "same", "--name", "c", "--session-speakers")["m"]
    assert list(made.speakers) == ["c:m:1"]
    nemo = [{"audio_filepath": f"{day}/m.wav", "text": "x", "speaker": "1"} for day in ("mon", "tue")]
    file.write_text("\n".join(map(json.dumps, nemo)))
    made = prepare("jsonl", file, tmp_path / "nemo", "--name", "c", "--session-speakers")["m"]
    assert list(made.speakers) == ["c:mon/m:1", "c:tue/m:1"]


def test_segment_with_lone_surrogate_is_skipped(tmp_path: Path, capsys) -> None:
    """Tools that cut texts between the two code units of an emoji write lone surrogates."""
    audio(tmp_path / "a.wav", 5)
    texts = ("good", "cut \ud83d", "whole \U0001f600")
    segments = [{"speaker": "1", "start": i, "end": i + 1, "text": text} for i, text in enumerate(texts)]
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"audio": "a.wav", "segments": segments}))
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c")["m"]
    assert made.texts("a") == [("c:1", "good"), ("c:1", "whole \U0001f600")]
    assert made.audit["skipped"] == {"segment text with a lone surrogate": 1}
    file.write_text(json.dumps({"audio": "a.wav", "segments": [segments[0] | {"speaker": "\ud83d"}]}))
    assert main(["prepare", "jsonl", str(file), str(tmp_path / "out")]) == 1
    assert "lone surrogate (half a character)" in capsys.readouterr().err
