"""AISHELL-2 in its exact layout."""

from pathlib import Path

from tests.support.corpora import audio, prepare


def test_aishell2(tmp_path: Path) -> None:
    ios = tmp_path / "in/AISHELL-2/iOS"
    for key in ("IC0001W0001", "IC0001W0002", "IC0002W0001", "IC0002W0009"):
        audio(ios / f"data/wav/{key[1:6]}/{key}.wav", 2)
    lines = ["IC0001W0001\t去ＡＴＭ机", "IC0001W0002\t搬不走的要及时'关停并转'", "IC0002W0001\tLet's听𫖯仰beat it"]
    (ios / "data/trans.txt").write_bytes("\r\n".join([*lines, "IC0003W0001\t没有声音", ""]).encode("utf-8-sig"))
    (ios / "data/spk_info.txt").write_text("C0001\t25\t女\t北方\nC0002\t31\t未知\t南方\n")
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
    assert [s.gender for _, s in sorted(train.speakers.items())] == ["f", None]
    assert train.recordings["IC0001W0001"].segments[0].end == 2.0
    assert train.audit["skipped"] == {"audio without text": 1, "text without audio": 1}


def test_linked_speaker_folder_is_read(tmp_path: Path) -> None:
    audio(tmp_path / "pool/C0001/IC0001W0001.wav", 1)
    (tmp_path / "in/data/wav").mkdir(parents=True)
    (tmp_path / "in/data/wav/C0001").symlink_to(tmp_path / "pool/C0001")
    (tmp_path / "in/data/trans.txt").write_text("IC0001W0001 你好\n")
    made = prepare("aishell2", tmp_path / "in", tmp_path / "out")["train"]
    assert made.texts("IC0001W0001") == [("aishell2:C0001", "你好")]
    assert made.audit["skipped"] == {}
