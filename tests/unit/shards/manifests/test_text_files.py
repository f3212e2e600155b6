"""Text files of corpora: encodings, tables."""

import codecs
from pathlib import Path

import pytest

from shards.errors import ManifestError
from shards.manifests.text_files import read_table, read_text


def test_read_table(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(codecs.BOM_UTF16_LE + "a\t一 二 \r\n\r\nb\r\na 一 二\n".encode("utf-16-le"))
    assert read_text(tmp_path / "t").startswith("a\t")
    assert read_table(tmp_path / "t") == {"a": "一 二", "b": ""}
    (tmp_path / "t").write_text("a 1\na 2\n")
    with pytest.raises(ManifestError, match=r"t:2: a occurs twice"):
        read_table(tmp_path / "t")
