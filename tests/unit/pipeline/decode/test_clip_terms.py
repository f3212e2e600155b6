"""Terms of single clips: files, the limit, keys that a test set lacks, and what identifies them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline.decode.clip_terms import ClipTerms
from pipeline.decode.context_line import MOST
from shards.errors import ConfigError


def rows(path: Path, **terms: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"key": k, "terms": t}) for k, t in terms.items()) + "\n\n")
    return path


def test_a_clip_has_its_own_terms_before_those_of_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = ClipTerms.read(["GPU", "Zoe Li"], rows(tmp_path / "a.jsonl", a=["Zoe  Li", "张三"], b=[]))
    assert (found.of("a"), found.of("b"), found.of("other")) == (("Zoe Li", "张三", "GPU"), *[("GPU", "Zoe Li")] * 2)
    caplog.set_level(logging.INFO)
    found.check(["a", "b", "c"], "test")
    assert "2 of 3 clips have terms of their own, 2 in all" in caplog.text
    assert not ClipTerms.read([], None)
    assert ClipTerms.read([], None).of("a") == ()


def test_a_table_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("b\t\na\tZoe Li, 张三\n", encoding="utf-8-sig")
    table = ClipTerms.read([], tmp_path / "a.tsv")
    lines = ClipTerms.read([], rows(tmp_path / "a.jsonl", a=["Zoe Li", "张三"], b=[]))
    assert table == lines
    assert table.described() == lines.described()
    assert table.described().keys() == {"clips", "sha256"}
    other = ClipTerms.read([], rows(tmp_path / "b.jsonl", a=["张三", "Zoe Li"], b=[]))
    assert other.described() != table.described()
    assert (ClipTerms(("x",)).described(), ClipTerms(("x",)).label) == ({}, " (with context)")
    assert (ClipTerms().label, table.label) == ("", " (with context per clip)")


def test_keys_that_the_test_set_lacks_are_counted(tmp_path: Path) -> None:
    found = ClipTerms.read([], rows(tmp_path / "a.jsonl", **{f"k{i}": ["x"] for i in range(9)}))
    with pytest.raises(ConfigError, match="7 of 9 keys are not in s3://b/test: k2, k3, k4, k5, k6 and 2 more"):
        found.check(["k0", "k1", "k11"], "s3://b/test")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"key": "a", "terms": ["x"]}\n{"key": "a", "terms": []}', "line 2 names 'a' again"),
        ("a.jsonl", '{"key": "a", "terms": "x"}', "line 1 gives no clip and its terms .*a list 'terms'"),
        ("a.jsonl", '{"key": "a"}', "line 1 gives no clip"),
        ("a.jsonl", "[]", "line 1 gives no clip"),
        ("a.jsonl", "{", "line 1 gives no clip"),
        ("a.jsonl", '{"key": "a", "terms": ["bell \\u0007"]}', "not printable"),
        ("a.jsonl", "\n", "names no clip"),
        ("a.tsv", "a x, y", "expected KEY, a tabulator"),
        ("a.tsv", "a\t" + "word " * 20, "line 1 .*commas between them"),
        ("a.txt", "a\tx", r"expected a file \.jsonl or \.tsv"),
    ],
)
def test_damaged_files_are_refused_with_the_line(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"--clip-context .*{says}"):
        ClipTerms.read([], tmp_path / name)


def test_the_limit_holds_for_both_together(tmp_path: Path) -> None:
    many = [f"t{i}" for i in range(MOST)]
    path = rows(tmp_path / "a.jsonl", a=many)
    assert len(ClipTerms.read(many[:3], path).of("a")) == MOST
    with pytest.raises(ConfigError, match=rf"line 1, 'a': the context has {MOST + 1} terms"):
        ClipTerms.read(["new"], path)
    with pytest.raises(ConfigError, match="No such file"):
        ClipTerms.read([], tmp_path / "missing.tsv")
