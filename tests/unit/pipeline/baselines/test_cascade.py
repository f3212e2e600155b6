"""A cascade over a test set: rows that scoring takes, resuming, shares; the packaged cascade on a real conversation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.baselines.cascade import Cascade, packed, recordings, run
from pipeline.baselines.cli import main
from pipeline.baselines.diarizers import load_diarizer
from pipeline.baselines.interfaces import DiarizedTurn, Word
from pipeline.evaluation.cli import main as score
from pipeline.evaluation.formats import read
from pipeline.evaluation.scores import score_decoded
from shards.errors import ConfigError, DataError, ScoreError
from shards.weights.package_weights import conversation
from tests.support.datasets import make_dataset
from tests.support.speech import package_cache


class Halves:
    """Says one voice in the first half and another in the second."""

    id = "halves"

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        seconds = len(wave) / 16_000
        return [DiarizedTurn("a", 0.0, seconds / 2), DiarizedTurn("b", seconds / 2, seconds)]


class Counting:
    """A word every half second; remembers in which language it was asked."""

    id = "counting"

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def words(self, wave: np.ndarray, language: str | None) -> list[Word]:
        self.asked.append(language)
        return [Word(f" w{i}", i / 2, i / 2 + 0.4) for i in range(int(len(wave) / 8_000))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "test"
    make_dataset(folder, samples=5, speakers_per_sample=(2, 3), dim=8, seed=9)
    return folder


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "no.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_are_those_of_the_decoder_with_times(dataset: Path, tmp_path: Path):
    timing = run(Cascade(Counting(), Halves()), packed(str(dataset)), tmp_path)
    assert timing.clips == 5
    found = rows(tmp_path)
    assert [r["key"] for r in found] == sorted(r["key"] for r in found)
    assert {r["mode"] for r in found} == {"no"}
    assert found[0]["raw"].startswith("spk0 [0.00, ")
    assert found[0]["raw"].count("\nspk1 [") == 1
    assert all(t["speaker"].startswith("spk") for r in found for t in r["reference"])
    (scored,) = score_decoded(tmp_path)
    assert (scored["run"], scored["stage"], scored["mode"]) == ("halves + counting", None, "no")
    assert scored["cpcer"] is not None
    assert (tmp_path / "done").exists()
    assert len({s.session for s in read(tmp_path / "seglst.json")}) == 5


def test_der_of_the_diarizer_is_scored_from_the_files_beside(dataset: Path, tmp_path: Path, capsys):
    run(Cascade(Counting(), Halves()), packed(str(dataset)), tmp_path, limit=2)
    assert score([str(tmp_path / "reference.json"), str(tmp_path / "turns.rttm")]) == 0
    assert "DER" in capsys.readouterr().out


def test_shares_and_resuming_give_the_same_rows(dataset: Path, tmp_path: Path):
    def once(out: Path, **how: int):
        return run(Cascade(Counting(), Halves()), packed(str(dataset)), out, **how)

    once(tmp_path / "one")
    assert once(tmp_path / "two", rank=1, world=2) is None
    assert once(tmp_path / "two", rank=0, world=2).clips == 5
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    stopped = Counting()
    run(Cascade(stopped, Halves()), packed(str(dataset)), tmp_path / "two")
    assert stopped.asked == []  # nothing was left to do


def test_another_cascade_is_refused(dataset: Path, tmp_path: Path):
    run(Cascade(Counting(), Halves()), packed(str(dataset)), tmp_path, limit=1)
    with pytest.raises(ScoreError, match="another weights"):
        run(Cascade(Counting(), Halves(), language="zh"), packed(str(dataset)), tmp_path, limit=1)
    with pytest.raises(ScoreError, match="another weights"):
        run(Cascade(Counting(), Halves(), details="threshold 0.5"), packed(str(dataset)), tmp_path, limit=1)


@pytest.mark.parametrize("other", [("--threshold", "0.5"), ("--speakers", "3"), ("--asr", "paraformer@b/model")])
def test_another_threshold_count_or_folder_of_weights_is_another_cascade(
    dataset: Path, tmp_path: Path, monkeypatch, capsys, other: tuple[str, str]
):
    from pipeline.baselines import diarizers, recognisers

    monkeypatch.setattr(recognisers, "load_recogniser", lambda *a: Counting())
    monkeypatch.setattr(diarizers, "load_diarizer", lambda *a: Halves())
    command = ["run", str(dataset), str(tmp_path), "--limit", "1", "--device", "cpu", "--asr", "paraformer@a/model"]
    assert main(command) == main(command) == 0
    assert main([*command, *other]) == 1
    assert "another weights" in capsys.readouterr().err


@pytest.mark.parametrize(("language", "asked"), [("auto", None), ("data", "zh"), ("fr", "fr")])
def test_the_language_that_the_recogniser_gets(dataset: Path, tmp_path: Path, language: str, asked: str | None):
    recogniser = Counting()
    run(Cascade(recogniser, Halves(), language), packed(str(dataset)), tmp_path, limit=1)
    assert recogniser.asked == [asked]


STORED = {
    "rttm": "SPEAKER {key} 0 0.0 {end} <NA> <NA> x <NA> <NA>\n",
    "json": '{{"diarization": [{{"start": 0.0, "end": {end}, "speaker": "x"}}]}}',  # pyannote's
    "txt": "0.0 {end} speaker_0\n",  # Sortformer's
}


@pytest.mark.parametrize("kind", STORED)
def test_stored_turns_of_any_diarizer_with_any_recogniser(dataset: Path, tmp_path: Path, kind: str):
    tests, folder = packed(str(dataset)), tmp_path / "stored"
    folder.mkdir()
    for key, end in zip(tests.keys, (1.0, 2.0), strict=False):
        (folder / f"{key}.{kind}").write_text(STORED[kind].format(key=key, end=end))
    diarizer = load_diarizer(f"turns@{folder}")
    run(Cascade(Counting(), diarizer), tests, tmp_path / "out", limit=2)
    found = rows(tmp_path / "out")
    assert [[t["end"] for t in r["turns"]] for r in found] == [[1.0], [2.0]]
    assert all({h["speaker"] for h in r["hypothesis"]} == {"spk0"} for r in found)
    (folder / f"{tests.keys[0]}.{kind}").write_text(STORED[kind].format(key=tests.keys[0], end=1.5))
    assert load_diarizer(f"turns@{folder}").id != diarizer.id


def test_stored_turns_that_are_not_there(tmp_path: Path, caplog):
    with pytest.raises(ConfigError, match="no such file"):
        load_diarizer(f"turns@{tmp_path / 'x.rttm'}")
    (tmp_path / "y.rttm").write_text("SPEAKER a 0 0 1 <NA> <NA> x <NA> <NA>\n")
    assert load_diarizer(f"turns@{tmp_path / 'y.rttm'}").turns(np.zeros(9), "b") == []
    assert "has no turns of b; its sessions are called like a" in caplog.text


def test_audio_files_and_a_reference_of_other_sessions(tmp_path: Path):
    known = conversation(package_cache())
    (tmp_path / "x.stm").write_text("other 1 A 0 1 hello\n")
    with pytest.raises(DataError, match="has no session of"):
        recordings([known.audio], tmp_path / "x.stm")
    with pytest.raises(ConfigError, match="would be one session: rename one"):
        recordings([known.audio, tmp_path / "sample.wav"], None)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys):
    assert main(["run", str(tmp_path / "no.wav"), str(tmp_path / "out")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["run", "a.wav", "folder", str(tmp_path / "out")]) == 1
    assert "not both" in capsys.readouterr().err
    assert main(["run", "s3://a/b", "s3://a/c", str(tmp_path / "out")]) == 1
    assert "one packed test set at a time" in capsys.readouterr().err


def test_the_packaged_cascade_on_a_real_conversation(tmp_path: Path, capsys):
    """Whisper base, Silero, CAM++: 30 s of telephone, two people who interrupt each other."""
    pytest.importorskip("faster_whisper", reason="the extra baselines is not installed")
    known = conversation(package_cache())
    command = ["run", str(known.audio), str(tmp_path), "--reference", str(known.words)]
    assert main([*command, "--cache", str(package_cache()), "--language", "en", "--device", "cpu"]) == 0
    (scored,) = score_decoded(tmp_path, normaliser="en")
    assert scored["cer"] < 35
    assert scored["cpcer"] < 45
    said = rows(tmp_path)[0]["raw"].lower()
    assert "this is diane in new jersey" in said
    assert "originally from chicago" in said
