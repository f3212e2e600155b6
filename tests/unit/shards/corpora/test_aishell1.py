"""AISHELL-1 in its exact layout."""

from pathlib import Path

from tests.support.corpora import audio, prepare


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
    assert made["train"].audit["skipped"] == {"audio without text": 1}
    assert list(made["test"].recordings) == ["BAC009S0764W0121"]
