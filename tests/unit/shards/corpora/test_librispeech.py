"""LibriSpeech in its exact layout."""

from pathlib import Path

from shards.cli import main
from tests.support.corpora import audio, librispeech, prepare


def test_librispeech(tmp_path: Path) -> None:
    librispeech(tmp_path / "in")
    made = prepare("librispeech", tmp_path / "in", tmp_path / "out")
    assert set(made) == {"dev-clean"}
    part = made["dev-clean"]
    assert part.texts("84-121123-0001") == [("librispeech:84", "IT'S PETER")]
    assert part.recordings["84-121123-0000"].session == "84-121123"
    assert part.recordings["84-121123-0000"].duration == 3.0
    assert [(s.gender, s.person) for s in part.speakers.values()] == [("f", "librispeech:84")]
    assert part.audit["skipped"] == {"text without audio": 1}  # which Lhotse's recipe only logs


def test_line_without_words_is_named_in_the_error(tmp_path: Path, capsys) -> None:
    base = librispeech(tmp_path)
    path = base / "dev-clean/84/121123/84-121123.trans.txt"
    path.write_text(path.read_text() + "84-121123-0003\n")
    assert main(["prepare", "librispeech", str(base), str(tmp_path / "out")]) == 1
    assert "trans.txt:4: 84-121123-0003 has no words" in capsys.readouterr().err


def test_linked_speaker_folder_is_read(tmp_path: Path) -> None:
    base = librispeech(tmp_path / "in")
    (base / "dev-clean/84").rename(tmp_path / "elsewhere")
    (base / "dev-clean/84").symlink_to(tmp_path / "elsewhere")
    audio(tmp_path / "elsewhere/121123/84-121123-0009.flac", 1)
    part = prepare("librispeech", tmp_path / "in", tmp_path / "out")["dev-clean"]
    assert sorted(part.recordings) == ["84-121123-0000", "84-121123-0001"]
    assert part.audit["skipped"] == {"audio without text": 1, "text without audio": 1}
