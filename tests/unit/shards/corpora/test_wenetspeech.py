"""WenetSpeech in its exact layout: one JSON list of segments, long Opus files."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.manifests import long_audio_lists
from shards.sound.audio import load
from tests.support.corpora import audio, listing, prepare


def test_wenetspeech(tmp_path: Path) -> None:
    segments = [
        {"sid": "Y1_S1", "begin_time": 1.5, "end_time": 4.0, "text": "你 好", "subsets": ["L", "M"], "confidence": 1.0},
        {"sid": "Y1.S2", "begin_time": 5, "end_time": 7.25, "text": "再见", "subsets": ["L"], "confidence": 0.95},
        {"sid": "Y1_S3", "begin_time": 8, "end_time": 7, "text": "坏", "subsets": ["L"], "confidence": 1.0},
        {"sid": "Y1_S4", "begin_time": 9, "end_time": 10, "text": "", "subsets": ["L"], "confidence": 1.0},
        {"sid": "Y1_S5", "begin_time": 11, "end_time": 12, "text": "测", "subsets": ["DEV"], "confidence": 1.0},
    ]
    listing(tmp_path, "WenetSpeech.json", "text", segments, "L")
    made = prepare("wenetspeech", tmp_path, tmp_path / "out")
    train = made["train-l"]
    assert {k: r.segments[0].text for k, r in train.recordings.items()} == {"Y1_S1": "你好", "Y1_S2": "再见"}
    second = train.recordings["Y1_S2"]
    assert (second.start, second.duration, second.segments[0].start, second.segments[0].end) == (5, 2.25, 0, 2.25)
    assert second.session == "Y1"
    assert len(load(second.audio, start=second.start, duration=second.duration)) == 36_000
    assert [list(made[n].recordings) for n in ("train-m", "train-s", "dev")] == [["Y1_S1"], [], ["Y1_S5"]]
    assert train.audit["skipped"] == {
        "missing audio file": 1,
        "segment with reversed or empty times": 1,
        "utterance without words": 1,
    }
    assert {s.speaker for r in train.recordings.values() for s in r.segments} == {"wenetspeech:unknown"}
    assert train.speakers == {}


def test_segment_of_a_long_opus_file(tmp_path: Path) -> None:
    """The audio of these corpora is Opus: a segment in the middle of a file is read with an accuracy of 10 ms."""
    rate, seconds = 48_000, 60
    wave = np.zeros(rate * seconds)
    wave[rate * 40 : rate * 41] = 0.5 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate)  # one second of tone
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/Y1.opus", wave, rate, format="OGG", subtype="OPUS")
    segment = {"sid": "Y1_S1", "begin_time": 39.5, "end_time": 42.0, "text": "一", "subsets": ["S"]}
    entry = {"aid": "Y1", "path": "audio/Y1.opus", "duration": 60.0, "segments": [segment]}
    (tmp_path / "WenetSpeech.json").write_text(json.dumps({"audios": [entry]}))
    recording = prepare("wenetspeech", tmp_path, tmp_path / "out")["train-s"].recordings["Y1_S1"]
    heard = load(recording.audio, start=recording.start, duration=recording.duration)
    assert len(heard) == 40_000
    loud = np.flatnonzero(np.abs(heard) > 0.1)
    assert loud[0] / 16_000 == pytest.approx(0.5, abs=0.01)
    assert loud[-1] / 16_000 == pytest.approx(1.5, abs=0.01)


def test_truncated_list_is_an_error(tmp_path: Path, capsys) -> None:
    audio(tmp_path / "audio/Y1.flac", 3)
    (tmp_path / "WenetSpeech.json").write_text('{"audios": [{"aid": "Y1", "path": "audio/Y1.flac", "dur')
    assert main(["prepare", "wenetspeech", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "WenetSpeech.json: " in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/recordings.jsonl"))


@pytest.mark.parametrize("size", [1, 7, 64, 65_536])
def test_numbers_that_json_lacks_lose_their_segment_only(tmp_path: Path, monkeypatch, size: int) -> None:
    """NaN and Infinity, as Python writes them; the same letters in a text are words. Keys are at most 240 bytes."""
    audio(tmp_path / "audio/Y1.flac", 30)
    changes: list[dict[str, object]] = [{"text": float("nan")}, {"begin_time": float("-inf")}, {"sid": "x" * 241}]
    changes += [{"text": 'a": NaN, b'}, {"text": ": Infinity}"}, {"text": "NaN"}]
    segments = [
        {"sid": f"S{i}", "begin_time": i, "end_time": i + 1, "text": "x", "subsets": ["DEV"]} | changed
        for i, changed in enumerate(changes)
    ]
    entry = {"aid": "Y1", "path": "audio/Y1.flac", "duration": 30.0, "segments": segments}
    (tmp_path / "WenetSpeech.json").write_text(json.dumps({"audios": [entry | {"duration": float("inf")}, entry]}))
    monkeypatch.setattr(long_audio_lists, "BUFFER", size)
    made = prepare("wenetspeech", tmp_path, tmp_path / "out", "--text", "raw")["dev"]
    assert [made.recordings[key].segments[0].text for key in made.recordings] == [c["text"] for c in changes[3:]]
    assert made.audit["skipped"] == {
        "invalid entry": 1,
        "invalid segment": 2,
        "recording key of more than 240 bytes": 1,
    }


def test_one_bad_entry_does_not_lose_the_others(tmp_path: Path) -> None:
    audio(tmp_path / "audio/Y1.flac", 30)

    def segment(number: int, **changed: object) -> dict[str, object]:
        times = {"begin_time": number, "end_time": number + 1}
        return {"sid": f"Y1_S{number}", **times, "text": "好", "subsets": ["DEV"], "confidence": 1.0} | changed

    without = segment(1)
    del without["text"]
    bad = [without, *(segment(2 + i, text=t) for i, t in enumerate((None, ["好"], {})))]
    bad += [segment(6, begin_time=None), segment(7, end_time="soon"), segment(8, subsets=None), "segment"]
    good = {"aid": "Y1", "path": "audio/Y1.flac", "duration": 30.0, "segments": [segment(0), *bad], "mood": "calm"}
    entries = [good | {"duration": None}, good | {"path": None}, good | {"segments": None}, {"aid": "Y2"}, "Y3"]
    entries += [good | {"path": "n" * 300}, good]
    deep = json.dumps(entries)[:-1] + ", " + "[" * 2000 + "]" * 2000 + "]"
    (tmp_path / "WenetSpeech.json").write_text(f'{{"audios": {deep}}}')
    made = prepare("wenetspeech", tmp_path, tmp_path / "out")["dev"]
    assert {key: made.texts(key) for key in made.recordings} == {"Y1_S0": [("wenetspeech:unknown", "好")]}
    assert made.audit["skipped"] == {
        "invalid entry": 6,
        "invalid segment": len(bad),
        "missing audio file": 1,
        "unknown key 'mood'": 3,
    }
