"""JSON Lines: this project's form and NeMo's."""

import bz2
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest

from shards.cli import main
from shards.corpora.jsonl import prepare as prepare_jsonl
from shards.manifests.prepare_types import PrepareOptions
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


def test_row_longer_than_its_file_is_counted(tmp_path: Path) -> None:
    """Own rows, NeMo's, with and without an offset: the file has 4 s of the 10 s that they name."""
    audio(tmp_path / "a.wav", 4)
    audio(tmp_path / "b.wav", 4)
    segments = [{"speaker": "ann", "start": 0.5, "end": 9.5, "text": "one two"}]
    rows = [
        {"audio": "a.wav", "segments": segments, "key": "own", "duration": 10.0},
        {"audio": "a.wav", "segments": segments, "key": "own-part", "start": 1.0, "duration": 9.0},
        {"audio_filepath": "a.wav", "text": "one two", "duration": 10.0},
        {"audio_filepath": "a.wav", "text": "one two", "duration": 7.0, "offset": 3.0},
        {"audio_filepath": "b.wav", "text": "whole", "duration": 4.004},  # rounded
        {"audio_filepath": "b.wav", "text": "after the end", "duration": 2.0, "offset": 5.0},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out")["m"]
    cut = made.audit["changed"]
    assert cut == {"recording longer than its audio file: cut": 4, "segment ends after the recording: trimmed": 4}
    assert "a: 10 s, the file has 4.00 s of them" in made.audit["examples"]["recording longer than its audio file: cut"]
    assert made.audit["skipped"] == {"recording outside its audio file": 1}
    assert [r.duration for r in made.recordings.values()] == [4.0, 3.0, 4.0, 1.0, 4.0]


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


def test_a_person_may_be_named_across_sessions_and_corpora(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 5)
    spoken = [("1", None), ("2", "bob"), ("1", "ann"), ("1", "eve")]
    segments = [
        {"speaker": s, "start": i, "end": i + 1, "text": "x"} | ({"person": p} if p else {})
        for i, (s, p) in enumerate(spoken)
    ]
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"audio": "a.wav", "segments": segments}))
    for options in ([], ["--session-speakers"]):
        made = prepare("jsonl", file, tmp_path / f"out{len(options)}", "--name", "c", *options)["m"]
        assert [s.person for s in made.speakers.values()] == ["ann", "bob"]
        assert made.audit["skipped"] == {"another person of the same speaker": 1}


def test_segment_with_lone_surrogate_is_skipped(tmp_path: Path) -> None:
    """Tools that cut texts between the two code units of an emoji write lone surrogates."""
    audio(tmp_path / "a.wav", 5)
    texts = ("good", "cut \ud83d", "whole \U0001f600")
    segments = [{"speaker": "1", "start": i, "end": i + 1, "text": text} for i, text in enumerate(texts)]
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"audio": "a.wav", "segments": segments}))
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c")["m"]
    assert made.texts("a") == [("c:1", "good"), ("c:1", "whole \U0001f600")]
    assert made.audit["skipped"] == {"segment text with a lone surrogate": 1}


def test_values_that_are_no_words_or_names_are_counted(tmp_path: Path) -> None:
    """What pandas and other tools write for nothing is neither spoken nor a known voice."""
    for name in "abcdefg":
        audio(tmp_path / f"{name}.wav", 3)
    said = {"start": 0, "end": 1, "speaker": "ann", "text": "hello"}
    segments = [said, said | {"start": 1, "end": 2, "text": None}, said | {"start": 2, "end": 3, "text": ""}]
    rows = [
        {"audio": "a.wav", "segments": [*segments, {"start": 1, "end": 2, "text": "hi", "speaker": float("nan")}]},
        {"audio_filepath": "b.wav", "text": None, "speaker": "ann"},
        {"audio_filepath": "c.wav", "text": float("nan"), "speaker": "ann"},
        {"audio_filepath": "d.wav", "text": ["NONE"], "speaker": "ann"},
        {"audio_filepath": "e.wav", "text": " ", "speaker": "ann"},
        {"audio_filepath": "f.wav", "text": "hey", "speaker": "<NA>"},
        {"audio_filepath": "g.wav", "text": "ho", "speaker": None},
    ]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c")["m"]
    assert {key: made.texts(key) for key in made.recordings} == {
        "a": [("c:ann", "hello"), ("c:unknown", "hi")],
        "f": [("c:unknown", "hey")],
        "g": [("c:unknown", "ho")],
    }
    assert list(made.speakers) == ["c:ann"]
    assert made.audit["skipped"] == {
        "invalid line": 3,
        "invalid segment": 1,
        "segment without words": 2,  # of a and e
        "recording without speech": 1,
    }


