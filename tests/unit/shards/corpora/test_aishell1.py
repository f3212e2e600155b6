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
    (tmp_path / "in/resource_aishell").mkdir()
    (tmp_path / "in/resource_aishell/speaker.info").write_text("0002 F\n0764 M\n0901 M\n")
    made = prepare("aishell1", tmp_path / "in", tmp_path / "out")
    assert made["train"].texts("BAC009S0002W0122") == [("aishell1:S0002", "而对楼市成交")]
    assert made["train"].audit["skipped"] == {"audio without text": 1}
    assert made["train"].speakers["aishell1:S0002"].gender == "f"
    assert made["test"].speakers["aishell1:S0764"].gender == "m"
    assert list(made["test"].recordings) == ["BAC009S0764W0121"]
