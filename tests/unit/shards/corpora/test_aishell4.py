"""AISHELL-4 in its exact layout, with the faults that are known of it."""

from pathlib import Path

from tests.support.corpora import audio, grid, prepare


def test_aishell4(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for part, stem in (
        ("train_L", "20200706_L_R001S01C01"),
        ("train_M", "20200622_M_R002S07C01"),
        ("test", "L_R003S01C02"),
    ):
        audio(root / part / "wav" / f"{stem}.flac", 12, channels=8)
    audio(root / "train_L/wav/20200706_L_R001S01C01.1channel.wav", 12)
    tiers = {"1": [(0, 3, "我\r\n们"), (3, 4, "")], "2": [(2, 5, "ATM\r\n机")], "overlap": [(2, 3, "x")]}
    grid(root / "train_L/TextGrid/20200706_L_R001S01C01.TextGrid", tiers, 12)
    (root / "train_L/TextGrid/20200706_L_R001S01C01.rttm").write_text("SPEAKER x 1 0 3 <NA> <NA> 1 <NA> <NA>\n")
    # The two sessions known as broken have reversed intervals: the rest of their words is used.
    grid(root / "train_M/TextGrid/20200622_M_R002S07C01.TextGrid", {"1": [(5, 4.5, "坏"), (6, 7, "好")]}, 12)
    grid(root / "test/TextGrid/L_R003S01C02.TextGrid", {"1": [(1, 2, "测试")]}, 12)
    made = prepare("aishell4", root, tmp_path / "out")
    assert set(made) == {"train", "test"}
    train = made["train"]
    key = "20200706_L_R001S01C01"
    assert train.texts(key) == [(f"aishell4:{key}:1", "我们"), (f"aishell4:{key}:2", "ATM机")]
    assert train.texts("20200622_M_R002S07C01") == [("aishell4:20200622_M_R002S07C01:1", "好")]
    assert len(train.speakers) == 3  # "1" of two meetings is two ids …
    assert all(s.person is None for s in train.speakers.values())  # … of unknown persons
    assert all(r.channel == 0 for r in train.recordings.values())
    assert train.audit["skipped"] == {
        "one-channel copy of a recording": 1,
        "segment with reversed or empty times": 1,
        "non-speaker tier": 1,
    }
    assert list(made["test"].recordings) == ["L_R003S01C02"]


def test_thirty_speakers_and_an_unreadable_audio_file(tmp_path: Path) -> None:
    root = tmp_path / "in"
    audio(root / "test/wav/L_R003S01C02.flac", 40, channels=2)
    tiers = {str(i): [(i, i + 1.5, f"话{i}")] for i in range(30)}
    grid(root / "test/TextGrid/L_R003S01C02.TextGrid", tiers, 40)
    (root / "test/wav/S_bad.flac").write_bytes(b"not audio")
    grid(root / "test/TextGrid/S_bad.TextGrid", {"1": [(0, 1, "x")]}, 40)
    made = prepare("aishell4", root, tmp_path / "out")["test"]
    assert made.audit["num_speakers"] == len(made.speakers) == 30
    assert made.audit["skipped"] == {"recording with unreadable audio": 1}


def test_textgrids_without_audio_are_counted(tmp_path: Path) -> None:
    """Partially unpacked archives."""
    grid(tmp_path / "train_L/TextGrid/a.TextGrid", {"1": [(0, 1, "好")]}, 5)
    audio(tmp_path / "test/wav/b.wav", 5)
    grid(tmp_path / "test/TextGrid/b.TextGrid", {"1": [(0, 1, "好")]}, 5)
    made = prepare("aishell4", tmp_path, tmp_path / "out")
    assert list(made["test"].recordings) == ["b"]
    assert made["train"].audit["skipped"] == {"TextGrid without audio": 1}


def test_names_that_end_with_a_gender_give_it(tmp_path: Path) -> None:
    audio(tmp_path / "test/wav/b.wav", 5)
    tiers = {"001-M": [(0, 1, "好")], "002-F": [(1, 2, "对")], "3": [(2, 3, "嗯")], "TEAM": [(3, 4, "啊")]}
    grid(tmp_path / "test/TextGrid/b.TextGrid", tiers, 5)
    made = prepare("aishell4", tmp_path, tmp_path / "out")["test"]
    assert [made.speakers[f"aishell4:b:{name}"].gender for name in tiers] == ["m", "f", None, None]