def test_language_has_two_names_and_unknown_keys_are_counted(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 3)
    said = {"start": 0, "end": 1, "text": "x", "confidence": 0.5}
    rows = [
        {"audio_filepath": "a.wav", "offset": i, "text": "x", key: "en"} for i, key in enumerate(("lang", "language"))
    ]
    rows += [
        {"audio": "a.wav", "segments": [said], key: "de", "key": key, "langauge": "fr"} for key in ("lang", "language")
    ]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c")["m"]
    assert [r.language for r in made.recordings.values()] == ["en", "en", "de", "de"]
    assert made.audit["skipped"] == {"unknown key 'confidence'": 2, "unknown key 'langauge'": 2}
    assert made.audit["examples"]["unknown key 'confidence'"][0] == f"{file}:3, segment 1"


def test_one_bad_row_does_not_lose_the_others(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 3)
    said = {"start": 0, "end": 1, "text": "x"}
    good = {"audio": "a.wav", "segments": [said]}
    bad = [
        "[" * 100_000,
        json.dumps(good | {"start": float("inf")}),
        json.dumps({"audio_filepath": "a.wav", "text": "x", "offset": float("inf")}),
        json.dumps({"audio_filepath": "a.wav", "text": "x", "duration": 1e999}),
        json.dumps({"audio_filepath": "a.wav", "text": "x", "offset": 10**400}),
        json.dumps({"audio": "a.wav", "segments": None}),
        json.dumps({"audio": "", "segments": [said]}),
        "[1]",
        "null",
    ]
    long = [good | {"audio": "n" * 300 + ".wav"}, good | {"audio": "n/" * 3000}, good | {"key": "é" * 130}]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join([*bad, *map(json.dumps, long), json.dumps(good)]))
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c")["m"]
    assert list(made.recordings) == ["a"]
    assert made.audit["skipped"] == {
        "invalid line": len(bad),
        "recording with unreadable audio": 2,
        "recording key of more than 240 bytes": 1,
    }
    places = [example.partition(": ")[0] for example in made.audit["examples"]["invalid line"]]
    assert places == [f"{file}:{number}" for number in range(1, len(bad) + 1)]


SEGMENT = {"speaker": "1", "start": 0, "end": 1, "text": "x"}


@pytest.mark.parametrize("field", ["audio", "key", "session", "language"])
def test_half_a_character_in_a_name_loses_its_row_only(tmp_path: Path, field: str) -> None:
    """A lone surrogate, which JSON can hold and UTF-8 cannot; of a speaker it loses the segment."""
    audio(tmp_path / "a.wav", 3)
    good = {
        "audio": "a.wav",
        "session": "s",
        "segments": [SEGMENT, SEGMENT | {"start": 1, "end": 2, "speaker": "\ud800"}],
    }
    bad = good | {"key": "bad"} | {field: "x\udfff"}
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, [bad, good])))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert [(k, r.session) for k, r in made.recordings.items()] == [("a", "s")]
    assert made.audit["skipped"] == {"invalid line": 1, "invalid segment": 1}
    (found,) = made.audit["examples"]["invalid line"]
    assert found.startswith(f"{tmp_path}/m.jsonl:1: {field}")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_is_not_utf8_loses_its_row_only(tmp_path: Path, mark: bytes) -> None:
    audio(tmp_path / "a.wav", 3)
    rows = [json.dumps({"audio": "a.wav", "key": key, "segments": [SEGMENT]}).encode() for key in "abc"]
    rows[1] = rows[1].replace(b'"x"', b'"\xff"')
    (tmp_path / "m.jsonl").write_bytes(mark + b"\n".join(rows))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert list(made.recordings) == ["a", "c"]
    assert made.audit["skipped"] == {"invalid line": 1}
    (found,) = made.audit["examples"]["invalid line"]
    assert found.startswith(f"{tmp_path}/m.jsonl:2: not UTF-8")


