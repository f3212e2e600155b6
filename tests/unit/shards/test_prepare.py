"""``speakerlm-shards prepare``: errors that all corpora share."""

from pathlib import Path

import pytest

from shards.cli import main
from tests.support.corpora import audio


@pytest.mark.parametrize(("corpus", "what"), [("wenetspeech", "WenetSpeech.json"), ("librispeech", "train-clean-100")])
def test_missing_listing_or_part_is_named_in_the_error(tmp_path: Path, corpus: str, what: str, capsys) -> None:
    assert main(["prepare", corpus, str(tmp_path), str(tmp_path / "out")]) == 1
    assert what in capsys.readouterr().err


@pytest.mark.parametrize("corpus", ["alimeeting", "aishell1", "aishell2", "aishell4", "aishell5", "gigaspeech"])
def test_wrong_folder_error_names_the_expected_layout(tmp_path: Path, corpus: str, capsys) -> None:
    assert main(["prepare", corpus, str(tmp_path), str(tmp_path / "out")]) == 1
    assert "not found; expected" in capsys.readouterr().err


def test_no_usable_recording_is_an_error(tmp_path: Path, capsys) -> None:
    audio(tmp_path / "test/wav/a.flac", 2)
    (tmp_path / "test/TextGrid").mkdir()
    assert main(["prepare", "aishell4", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "no usable recording of aishell4" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["empty", "missing"])
@pytest.mark.parametrize("kind", ["jsonl", "kaldi", "transcripts", "tars", "lhotse"])
def test_empty_folder_error_names_the_expected_files(tmp_path: Path, kind: str, place: str, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["prepare", kind, str(tmp_path / place), str(tmp_path / "out")]) == 1
    found = {"empty": "not found", "missing": "no such file or folder"}
    assert f"{found[place]}; expected" in capsys.readouterr().err


def test_summary_shows_the_first_case_of_each_reason_and_turns_without_words(tmp_path: Path, capsys) -> None:
    audio(tmp_path / "a.wav", 2)
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 0.5 1.0 <NA> <NA> ann <NA> <NA>\nSPEAKER a 1\n")
    assert main(["prepare", "transcripts", str(tmp_path), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"skipped 1 × invalid line, first: {tmp_path / 'a.rttm'}:2: " in printed
    assert "no words: usable for enrolment and statistics" in printed


def test_summary_names_speakers_that_differ_in_case_only(tmp_path: Path, capsys) -> None:
    audio(tmp_path / "a.wav", 4)
    rows = "".join(f"a 1 {who} {start} {start + 1} word\n" for start, who in enumerate(("ann", "bob", "Ann")))
    (tmp_path / "a.stm").write_text(rows)
    assert main(["prepare", "transcripts", str(tmp_path), str(tmp_path / "out"), "--name", "c"]) == 0
    assert "these differ in case: c:Ann, c:ann\n" in capsys.readouterr().out
