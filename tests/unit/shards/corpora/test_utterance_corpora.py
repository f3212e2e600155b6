"""AISHELL-1, AISHELL-2, LibriSpeech, WenetSpeech and GigaSpeech in their exact layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.sound.audio import load
from tests.support.corpora import audio, prepare


def test_aishell2(tmp_path: Path) -> None:
    ios = tmp_path / "in/AISHELL-2/iOS"
    for key in ("IC0001W0001", "IC0001W0002", "IC0002W0001", "IC0002W0009"):
        audio(ios / f"data/wav/{key[1:6]}/{key}.wav", 2)
    lines = ["IC0001W0001\t去ＡＴＭ机", "IC0001W0002\t搬不走的要及时'关停并转'", "IC0002W0001\tLet's听𫖯仰beat it"]
    (ios / "data/trans.txt").write_bytes("\r\n".join([*lines, "IC0003W0001\t没有声音", ""]).encode("utf-8-sig"))
    audio(ios / "dev/wav/D0001/ID0001W0001.wav", 1)
    (ios / "dev/trans.txt").write_text("ID0001W0001\t一\n")
    made = prepare("aishell2", tmp_path / "in", tmp_path / "out")
    assert set(made) == {"train", "dev"}
    train = made["train"]
    assert {k: r.segments[0].text for k, r in train.recordings.items()} == {
        "IC0001W0001": "去ATM机",
        "IC0001W0002": "搬不走的要及时关停并转",
        "IC0002W0001": "LET'S听頫仰BEAT IT",
    }
    assert sorted(train.speakers) == ["aishell2:C0001", "aishell2:C0002"]
    assert train.recordings["IC0001W0001"].segments[0].end == 2.0
    assert train.audit["skipped"] == {"audio without a text": 1, "text without audio": 1}


def test_aishell1(tmp_path: Path) -> None:
    base = tmp_path / "in/data_aishell"
    audio(base / "wav/train/S0002/BAC009S0002W0122.wav", 1)
    audio(base / "wav/train/S0002/BAC009S0002W0123.wav", 1)
    audio(base / "wav/test/S0764/BAC009S0764W0121.wav", 1)
    (base / "transcript").mkdir()
    texts = "BAC009S0002W0122 而 对 楼市 成交\nBAC009S0764W0121 甚至 出现\n"
    (base / "transcript/aishell_transcript_v0.8.txt").write_text(texts)
    made = prepare("aishell1", tmp_path / "in", tmp_path / "out")
    assert made["train"].texts("BAC009S0002W0122") == [("aishell1:S0002", "而对楼市成交")]
    assert made["train"].audit["skipped"] == {"audio without a text": 1}
    assert list(made["test"].recordings) == ["BAC009S0764W0121"]


def librispeech(root: Path) -> Path:
    base = root / "LibriSpeech"
    for key in ("84-121123-0000", "84-121123-0001"):
        audio(base / f"dev-clean/84/121123/{key}.flac", 3)
    lines = ["84-121123-0000 GO DO YOU HEAR", "84-121123-0001 IT'S PETER", "84-121123-0002 NOT THERE"]
    (base / "dev-clean/84/121123/84-121123.trans.txt").write_text("\n".join(lines) + "\n")
    (base / "SPEAKERS.TXT").write_text(";ID | SEX\n84   | F | dev-clean        | 8.02  | Christie Nowak\n")
    return base


def test_librispeech_by_lhotse(tmp_path: Path) -> None:
    librispeech(tmp_path / "in")
    made = prepare("librispeech", tmp_path / "in", tmp_path / "out")
    assert set(made) == {"dev-clean"}
    part = made["dev-clean"]
    assert part.texts("84-121123-0001") == [("librispeech:84", "IT'S PETER")]
    assert part.recordings["84-121123-0000"].session == "84-121123"
    assert part.recordings["84-121123-0000"].duration == 3.0
    assert [(s.gender, s.person) for s in part.speakers.values()] == [("f", "librispeech:84")]
    assert part.audit["skipped"] == {"text without audio": 1}  # Lhotse's recipe logs it and goes on


def test_librispeech_names_the_line_that_would_stop_the_recipe(tmp_path: Path, capsys) -> None:
    base = librispeech(tmp_path)
    path = base / "dev-clean/84/121123/84-121123.trans.txt"
    path.write_text(path.read_text() + "84-121123-0003\n")
    assert main(["prepare", "librispeech", str(base), str(tmp_path / "out")]) == 1
    assert "trans.txt:4: 84-121123-0003 has no words" in capsys.readouterr().err


def listing(root: Path, name: str, field: str, segments: list[dict[str, object]], subset: str) -> None:
    """A list of one long file that is there and one that is not."""
    audio(root / "audio/train/Y1.flac", 30)
    entries = [
        {"aid": "Y1", "path": "audio/train/Y1.flac", "duration": 30.0, "segments": segments, "md5": "x"},
        {
            "aid": "Y2",
            "path": "audio/train/Y2.opus",
            "duration": 9.0,
            "segments": [{"sid": "Y2_1", "begin_time": 0, "end_time": 2, field: "一", "subsets": [subset]}],
        },
    ]
    (root / name).write_text(json.dumps({"dataset": "x", "audios": entries}, ensure_ascii=False))


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
        "long file that is not there": 1,
        "segment with reversed or empty times": 1,
        "utterance without words": 1,
    }
    assert {s.speaker for r in train.recordings.values() for s in r.segments} == {"wenetspeech:unknown"}
    assert train.speakers == {}


def test_a_stretch_of_a_long_opus_file(tmp_path: Path) -> None:
    """The audio of these corpora is Opus: a segment in the middle of a file is read where it is, to 10 ms."""
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


def test_gigaspeech(tmp_path: Path) -> None:
    def segment(number: int, text: str) -> dict[str, object]:
        times = {"begin_time": 2.0 * number, "end_time": 2.0 * number + 1}
        return {"sid": f"POD_{number}", **times, "text_tn": text, "subsets": ["{XL}", "{XS}"]}

    texts = ["HELLO <COMMA> IT'S ME <PERIOD>", "<MUSIC>", "WHO <QUESTIONMARK> I <EXCLAMATIONPOINT>", "<SIL>"]
    listing(tmp_path, "GigaSpeech.json", "text_tn", [segment(i, t) for i, t in enumerate(texts)], "{XL}")
    for policy, expected in (("plain", ["HELLO IT'S ME", "WHO I"]), ("raw", ["HELLO, IT'S ME.", "WHO? I!"])):
        made = prepare("gigaspeech", tmp_path, tmp_path / policy, "--text", policy)
        assert [r.segments[0].text for r in made["train-xl"].recordings.values()] == expected
        assert made["train-xl"].audit["skipped"]["utterance without words"] == 2
        assert made["train-xl"].audit["text"]["with_punctuation"] == (2 if policy == "raw" else 0)


def test_a_list_that_is_cut_off_is_an_error(tmp_path: Path, capsys) -> None:
    audio(tmp_path / "audio/Y1.flac", 3)
    (tmp_path / "WenetSpeech.json").write_text('{"audios": [{"aid": "Y1", "path": "audio/Y1.flac", "dur')
    assert main(["prepare", "wenetspeech", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "WenetSpeech.json: " in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/recordings.jsonl"))


@pytest.mark.parametrize(("corpus", "what"), [("wenetspeech", "WenetSpeech.json"), ("librispeech", "train-clean-100")])
def test_what_is_expected_is_named(tmp_path: Path, corpus: str, what: str, capsys) -> None:
    assert main(["prepare", corpus, str(tmp_path), str(tmp_path / "out")]) == 1
    assert what in capsys.readouterr().err