def test_invisible_text_is_no_words(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 8)
    texts = ["", " ", "\u200b", "\ufeff\u200d", "\u3000\u00ad", "ok\u200b", "\u200fשלום"]
    said = [SEGMENT | {"start": i, "end": i + 0.9, "text": text} for i, text in enumerate(texts)]
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "segments": said}))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert [text for _, text in made.texts("a")] == texts[5:]
    assert made.audit["skipped"] == {"segment without words": 5}


def test_channel_that_the_file_lacks_is_counted(tmp_path: Path) -> None:
    audio(tmp_path / "call.wav", 3, channels=2)
    audio(tmp_path / "mono.wav", 3)
    rows = [
        {"audio": f"{name}.wav", "channel": c, "segments": [SEGMENT]} for name in ("call", "mono") for c in range(3)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert {k: r.channel for k, r in made.recordings.items()} == {"call": 0, "call_wav-channel1": 1, "mono": None}
    assert made.audit["skipped"] == {"recording on a missing channel": 3}


def test_channels_of_a_call_are_two_recordings_of_one_session(tmp_path: Path) -> None:
    audio(tmp_path / "call.wav", 3, channels=2)
    rows = [{"audio": "call.wav", "channel": c, "segments": [SEGMENT | {"speaker": f"side{c}"}]} for c in (0, 1)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[1]])))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert {k: (r.channel, r.session) for k, r in made.recordings.items()} == {
        "call": (0, "call"),
        "call_wav-channel1": (1, "call"),
    }
    assert made.texts("call_wav-channel1") == [("c:side1", "x")]
    assert made.audit["skipped"] == {"duplicate recording key": 1}  # the same channel again
    assert made.audit["changed"] == {"key of another recording: a longer one": 1}


@pytest.mark.parametrize(
    ("files", "keys"),
    [
        (("a.b.wav", "a_b.wav"), ["a_b", "a_b_wav"]),
        (("x/y.wav", "x_y.wav"), ["x_y", "x_y_wav"]),
        (("z.wav", "z.flac"), ["z", "z_flac"]),
        (("a b.wav", "a/b.wav", "a_b.wav"), ["a_b", "a_b_wav", "a_b-0be87b43672952d6"]),
    ],
)
def test_files_whose_names_differ_get_distinct_keys(tmp_path: Path, files: tuple[str, ...], keys: list[str]) -> None:
    for seconds, name in enumerate(files, 2):
        audio(tmp_path / name, seconds)
    rows = [{"audio_filepath": name, "text": name, "speaker": "1"} for name in files]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert list(made.recordings) == keys
    for key, seconds, name in zip(keys, range(2, 9), files, strict=False):
        assert (made.recordings[key].duration, made.texts(key)) == (seconds, [("c:1", name)])
    rows = [{"audio": name, "session": "s", "segments": [SEGMENT]} for name in files]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "own", "--name", "c")["m"].recordings) == keys


def test_two_formats_of_one_recording_share_the_default_session(tmp_path: Path) -> None:
    rows = []
    for name in ("z.wav", "z.flac"):
        audio(tmp_path / name, 2)
        rows.append({"audio": name, "segments": [SEGMENT]})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert [(k, r.session) for k, r in made.recordings.items()] == [("z", "z"), ("z_flac", "z")]


