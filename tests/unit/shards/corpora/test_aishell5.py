"""AISHELL-5 in its exact layout."""

from pathlib import Path

from tests.support.corpora import audio, grid, prepare


def test_aishell5(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("DA01", "DA02", "DX01C01", "DX02C01", "DX04C01", "DX05C01", "DX06C01"):
        audio(root / f"train/003/{name}.wav", 8)
    grid(root / "train/003/DA01.TextGrid", {"DA01": [(1, 3, "\ufeff打开空调")]}, 8, "utf-8-sig")
    grid(root / "train/003/DA02.TextGrid", {"DA02": [(2, 4, "好")]}, 8)
    audio(root / "Eval2/003/DX02C01.wav", 8)
    grid(root / "Eval2/003/DA01.TextGrid", {"a": [(0, 1, "一")]}, 8)
    grid(root / "Eval2/003/DA04.TextGrid", {"b": [(1, 2, "二")]}, 8)
    made = prepare("aishell5", root, tmp_path / "out")
    assert set(made) == {"train-far", "train-near", "eval2-far"}
    far = made["train-far"]
    assert far.texts("train-003-DX01C01") == [
        ("aishell5:train-003:DA01", "打开空调"),
        ("aishell5:train-003:DA02", "好"),
    ]
    assert far.audit["skipped"] == {"echo reference of the car stereo": 2}
    assert sorted(made["train-near"].recordings) == ["train-003-DA01", "train-003-DA02"]
    assert made["train-near"].recordings["train-003-DA01"].session == "train-003"
    # Without the first microphone the next one is used; session 003 of another archive is a different session.
    assert made["eval2-far"].texts("eval2-003-DX02C01") == [
        ("aishell5:eval2-003:DA01", "一"),
        ("aishell5:eval2-003:DA04", "二"),
    ]
