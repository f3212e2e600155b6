"""Files behind links, and loops of links."""

import os
from pathlib import Path

import pytest

from shards.errors import DataError
from shards.storage.folders import files_below


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_links_to_folders_are_followed_and_a_folder_is_listed_once(tmp_path: Path) -> None:
    pool, root = tmp_path / "pool", tmp_path / "root"
    touch(pool / "s1/a.wav")
    touch(pool / "s1/deep/b.wav")
    touch(root / "z/c.wav")
    (root / "linked").symlink_to(pool)
    (root / "again").symlink_to(pool / "s1")  # visited before `linked`, which contains it
    (root / "a").symlink_to(root / "z")  # its own path is listed
    (root / "d.wav").symlink_to(pool / "s1/a.wav")  # a link to a file has a name of its own
    (root / "gone").symlink_to(tmp_path / "nowhere")
    found = [p.relative_to(root).as_posix() for p in files_below(root)]
    assert found == ["again/a.wav", "again/deep/b.wav", "d.wav", "gone", "z/c.wav"]
    (tmp_path / "here").symlink_to(root)
    assert [p.relative_to(tmp_path / "here").as_posix() for p in files_below(tmp_path / "here")] == found


@pytest.mark.parametrize("target", [".", "..", "../..", "deep"])
def test_a_loop_of_links_is_refused(tmp_path: Path, target: str) -> None:
    touch(tmp_path / "root/deep/a.wav")
    if target == "deep":  # through a folder elsewhere
        (tmp_path / "root/deep/out").symlink_to(tmp_path / "elsewhere")
        touch(tmp_path / "elsewhere/b.wav")
        (tmp_path / "elsewhere/back").symlink_to(tmp_path / "root/deep")
    else:
        (tmp_path / "root/deep/loop").symlink_to(target)
    with pytest.raises(DataError, match=r"(loop|back): a link to .*, a folder that contains it; remove the link"):
        files_below(tmp_path / "root")


def test_there_may_be_nothing(tmp_path: Path) -> None:
    assert files_below(tmp_path) == files_below(tmp_path / "missing") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match="closed: Permission denied"):
        files_below(tmp_path)