def test_spans_of_one_start_and_other_lengths_are_distinct(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 5)
    rows = [{"audio_filepath": "a.wav", "text": f"{d}", "offset": 1, "duration": d} for d in (1, 2.5)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert {k: r.duration for k, r in made.recordings.items()} == {
        "a-000001000": 1.0,
        "a_wav-000001000-2500ms": 2.5,
    }


@pytest.mark.parametrize(("end", "kind"), [(".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz")])
def test_compressed_is_read_and_a_damaged_one_is_named(tmp_path: Path, end: str, kind: str, capsys) -> None:
    audio(tmp_path / "a.wav", 2)
    compress = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[kind]
    packed = compress(json.dumps({"audio": "a.wav", "segments": [SEGMENT]}).encode())
    path = tmp_path / f"train.jsonl{end}"
    path.write_bytes(packed)
    assert list(prepare("jsonl", tmp_path, tmp_path / "out", "--name", "c")["train"].recordings) == ["a"]
    for damaged in (packed[:-6], packed[:30] + bytes(8) + packed[38:]):
        path.write_bytes(damaged)
        assert main(["prepare", "jsonl", str(tmp_path), str(tmp_path / "out")]) == 1
        assert f"train.jsonl{end}: truncated or damaged {kind} file" in capsys.readouterr().err


def test_a_manifest_streams(tmp_path: Path) -> None:
    """Memory does not grow with the file: 24 MB of rows, of which most are not of the form."""
    audio(tmp_path / "a.wav", 2)
    with (tmp_path / "m.jsonl").open("w") as file:
        file.writelines(json.dumps({"audio_filepath": "a.wav", "what": "x" * 4000}) + "\n" for _ in range(6000))
        file.write(json.dumps({"audio_filepath": "a.wav", "text": "the last"}))
    (made,) = prepare_jsonl(tmp_path / "m.jsonl", tmp_path / "out", PrepareOptions(name="c"))
    tracemalloc.start()
    try:
        assert [r.key for r in made.recordings] == ["a"]
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()


def test_speech_without_words_is_kept_where_it_is_for_enrolment(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 2.0)
    row = {"audio": "a.wav", "segments": [{"speaker": "ann", "start": 0.0, "end": 1.5, "text": ""}]}
    for name in ("voices", "read"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["prepare", "jsonl", str(tmp_path), str(tmp_path / "out"), "--untranscribed", "voices"]) == 0
    kept = [json.loads(line) for line in (tmp_path / "out" / "voices" / "recordings.jsonl").read_text().splitlines()]
    assert [len(r["segments"]) for r in kept] == [1]
    audit = json.loads((tmp_path / "out" / "read" / "audit.json").read_text())
    assert audit["skipped"]["segment without words"] == 1


def test_text_may_be_absent_where_speech_is_for_enrolment(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 2.0)
    rows = [
        {"audio": "a.wav", "segments": [{"speaker": "ann", "start": 0.0, "end": 1.5}]},
        {"audio_filepath": "a.wav", "speaker": "bob", "duration": 1.0},
    ]
    for name in ("voices", "read"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = prepare("jsonl", tmp_path, tmp_path / "out", "--untranscribed", "voices", "--name", "c")
    assert set(made["voices"].speakers) == {"c:ann", "c:bob"}
    assert made["read"].audit["skipped"] == {"invalid line": 1, "invalid segment": 1, "recording without speech": 1}


def test_own_row_without_segments_names_the_other_form(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 2.0)
    rows = [{"audio": "a.wav", "text": "hello", "speaker": "ann"}, {"audio_filepath": "a.wav", "text": "hello"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = prepare("jsonl", tmp_path, tmp_path / "out")["m"]
    assert "audio_filepath" in made.audit["examples"]["invalid line"][0]
